//! [`Link`], the connection of a process to its store: opened when it is needed, and reopened after it breaks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::error::BackendError;
use crate::sync::{Mutex, lock};

/// Opens connections to a store.
pub(super) trait Connector: Send + Sync + 'static {
    type Connection: Clone + Send + 'static;

    fn open(&self) -> Pin<Box<dyn Future<Output = Result<Self::Connection, CallError>> + Send + '_>>;
}

/// Why a call failed.
#[derive(Debug)]
pub(super) struct CallError {
    pub(super) error: BackendError,
    /// The connection can't be used again.
    pub(super) is_broken: bool,
}

/// One connection, which all calls share.
pub(super) struct Link<K: Connector> {
    state: Arc<LinkState<K>>,
    /// How long a call may take, including the time to connect.
    limit: Duration,
    /// The last attempt to connect, and when the attempt began. All calls wait for this attempt. It continues after the
    /// time limit of a call, and the next call then begins another attempt: perhaps only one of them reaches a store
    /// that answers.
    opening: tokio::sync::Mutex<Option<(Instant, JoinHandle<Opened<K>>)>>,
}

type Opened<K> = Result<(u64, <K as Connector>::Connection), CallError>;

struct LinkState<K: Connector> {
    connector: K,
    current: Mutex<Current<K::Connection>>,
}

struct Current<C> {
    connection: Option<C>,
    /// Identifies the connection, so that a call that fails late does not end the next connection.
    number: u64,
}

/// The part of the lease that a call may take, so that a renewal can be repeated before the lease ends. This part is
/// shorter than the time after which the crate drops a call, so that a connection that does not answer is replaced.
const PART_OF_LEASE: u32 = 4;
const LONGEST_CALL: Duration = Duration::from_secs(1);

/// How long an attempt to connect may take. Some addresses of a store may belong to machines that do not answer.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);

/// Returns how long a call may take.
pub(super) fn call_limit(lease: Duration) -> Duration {
    (lease / PART_OF_LEASE).min(LONGEST_CALL)
}

impl<K: Connector> Link<K> {
    pub(super) fn new(connector: K, limit: Duration) -> Self {
        let current = Mutex::new(Current { connection: None, number: 0 });
        let state = Arc::new(LinkState { connector, current });
        Self { state, limit, opening: tokio::sync::Mutex::new(None) }
    }

    pub(super) fn connector(&self) -> &K {
        &self.state.connector
    }

    /// Returns the connection, and opens one if there is none. Opening a connection may take longer than a call.
    pub(super) async fn connection(&self) -> Result<K::Connection, BackendError> {
        let (_, connection) = match self.current() {
            Some(current) => current,
            None => self.open().await.map_err(|failure| failure.error)?,
        };
        Ok(connection)
    }

    /// Calls the store, with a time limit.
    ///
    /// If the connection turns out to be broken, the call is repeated once over a new one: the store may have
    /// restarted, or a firewall may have dropped a connection that was idle. Every call must therefore be safe to
    /// repeat.
    pub(super) async fn call<T, F>(&self, run: impl Fn(K::Connection) -> F + Send + Sync) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>> + Send,
    {
        let used = AtomicU64::new(0);
        let call = async {
            if let Some((number, connection)) = self.current() {
                used.store(number, Ordering::Relaxed);
                match run(connection).await {
                    Err(failure) if failure.is_broken => self.forget(number),
                    result => return result,
                }
            }
            let (number, connection) = self.open().await?;
            used.store(number, Ordering::Relaxed);
            run(connection).await.inspect_err(|failure| {
                if failure.is_broken {
                    self.forget(number);
                }
            })
        };
        timeout(self.limit, call).await.unwrap_or_else(|_| {
            // The connection may have broken without an error.
            self.forget(used.load(Ordering::Relaxed));
            Err(no_answer(self.limit))
        })
    }

    /// Returns the current connection, if there is one.
    pub(super) fn current(&self) -> Option<(u64, K::Connection)> {
        self.state.current()
    }

    async fn open(&self) -> Opened<K> {
        let mut opening = self.opening.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        // The result of an attempt whose caller has left may be outdated.
        let running = opening.take_if(|(began, attempt)| !attempt.is_finished() && began.elapsed() < self.limit);
        let begin = || (Instant::now(), tokio::spawn(Arc::clone(&self.state).open()));
        let (_, attempt) = opening.insert(running.unwrap_or_else(begin));
        let opened = attempt.await;
        *opening = None;
        opened.unwrap_or_else(|error| {
            let error = BackendError::new("the client of the store panicked").with_source(error);
            Err(CallError { error, is_broken: true })
        })
    }

    fn forget(&self, number: u64) {
        let mut current = lock(&self.state.current);
        let broken = if current.number == number { current.connection.take() } else { None };
        drop(current);
        drop(broken);
    }
}

impl<K: Connector> LinkState<K> {
    fn current(&self) -> Option<(u64, K::Connection)> {
        let current = lock(&self.current);
        Some((current.number, current.connection.clone()?))
    }

    async fn open(self: Arc<Self>) -> Opened<K> {
        let opened = timeout(LONGEST_CONNECT, self.connector.open()).await;
        let connection = opened.unwrap_or_else(|_| Err(no_answer(LONGEST_CONNECT)))?;
        let mut current = lock(&self.current);
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((current.number, connection))
    }
}

fn no_answer(limit: Duration) -> CallError {
    let text = format!(
        "the store did not answer within {limit:?}: check its address, its load and the network, or set a longer \
         lease"
    );
    CallError { error: BackendError::new(text), is_broken: true }
}
