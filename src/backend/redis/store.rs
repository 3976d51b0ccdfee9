//! [`Redis`], a store in Redis or Valkey.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Client;
use redis::sentinel::SentinelClient;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::error::BackendError;
use super::super::link;
use super::super::lock_backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use super::super::store_clock::ATTEMPTS;
use super::keys::Keys;
use super::scripts::Scripts;
use super::server::{Node, Source};
use super::servers::{Place, Servers};
use super::subscription;
use crate::debug::impl_debug;
use crate::sync::{Mutex, lock};

/// Keeps locks in Redis or Valkey, version 6.2 or newer.
///
/// Each process has one connection to each server that it uses, which is reopened after it breaks. A lock is one key,
/// which the server deletes when the lock is released or its lease ends. In addition, each guard has one key that never
/// expires, for its fencing tokens. All keys begin with `{onelane:`. Callers that wait subscribe to a channel, so that
/// a release wakes them.
///
/// A server that loses its data, by a restart without persistence or by `FLUSHALL`, loses its locks. Their holders
/// notice the loss at the next renewal. Fencing tokens follow the server's clock, so that they still grow.
///
/// ```no_run
/// use std::time::Duration;
/// use onelane::backend::{LockDomain, Redis};
///
/// static LOCKS: LockDomain = LockDomain::new("shop");
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = redis::Client::open("redis://user:password@localhost")?;
/// LOCKS.connect(Redis::new(client).lease(Duration::from_secs(5))).await?;
/// # Ok(())
/// # }
/// ```
///
/// Set `maxmemory-policy` to `noeviction`. With another policy, the server may delete locks when its memory is full.
/// The store then logs a warning when it connects, and the holder of such a lock notices the loss at the next renewal.
///
/// # Sentinel and Cluster
///
/// [`sentinel`](Self::sentinel) finds the primary through Sentinel, and [`cluster`](Self::cluster) spreads the guards
/// over the servers of a cluster: all keys of a guard have the same hash tag, and thus are on one server. After a
/// failover, the next call finds the new primary. Until then, callers get an error. While a server of a cluster does
/// not answer, the leases of its guards are lost, and those of other guards are not.
///
/// A replica may lack the last changes of the primary that it replaces. The replica then gives locks to new callers
/// while their previous holders still run: two callers are inside until the first one notices, at its next renewal,
/// that its lease is lost. Renewals take place after a third of the lease. Tokens still grow, because they follow the
/// clock of the server in microseconds, unless the clock of the new primary is behind that of the old one by more than
/// the time that the failover takes. Where the result must be right, compare tokens where it is written, as
/// [always](crate::backend#what-such-a-lock-can-promise).
///
/// `min-replicas-to-write` keeps a primary that has lost its replicas from giving locks that a failover would lose.
/// `WAIT` after each change would make such a loss less likely at the cost of another round trip, but would not exclude
/// it. If no failover may lose a lock, use PostgreSQL with synchronous replication.
///
/// # When not to use it
///
/// For several processes of one host, a [lock in a file](crate::backend) needs no server and no lease.
pub struct Redis {
    place: Place,
    lease: Duration,
    /// `None` before the store is connected.
    connected: Mutex<Option<Arc<Connected>>>,
}

struct Connected {
    keys: Keys,
    scripts: Scripts,
    servers: Servers,
    lease: Duration,
    /// The highest token that this process has seen. Tokens grow even if the server forgets some of them and its clock
    /// is set back.
    highest: AtomicU64,
    /// When renewals began to fail. `None` while they succeed.
    failing_since: Mutex<Option<Instant>>,
    runtime: Handle,
}

/// The maximum number of leases that one call of a script renews. The server does nothing else during the call, which
/// takes about a millisecond.
const RENEWED_AT_ONCE: usize = 1_000;

/// The name of a guard whose lock is taken and released when the store connects.
const TEST: &str = "";

impl Redis {
    /// Creates a store in the server that the client connects to. The client's settings for TLS, user, password and
    /// database are used.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self::at(Place::One(Source::Client(Box::new(client))))
    }

    /// Creates a store in the primary that Sentinel names.
    ///
    /// ```
    /// # fn store() -> redis::RedisResult<onelane::backend::Redis> {
    /// use onelane::backend::Redis;
    /// use redis::sentinel::{SentinelClient, SentinelServerType};
    ///
    /// let sentinels = vec!["redis://sentinel-1:26379", "redis://sentinel-2:26379", "redis://sentinel-3:26379"];
    /// let client = SentinelClient::build(sentinels, "mymaster".to_owned(), None, SentinelServerType::Master)?;
    /// let store = Redis::sentinel(client);
    /// # Ok(store)
    /// # }
    /// ```
    #[must_use]
    pub fn sentinel(client: SentinelClient) -> Self {
        Self::at(Place::One(Source::Sentinel(Arc::new(tokio::sync::Mutex::new(client)))))
    }

    /// Creates a store in a cluster. The clients connect to some servers of the cluster, which name the other servers.
    /// Connections to those other servers use the TLS settings, the user and the password of the first client.
    ///
    /// ```
    /// # fn store() -> redis::RedisResult<onelane::backend::Redis> {
    /// use onelane::backend::Redis;
    /// use redis::Client;
    ///
    /// let store = Redis::cluster([Client::open("redis://node-1")?, Client::open("redis://node-2")?]);
    /// # Ok(store)
    /// # }
    /// ```
    #[must_use]
    pub fn cluster(clients: impl IntoIterator<Item = Client>) -> Self {
        Self::at(Place::Cluster(clients.into_iter().collect()))
    }

    fn at(place: Place) -> Self {
        Self { place, lease: Duration::from_secs(10), connected: Mutex::new(None) }
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

    fn connected(&self) -> Result<Arc<Connected>, BackendError> {
        lock(&self.connected).clone().ok_or_else(|| BackendError::new("the store is not connected: call connect first"))
    }
}

impl LockBackend for Redis {
    fn connect<'a>(&'a self, domain: &'a str) -> BackendFuture<'a, ()> {
        Box::pin(async move {
            let keys = Keys::new(domain);
            let servers = Servers::new(&self.place, &keys, link::call_limit(self.lease))?;
            let connected = Arc::new(Connected {
                keys,
                scripts: Scripts::new(),
                servers,
                lease: self.lease,
                highest: AtomicU64::new(0),
                failing_since: Mutex::default(),
                runtime: Handle::current(),
            });
            connected.try_all().await?;
            let replaced = lock(&self.connected).replace(connected);
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
        Box::pin(async move { self.connected()?.renew_all(leases).await })
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
        let (lock, fence, owner) = (self.keys.lock(name), self.keys.fence(name.guard()), owner.to_string());
        for _ in 0..ATTEMPTS {
            let gives_up_at = Instant::now() + link::call_limit(self.lease);
            let run = |node: Arc<Node>, mut connection| {
                let clock = &node.connector().clock;
                let deadline = clock.at(gives_up_at).map_or(u64::MAX, micros);
                let mut call = self.scripts.acquire.key(&lock);
                call.key(&fence).arg(&owner).arg(tokens).arg(self.lease_millis());
                call.arg(self.highest.load(Ordering::Relaxed)).arg(deadline);
                async move {
                    let (now, result, number): (u64, i8, i64) = call.invoke_async(&mut connection).await?;
                    node.connector().clock.set(Duration::from_micros(now));
                    Ok((result, number))
                }
            };
            match self.servers.call(name.guard(), run).await? {
                // The clock is now set.
                (..0, _) => {}
                // The time is negative for a key that never expires. Such a key is not a lock of this crate.
                (0, millis) => {
                    return Ok(Attempt::Held { expires_in: millis.try_into().ok().map(Duration::from_millis) });
                }
                (1.., fence) => {
                    let fence = fence.unsigned_abs();
                    self.highest.fetch_max(fence + u64::from(tokens.saturating_sub(1)), Ordering::Relaxed);
                    return Ok(Attempt::Acquired { fence });
                }
            }
        }
        Err(BackendError::new("the attempt was too late, by the clock of Redis: check its load and the network"))
    }

    /// Renews leases, and as many of them at once as a script can renew.
    async fn renew_all(self: &Arc<Self>, leases: &[LeaseId]) -> Result<Vec<bool>, BackendError> {
        let mut calls = JoinSet::new();
        for positions in self.renewed_at_once(leases) {
            let some: Vec<_> = positions.iter().map(|position| leases[*position].clone()).collect();
            let this = Arc::clone(self);
            calls.spawn(async move { this.renew(&some).await.map(|held| (positions, held)) });
        }
        let (mut all, mut failure) = (vec![false; leases.len()], None);
        while let Some(renewed) = calls.join_next().await {
            match renewed {
                Ok(Ok((positions, held))) => {
                    positions.iter().zip(held).for_each(|(position, is_held)| all[*position] = is_held);
                }
                Ok(Err(error)) => failure = Some(error),
                Err(error) => failure = Some(BackendError::new("a renewal panicked").with_source(error)),
            }
        }
        let mut failing_since = lock(&self.failing_since);
        let Some(error) = failure else {
            *failing_since = None;
            return Ok(all);
        };
        // A server that does not answer must not end the leases on the other servers of a cluster.
        let is_over = failing_since.get_or_insert_with(Instant::now).elapsed() > self.lease / 3;
        if is_over && all.contains(&true) { Ok(all) } else { Err(error) }
    }

    /// Returns the positions of the leases that one script renews. In a cluster, a script has keys of one guard.
    fn renewed_at_once(&self, leases: &[LeaseId]) -> Vec<Vec<usize>> {
        let mut positions: Vec<_> = (0..leases.len()).collect();
        let guard = |position: &usize| match self.servers {
            Servers::One(_) => "",
            Servers::Cluster(_) => leases[*position].lock.guard(),
        };
        positions.sort_by_key(guard);
        let by_guard = positions.chunk_by(|one, other| guard(one) == guard(other));
        by_guard.flat_map(|some| some.chunks(RENEWED_AT_ONCE)).map(<[usize]>::to_vec).collect()
    }

    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<bool>, BackendError> {
        let mut call = self.scripts.renew.arg(self.lease_millis());
        for lease in leases {
            call.key(self.keys.lock(&lease.lock)).arg(value_prefix(lease));
        }
        self.run(leases.first().map_or("", |lease| lease.lock.guard()), &call).await
    }

    async fn release(&self, lease: &LeaseId) -> Result<Released, BackendError> {
        let key = self.keys.lock(&lease.lock);
        let mut call = self.scripts.release.key(&key);
        call.arg(value_prefix(lease));
        // This process may still be subscribed, because it waited for the lock itself. The subscription may end while the
        // store executes the release.
        let run = |node: Arc<Node>, mut connection| {
            let (key, call) = (&key, &call);
            async move {
                let waiters = &node.connector().waiters;
                let was_subscribed = waiters.has(key);
                let received: usize = call.invoke_async(&mut connection).await?;
                let own = usize::from(was_subscribed || waiters.has(key));
                Ok(Released { waiting: received.saturating_sub(own) })
            }
        };
        self.servers.call(lease.lock.guard(), run).await
    }

    /// Waits for a message about the lock.
    async fn released(&self, name: &LockName) {
        let Ok(node) = self.servers.node(name.guard()).await else { return pending().await };
        subscription::message(&node, self.keys.lock(name), &self.runtime).await;
    }

    /// Checks that the servers answer and can keep locks.
    async fn check(&self) -> Result<(), BackendError> {
        for guard in self.servers.guards(TEST) {
            self.examine(guard, "replication").await?;
        }
        Ok(())
    }

    /// Checks that a server can keep locks. `section` is the part of the server's information to check.
    async fn examine(&self, guard: &'static str, section: &str) -> Result<(), BackendError> {
        let key = &self.keys.fence(guard);
        let examine = |node: Arc<Node>, mut connection| async move {
            // A server of a cluster that no longer has the keys refuses this command, but not the next one.
            redis::cmd("GET").arg(key).query_async::<redis::Value>(&mut connection).await?;
            let info: String = redis::cmd("INFO").arg(section).query_async(&mut connection).await?;
            Ok(node.connector().examine(&info))
        };
        self.servers.call(guard, examine).await?
    }

    /// Checks that there is a server that can keep locks, and that the user has all permissions that locks need.
    async fn try_all(self: &Arc<Self>) -> Result<(), BackendError> {
        // The first connection may take longer than a call.
        self.servers.node(TEST).await?.connection().await?;
        self.examine(TEST, "default").await?;
        let owner = Owner::random();
        let name = LockName::new(TEST, Some(&owner.to_string()));
        let Attempt::Acquired { fence } = self.try_acquire(&name, owner, 1).await? else {
            return Err(BackendError::new("a lock with a random name is held"));
        };
        let lease = LeaseId::new(name, owner, Some(fence));
        let channel = &self.keys.lock(&lease.lock);
        let listened = self.servers.call(TEST, |_, mut connection| async move {
            connection.subscribe(channel).await?;
            connection.unsubscribe(channel).await
        });
        let listened = listened.await;
        let renewed = self.renew(std::slice::from_ref(&lease)).await;
        self.release(&lease).await?;
        let counter = &self.keys.fence(TEST);
        let deleted = self.servers.call(TEST, |_, mut connection| async move {
            redis::cmd("DEL").arg(counter).query_async::<()>(&mut connection).await
        });
        deleted.await.and(listened).and(renewed.map(drop))
    }

    async fn run<T>(&self, guard: &'static str, script: &redis::ScriptInvocation<'_>) -> Result<T, BackendError>
    where
        T: redis::FromRedisValue + Send,
    {
        self.servers.call(guard, |_, mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    fn lease_millis(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the prefix of the lock's value while the lease exists.
fn value_prefix(lease: &LeaseId) -> String {
    match lease.fence {
        Some(fence) => format!("{}:{fence};", lease.owner),
        None => format!("{}:", lease.owner),
    }
}

impl_debug!(Redis |this| { lease: this.lease, is_connected: lock(&this.connected).is_some(), .. });
