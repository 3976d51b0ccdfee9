//! [`Link`], the connection of a process to its store: opened when it is needed, and reopened after it breaks.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::error::BackendError;
use crate::sync::{Mutex, lock};

/// Opens connections to a store.
pub(super) trait Connector: Send + Sync {
    type Connection: Clone + Send;

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
    pub(super) connector: K,
    /// How long a call may take, including the time to connect.
    limit: Duration,
    current: Mutex<Current<K::Connection>>,
    /// Held while a connection is opened, so that other calls wait for it instead of opening more.
    opening: tokio::sync::Mutex<()>,
}

struct Current<C> {
    connection: Option<C>,
    /// Identifies the connection, so that a call that fails late does not end the next connection.
    number: u64,
}

/// The part of the lease that a call may take, so that a renewal can be repeated before the lease ends.
const PART_OF_LEASE: u32 = 3;
const LONGEST_CALL: Duration = Duration::from_secs(1);

/// How long the first connection may take. No caller waits for it.
const FIRST_CONNECT: Duration = Duration::from_secs(5);

impl<K: Connector> Link<K> {
    pub(super) fn new(connector: K, lease: Duration) -> Self {
        let current = Mutex::new(Current { connection: None, number: 0 });
        let limit = (lease / PART_OF_LEASE).min(LONGEST_CALL);
        Self { connector, limit, current, opening: tokio::sync::Mutex::new(()) }
    }

    /// Opens the first connection.
    pub(super) async fn connect(&self) -> Result<(), BackendError> {
        timeout(FIRST_CONNECT, self.open()).await.unwrap_or_else(|_| Err(no_answer(FIRST_CONNECT))).map(drop)
    }

    /// Calls the store, with a time limit.
    ///
    /// If the connection turns out to be broken, the call is repeated once over a new one: the store may have
    /// restarted, or a firewall may have dropped a connection that was idle. Every call must therefore be safe to
    /// repeat.
    pub(super) async fn call<T, F>(&self, run: impl Fn(K::Connection) -> F + Send + Sync) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, CallError>> + Send,
    {
        let used = AtomicU64::new(0);
        let call = async {
            if let Some((number, connection)) = self.current() {
                used.store(number, Ordering::Relaxed);
                match run(connection).await {
                    Err(failure) if failure.is_broken => self.forget(number),
                    result => return result.map_err(|failure| failure.error),
                }
            }
            let (number, connection) = self.open().await?;
            used.store(number, Ordering::Relaxed);
            run(connection).await.map_err(|failure| {
                if failure.is_broken {
                    self.forget(number);
                }
                failure.error
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
        let current = lock(&self.current);
        Some((current.number, current.connection.clone()?))
    }

    async fn open(&self) -> Result<(u64, K::Connection), BackendError> {
        let _opening = self.opening.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let connection = self.connector.open().await.map_err(|failure| failure.error)?;
        let mut current = lock(&self.current);
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((current.number, connection))
    }

    fn forget(&self, number: u64) {
        let mut current = lock(&self.current);
        let broken = if current.number == number { current.connection.take() } else { None };
        drop(current);
        drop(broken);
    }
}

fn no_answer(limit: Duration) -> BackendError {
    BackendError::new(format!("the store did not answer within {limit:?}: check its address, its load and the network"))
}
