//! [`Redis`], a store in Redis or Valkey.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::Client;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::super::error::BackendError;
use super::super::link::Link;
use super::super::lock_backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use super::super::waiters::{Waiter, Waiters};
use super::keys::Keys;
use super::scripts::Scripts;
use super::server::Server;
use crate::debug::impl_debug;
use crate::sync::{Mutex, lock};

/// Keeps locks in Redis or Valkey, version 6.2 or newer.
///
/// Each process has one connection, which is reopened after it breaks. A lock is one key, which the server deletes when
/// the lock is released or its lease ends. In addition, each guard has one key that never expires, for its fencing
/// tokens. All keys begin with `{onelane:`. Callers that wait subscribe to a channel, so that a release wakes them.
///
/// A server that loses its data, by a restart without persistence, by `FLUSHALL`, or because a replica that lags behind
/// becomes the primary, loses its locks. Their holders notice the loss at the next renewal, and fencing tokens continue
/// from the server's clock, so that they still grow.
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
/// # When not to use it
///
/// Redis Cluster is not supported: one server holds all locks of a domain. For several processes of one host, a
/// [lock in a file](crate::backend) needs no server and no lease.
pub struct Redis {
    client: Client,
    lease: Duration,
    /// `None` before the store is connected.
    connected: Mutex<Option<Arc<Connected>>>,
}

struct Connected {
    keys: Keys,
    scripts: Scripts,
    link: Link<Server>,
    waiters: Arc<Waiters>,
    lease: Duration,
    /// The highest token that this process has seen. Tokens grow even if the server forgets some of them and its clock
    /// is set back.
    highest: AtomicU64,
    runtime: Handle,
}

/// The maximum number of leases that one call of a script renews. The server does nothing else during the call, which
/// takes about a millisecond.
const RENEWED_AT_ONCE: usize = 1_000;

/// How long a subscription outlasts its last waiter, so that a caller that waits again needs no new one.
const LINGER: Duration = Duration::from_millis(100);

impl Redis {
    /// Creates a store in the server that the client connects to. The client's settings for TLS, user, password and
    /// database are used.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, lease: Duration::from_secs(10), connected: Mutex::new(None) }
    }

    /// Sets how long a lock outlasts a process that ends without releasing the lock. The default is 10 seconds.
    ///
    /// A call to the server may take a third of this time, and at most a second. The first connection may take 5 seconds.
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
            let waiters = Arc::new(Waiters::default());
            let connected = Arc::new(Connected {
                keys: Keys::new(domain),
                scripts: Scripts::new(),
                link: Link::new(Server::new(&self.client, Arc::clone(&waiters))?, self.lease),
                waiters,
                lease: self.lease,
                highest: AtomicU64::new(0),
                runtime: Handle::current(),
            });
            connected.link.connect().await?;
            connected.examine("default").await?;
            connected.try_all().await?;
            let replaced = lock(&self.connected).replace(connected);
            drop(replaced);
            Ok(())
        })
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        Box::pin(async move { self.connected()?.examine("replication").await })
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    fn try_acquire<'a>(&'a self, name: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        Box::pin(async move { self.connected()?.try_acquire(name, owner, tokens).await })
    }

    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>> {
        Box::pin(async move {
            let connected = self.connected()?;
            let mut held = Vec::with_capacity(leases.len());
            for some in leases.chunks(RENEWED_AT_ONCE) {
                held.extend(connected.renew(some).await?);
            }
            Ok(held)
        })
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
        let mut call = self.scripts.acquire.key(self.keys.lock(name));
        call.key(self.keys.fence(name.guard())).arg(owner.to_string()).arg(tokens);
        call.arg(self.lease_millis()).arg(self.highest.load(Ordering::Relaxed));
        let (is_acquired, number): (bool, i64) = self.run(&call).await?;
        if !is_acquired {
            // Negative for a key that never expires, which is not a lock of this crate.
            return Ok(Attempt::Held { expires_in: number.try_into().ok().map(Duration::from_millis) });
        }
        let fence = number.unsigned_abs();
        self.highest.fetch_max(fence + u64::from(tokens.saturating_sub(1)), Ordering::Relaxed);
        Ok(Attempt::Acquired { fence })
    }

    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<bool>, BackendError> {
        let mut call = self.scripts.renew.arg(self.lease_millis());
        for lease in leases {
            call.key(self.keys.lock(&lease.lock)).arg(value_prefix(lease));
        }
        self.run(&call).await
    }

    async fn release(&self, lease: &LeaseId) -> Result<Released, BackendError> {
        let key = self.keys.lock(&lease.lock);
        let mut call = self.scripts.release.key(&key);
        call.arg(value_prefix(lease));
        // This process may still be subscribed, because it waited for the lock itself. The subscription may end while the
        // store executes the release.
        let was_subscribed = self.waiters.has(&key);
        let received: usize = self.run(&call).await?;
        let own = usize::from(was_subscribed || self.waiters.has(&key));
        Ok(Released { waiting: received.saturating_sub(own) })
    }

    /// Waits for a message about the lock. The subscription is requested in the first poll, over the same connection as
    /// attempts, so it precedes an attempt that follows.
    async fn released(self: &Arc<Self>, name: &LockName) {
        let waiting = Waiting { waiter: self.waiters.add(self.keys.lock(name)), connected: Arc::clone(self) };
        let waiter = &waiting.waiter;
        let mut released = pin!(waiter.released.notified());
        released.as_mut().enable();
        if waiter.is_first {
            // If the call fails, callers still check from time to time, and the next connection subscribes again.
            let _ = self.call(|mut connection| async move { connection.subscribe(&waiter.channel).await }).await;
        }
        released.await;
    }

    /// Ends a subscription some time after its last waiter has left.
    async fn clean(self: Arc<Self>, channel: String) {
        loop {
            sleep(LINGER).await;
            if self.waiters.remove_unused(&channel) {
                break;
            }
        }
        // Without a connection there is no subscription.
        if let Some((_, mut connection)) = self.link.current() {
            let _ = connection.unsubscribe(channel).await;
        }
    }

    /// Checks that the server can keep locks.
    async fn examine(&self, section: &str) -> Result<(), BackendError> {
        let info: String = self
            .link
            .call(|mut connection| async move {
                let info = redis::cmd("INFO").arg(section).query_async(&mut connection).await;
                info.map_err(|error| self.link.connector.explain(error))
            })
            .await?;
        self.link.connector.examine(&info)
    }

    /// Checks that the user has all rights that locks need.
    async fn try_all(self: &Arc<Self>) -> Result<(), BackendError> {
        let owner = Owner::random();
        let name = LockName::new("", Some(&owner.to_string()));
        let Attempt::Acquired { fence } = self.try_acquire(&name, owner, 1).await? else {
            return Err(BackendError::new("a lock with a random name is held"));
        };
        let lease = LeaseId::new(name, owner, Some(fence));
        let channel = &self.keys.lock(&lease.lock);
        let listened = self.call(|mut connection| async move {
            connection.subscribe(channel).await?;
            connection.unsubscribe(channel).await
        });
        let listened = listened.await;
        let renewed = self.renew(std::slice::from_ref(&lease)).await;
        self.release(&lease).await?;
        let counter = &self.keys.fence("");
        let deleted = self.call(|mut connection| async move {
            redis::cmd("DEL").arg(counter).query_async::<()>(&mut connection).await
        });
        deleted.await.and(listened).and(renewed.map(drop))
    }

    async fn run<T>(&self, script: &redis::ScriptInvocation<'_>) -> Result<T, BackendError>
    where
        T: redis::FromRedisValue + Send,
    {
        self.call(|mut connection| async move { script.invoke_async(&mut connection).await }).await
    }

    async fn call<T, F>(
        &self,
        run: impl Fn(redis::aio::MultiplexedConnection) -> F + Send + Sync,
    ) -> Result<T, BackendError>
    where
        T: Send,
        F: Future<Output = redis::RedisResult<T>> + Send,
    {
        self.link
            .call(|connection| {
                let answer = run(connection);
                async move { answer.await.map_err(|error| self.link.connector.explain(error)) }
            })
            .await
    }

    fn lease_millis(&self) -> u64 {
        u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A caller that waits for a release. Dropping it ends the wait.
struct Waiting {
    waiter: Waiter,
    connected: Arc<Connected>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.waiter.leave() {
            let cleaning = Arc::clone(&self.connected).clean(self.waiter.channel.clone());
            self.connected.runtime.spawn(cleaning);
        }
    }
}

/// Returns the prefix of the lock's value while the lease exists.
fn value_prefix(lease: &LeaseId) -> String {
    match lease.fence {
        Some(fence) => format!("{}:{fence};", lease.owner),
        None => format!("{}:", lease.owner),
    }
}

impl_debug!(Redis |this| { lease: this.lease, is_connected: lock(&this.connected).is_some(), .. });
