//! [`Postgres`], a store in PostgreSQL.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Connection, Error, Row};

use super::super::error::BackendError;
use super::super::link::{self, Link};
use super::super::lock_backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use super::super::store_clock::{ATTEMPTS, StoreClock};
use super::super::waiters::{Waiter, Waiters};
use super::server::{self, Connect, Server};
use super::session::{Parameter, Session};
use super::statements::{self, Statements, TOKENS};
use crate::debug::impl_debug;
use crate::random;
use crate::sync::{Mutex, lock};

/// Keeps locks in a table of PostgreSQL, version 12 or newer.
///
/// Each process has one connection, which is reopened after it breaks. A lock is a row, which is deleted when the lock
/// is released. Other owners may take the row once its lease has ended by the server's clock. Fencing tokens come from
/// a sequence.
///
/// ```no_run
/// use onelane::backend::{LockDomain, Postgres};
/// use tokio_postgres::NoTls;
///
/// static LOCKS: LockDomain = LockDomain::new("shop");
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let connect = || tokio_postgres::connect("host=localhost user=shop", NoTls);
/// LOCKS.connect(Postgres::new(connect)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # The table
///
/// The first connection creates the table and the sequence if the role is allowed to. Otherwise, create them
/// beforehand, and grant the role `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the table and `USAGE` on the sequence.
/// The sequence starts with the time in microseconds, so that tokens grow even if the sequence is dropped:
///
/// ```sql
/// CREATE TABLE onelane_locks (
///     domain text COLLATE "C" NOT NULL,
///     guard text COLLATE "C" NOT NULL,
///     key text COLLATE "C" NOT NULL,
///     owner text NOT NULL,
///     fence int8 NOT NULL,
///     expires_at timestamptz NOT NULL,
///     waiters int8[],
///     PRIMARY KEY (domain, guard, key)
/// ) WITH (fillfactor = 50);
/// DO $$ BEGIN
///     EXECUTE 'CREATE SEQUENCE onelane_locks_fence START WITH '
///         || (extract(epoch FROM clock_timestamp()) * 1000000)::int8;
/// END $$;
/// ```
///
/// # Poolers
///
/// The store works through PgBouncer in transaction mode: each call is one statement, without a name and without state
/// in the session. The server plans each statement again, which takes longer than its execution. Notifications need a
/// session, so [`listen`](Self::listen) does not work there.
pub struct Postgres {
    connect: Arc<Connect>,
    lease: Duration,
    table: String,
    listens: bool,
    /// `None` before the store is connected.
    connected: Mutex<Option<Arc<Connected>>>,
}

struct Connected {
    domain: String,
    link: Link<Server>,
    waiters: Arc<Waiters>,
    clock: StoreClock,
    lease: Duration,
    /// Identifies this process among those that wait.
    process: i64,
}

/// How long the notification that a new store sends to itself may take.
const FIRST_NOTIFICATION: Duration = Duration::from_secs(2);

/// How often a waiting caller records that it waits. The record is lost when the lock gets a new owner.
const MARK: Duration = Duration::from_secs(1);

impl Postgres {
    /// Creates a store that opens its connections with a closure, which chooses the server, user, password and TLS. The
    /// store drives the connections.
    ///
    /// The closure is called for each connection, so it clones the settings that it captures:
    ///
    /// ```no_run
    /// # use onelane::backend::Postgres;
    /// # use tokio_postgres::{Config, NoTls};
    /// # fn store() -> Result<Postgres, Box<dyn std::error::Error>> {
    /// let settings: Config = std::env::var("DATABASE_URL")?.parse()?;
    /// let store = Postgres::new(move || {
    ///     let settings = settings.clone();
    ///     async move { settings.connect(NoTls).await }
    /// });
    /// # Ok(store)
    /// # }
    /// ```
    pub fn new<C, F, S, T>(connect: C) -> Self
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(Client, Connection<S, T>), Error>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connect = move |waiters: Arc<Waiters>| -> Pin<Box<dyn Future<Output = Result<Client, Error>> + Send>> {
            let connecting = connect();
            Box::pin(async move {
                let (client, connection) = connecting.await?;
                tokio::spawn(server::drive(connection, waiters));
                Ok(client)
            })
        };
        Self {
            connect: Arc::new(connect),
            lease: Duration::from_secs(10),
            table: "onelane_locks".to_owned(),
            listens: false,
            connected: Mutex::new(None),
        }
    }

    /// Sets how long a lock outlasts a process that ends without releasing the lock. The default is 10 seconds.
    ///
    /// A call to the server may take up to a quarter of this time, and at most a second. Connecting may take up to 5
    /// seconds.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets the name of the table, with or without a schema: `locks`, `shop.locks`. The default is `onelane_locks`. The
    /// name of the sequence is the name of the table followed by `_fence`.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// Wakes callers that wait with `LISTEN` and `NOTIFY`. Without notifications, callers check from time to time, at
    /// first after 5 ms, later every 250 ms, so a busy process may keep a lock for several turns before another process
    /// finds the lock free.
    ///
    /// A release sends a notification only if a caller waits. All processes need the same setting, and their own
    /// connection to the server: a pooler that gives each transaction another connection loses notifications, and the
    /// store then refuses to connect.
    ///
    /// With this setting, the store also prepares its statements, so that the server does not plan each of them again.
    #[must_use]
    pub fn listen(mut self) -> Self {
        self.listens = true;
        self
    }

    fn connected(&self) -> Result<Arc<Connected>, BackendError> {
        lock(&self.connected).clone().ok_or_else(|| BackendError::new("the store is not connected: call connect first"))
    }
}

impl LockBackend for Postgres {
    fn connect<'a>(&'a self, domain: &'a str) -> BackendFuture<'a, ()> {
        Box::pin(async move {
            let waiters = Arc::new(Waiters::default());
            let server = Server {
                connect: Arc::clone(&self.connect),
                statements: Statements::new(&self.table),
                listens: self.listens,
                waiters: Arc::clone(&waiters),
            };
            let link = Link::new(server, link::call_limit(self.lease));
            let (domain, clock, process) =
                (statements::text(domain), StoreClock::default(), random::bits().cast_signed());
            let connected = Connected { domain, link, waiters, clock, lease: self.lease, process };
            // The first connection may take longer than a call.
            connected.link.connection().await?;
            connected.try_all().await?;
            let replaced = lock(&self.connected).replace(Arc::new(connected));
            drop(replaced);
            Ok(())
        })
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        Box::pin(async move { self.connected()?.check().await })
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    fn try_acquire<'a>(&'a self, name: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        Box::pin(async move { self.connected()?.try_acquire(name, owner, tokens).await })
    }

    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>> {
        Box::pin(async move { self.connected()?.renew(leases).await })
    }

    fn release<'a>(&'a self, lease: &'a LeaseId) -> BackendFuture<'a, Released> {
        Box::pin(async move { self.connected()?.release(lease).await })
    }

    fn released<'a>(&'a self, name: &'a LockName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            if let Ok(connected) = self.connected() {
                connected.released(name).await;
            }
        })
    }
}

impl Connected {
    async fn try_acquire(&self, name: &LockName, owner: Owner, tokens: u32) -> Result<Attempt, BackendError> {
        if tokens > TOKENS {
            return Err(BackendError::new(format!("a cohort has at most {TOKENS} callers here: set a smaller one")));
        }
        let (guard, key) = (statements::text(name.guard()), statements::key(name));
        let (owner, lease, tokens) = (owner.to_string(), self.lease_millis(), i64::from(TOKENS));
        for _ in 0..ATTEMPTS {
            let gives_up_at = Instant::now() + link::call_limit(self.lease);
            let deadline = self.clock.at(gives_up_at).map_or(f64::INFINITY, |time| time.as_secs_f64());
            let parameters: [Parameter<'_>; 7] = [
                (&self.domain, Type::TEXT),
                (&guard, Type::TEXT),
                (&key, Type::TEXT),
                (&owner, Type::TEXT),
                (&lease, Type::FLOAT8),
                (&tokens, Type::INT8),
                (&deadline, Type::FLOAT8),
            ];
            let rows = self.query(&self.statements().acquire, &parameters).await?;
            let Some(row) = rows.first() else { break };
            let now: f64 = row.get("now");
            self.clock.set(Duration::try_from_secs_f64(now).unwrap_or_default());
            if let Some(fence) = row.get::<_, Option<i64>>("fence") {
                return Ok(Attempt::Acquired { fence: fence.unsigned_abs() });
            }
            let expires_in: Option<f64> = row.get("expires_in");
            // Otherwise, the server refused the attempt as too late. The clock is now set, and the attempt is repeated.
            if expires_in.is_some() || now <= deadline {
                let expires_in = expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                return Ok(Attempt::Held { expires_in });
            }
        }
        Err(BackendError::new("the attempt was too late, by the clock of PostgreSQL: check its load and the network"))
    }

    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<bool>, BackendError> {
        let guards: Vec<_> = leases.iter().map(|lease| statements::text(lease.lock.guard())).collect();
        let keys: Vec<_> = leases.iter().map(|lease| statements::key(&lease.lock)).collect();
        let owners: Vec<_> = leases.iter().map(|lease| lease.owner.to_string()).collect();
        let fences: Vec<_> = leases.iter().map(statements::fence).collect();
        let lease = self.lease_millis();
        let parameters: [Parameter<'_>; 6] = [
            (&self.domain, Type::TEXT),
            (&guards, Type::TEXT_ARRAY),
            (&keys, Type::TEXT_ARRAY),
            (&owners, Type::TEXT_ARRAY),
            (&fences, Type::INT8_ARRAY),
            (&lease, Type::FLOAT8),
        ];
        let rows = self.query(&self.statements().renew, &parameters).await?;
        let mut held = vec![false; leases.len()];
        for row in rows {
            let position = usize::try_from(row.get::<_, i64>("position")).unwrap_or_default();
            if let Some(is_held) = held.get_mut(position.wrapping_sub(1)) {
                *is_held = true;
            }
        }
        Ok(held)
    }

    async fn release(&self, lease: &LeaseId) -> Result<Released, BackendError> {
        let (guard, key) = (statements::text(lease.lock.guard()), statements::key(&lease.lock));
        let (owner, fence) = (lease.owner.to_string(), statements::fence(lease));
        let channel = self.link.connector().listens.then(|| self.statements().channel.clone());
        let payload = statements::payload(&self.domain, &lease.lock);
        let parameters: [Parameter<'_>; 7] = [
            (&self.domain, Type::TEXT),
            (&guard, Type::TEXT),
            (&key, Type::TEXT),
            (&owner, Type::TEXT),
            (&fence, Type::INT8),
            (&channel, Type::TEXT),
            (&payload, Type::TEXT),
        ];
        let rows = self.query(&self.statements().release, &parameters).await?;
        let waiting = rows.first().map_or(0, |row| row.get::<_, i32>("waiting"));
        Ok(Released { waiting: waiting.try_into().unwrap_or_default() })
    }

    /// Waits for a notification. Before that, records in the lock that a caller waits, so that the record precedes an
    /// attempt that follows.
    async fn released(&self, name: &LockName) {
        let waiting = Waiting { waiter: self.waiters.add(statements::payload(&self.domain, name)), connected: self };
        let mut released = pin!(waiting.waiter.released.notified());
        released.as_mut().enable();
        let (guard, key) = (statements::text(name.guard()), statements::key(name));
        let parameters: [Parameter<'_>; 4] =
            [(&self.domain, Type::TEXT), (&guard, Type::TEXT), (&key, Type::TEXT), (&self.process, Type::INT8)];
        loop {
            // If the query fails, callers still check from time to time.
            let _ = self.query(&self.statements().mark, &parameters).await;
            if timeout(MARK, released.as_mut()).await.is_ok() {
                return;
            }
        }
    }

    async fn check(&self) -> Result<(), BackendError> {
        let rows = self.query("SELECT pg_is_in_recovery()", &[]).await?;
        if rows.first().is_some_and(|row| row.get(0)) {
            return Err(BackendError::new(server::READ_ONLY));
        }
        Ok(())
    }

    /// Checks that the role has all rights that locks need.
    async fn try_all(&self) -> Result<(), BackendError> {
        let owner = Owner::random();
        let name = LockName::new("", Some(&owner.to_string()));
        // This check comes first, because prepared statements fail behind a pooler.
        if self.link.connector().listens {
            self.try_notification(&name).await?;
        }
        let Attempt::Acquired { fence } = self.try_acquire(&name, owner, 1).await? else {
            return Err(BackendError::new("a lock with a random name is held"));
        };
        let lease = LeaseId::new(name, owner, Some(fence));
        let renewed = self.renew(std::slice::from_ref(&lease)).await;
        self.release(&lease).await?;
        renewed.map(drop)
    }

    /// Checks that notifications arrive. The check sends them over another connection, because a pooler may deliver
    /// notifications to the connection that sent them.
    async fn try_notification(&self, name: &LockName) -> Result<(), BackendError> {
        let waiting = Waiting { waiter: self.waiters.add(statements::payload(&self.domain, name)), connected: self };
        let mut notified = pin!(waiting.waiter.released.notified());
        notified.as_mut().enable();
        let parameters: [Parameter<'_>; 2] =
            [(&self.statements().channel, Type::TEXT), (&waiting.waiter.channel, Type::TEXT)];
        let server = self.link.connector();
        let explain = |error| server.explain(error).error;
        let other = (server.connect)(Arc::default()).await.map_err(explain)?;
        other.query_typed("SELECT pg_notify($1, $2)", &parameters).await.map_err(explain)?;
        timeout(FIRST_NOTIFICATION, notified).await.map_err(|_| {
            BackendError::new(
                "PostgreSQL's notifications do not arrive: connect without a pooler such as PgBouncer, or leave out \
                 listen()",
            )
        })
    }

    async fn query(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, BackendError> {
        let query = |session: Arc<Session>| async move {
            let rows = session.query(statement, parameters).await;
            rows.map_err(|error| self.link.connector().explain(error))
        };
        self.link.call(query).await.map_err(|failure| failure.error)
    }

    fn statements(&self) -> &Statements {
        &self.link.connector().statements
    }

    fn lease_millis(&self) -> f64 {
        self.lease.as_secs_f64() * 1e3
    }
}

/// A caller that waits for a release. Dropping it ends the wait.
struct Waiting<'a> {
    waiter: Waiter,
    connected: &'a Connected,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waiter.leave();
        self.connected.waiters.remove_unused(&self.waiter.channel);
    }
}

impl_debug!(Postgres |this| { lease: this.lease, table: this.table, is_connected: lock(&this.connected).is_some(), .. });
