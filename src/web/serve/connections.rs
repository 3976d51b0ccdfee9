//! [`Connections`], all open connections of a server, and the phases of its drain.

#[cfg(feature = "axum")]
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::Notify;
#[cfg(feature = "axum")]
use tokio::time::timeout;
use tokio::time::{Instant, sleep};

use super::config::ServeConfig;
use super::connection::Connection;
use super::trace;
use crate::background::HostHandle;
use crate::debug::impl_debug;
use crate::detached;
use crate::sync::lock;
use crate::web::background_tasks::TaskQueue;

/// How often the drain checks the connections.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// The open connections of one server.
pub(crate) struct Connections {
    pub(super) config: ServeConfig,
    pub(super) tasks: Arc<TaskQueue>,
    pub(super) open: Mutex<OpenConnections>,
    /// Notified when a connection is closed.
    closed: Notify,
    is_draining: AtomicBool,
    /// The server accepts no more connections, and closes idle ones.
    is_closing_idle: AtomicBool,
    /// Notified when `is_closing_idle` is set.
    stopped_accepting: Notify,
    /// When the server began to send a GOAWAY to HTTP/2 clients.
    pub(super) goaway_at: OnceLock<Instant>,
    /// Notified when the listener is closed, after every connection that had arrived at it was opened.
    accepted_all: Notify,
}

#[derive(Default)]
pub(super) struct OpenConnections {
    by_id: Slab<Arc<Connection>>,
    /// When the last connection was opened.
    pub(super) opened_at: Option<Instant>,
    /// All connections are cut off, and so is each new one.
    is_cut: bool,
}

/// The place of a connection among the open connections. Dropping this value frees the place.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    pub(super) connection: Arc<Connection>,
    id: usize,
}

/// Cuts off all connections when it is dropped. The host drops a server that takes too long to end.
pub(crate) struct CutOnDrop(pub(crate) Arc<Connections>);

impl Connections {
    /// Creates the connections of a server whose background tasks run on this runtime.
    pub(crate) fn new(config: ServeConfig, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            tasks: TaskQueue::new(config.background_tasks, runtime),
            config,
            open: Mutex::default(),
            closed: Notify::new(),
            is_draining: AtomicBool::new(false),
            is_closing_idle: AtomicBool::new(false),
            stopped_accepting: Notify::new(),
            goaway_at: OnceLock::new(),
            accepted_all: Notify::new(),
        })
    }

    /// Returns how long a connection stays open after its last request while the server drains.
    #[cfg(feature = "axum")]
    pub(crate) fn linger(&self) -> Duration {
        self.config.linger
    }

    /// Waits until another connection may be opened.
    pub(crate) async fn has_room(&self) {
        loop {
            let mut closed = pin!(self.closed.notified());
            closed.as_mut().enable();
            if !self.is_full() {
                return;
            }
            closed.await;
        }
    }

    /// Returns `true` if no more connections may be opened.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.open).by_id.len() >= self.config.max_connections
    }

    pub(crate) fn open(self: &Arc<Self>) -> OpenConnection {
        let connection = Arc::new(Connection::new(Arc::clone(self)));
        let mut open = lock(&self.open);
        let id = open.by_id.insert(Arc::clone(&connection));
        open.opened_at = Some(Instant::now());
        let is_cut = open.is_cut;
        drop(open);
        if is_cut {
            connection.cut();
        }
        OpenConnection { connection, id }
    }

    /// Returns `true` if responses ask their clients to close the connection.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Returns `true` if the server accepts no more connections, and closes idle ones.
    pub(crate) fn is_closing_idle(&self) -> bool {
        self.is_closing_idle.load(Ordering::Acquire)
    }

    /// Waits until the server accepts no more connections.
    pub(crate) async fn stopped_accepting(&self) {
        let mut stopped = pin!(self.stopped_accepting.notified());
        stopped.as_mut().enable();
        if !self.is_closing_idle() {
            stopped.await;
        }
    }

    /// Records that the listener is closed.
    pub(crate) fn accepted_all(&self) {
        self.accepted_all.notify_one();
    }

    /// Waits until the host begins to stop, and then for the drain delay, during which the server continues as before.
    pub(super) async fn begin_drain(&self, host: &HostHandle) {
        host.draining().cancelled().await;
        self.is_draining.store(true, Ordering::Release);
        // A timer takes a millisecond even if its duration is zero.
        if !self.config.drain_delay.is_zero() {
            sleep(self.config.drain_delay).await;
        }
    }

    /// Waits until a condition on the connections holds.
    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Closes connections whose clients have not sent a request in time, for as long as the future is polled.
    #[cfg(feature = "axum")]
    pub(crate) async fn limit_clients(&self) -> Infallible {
        let limits = [self.config.first_byte_timeout, self.config.header_timeout];
        let shortest = limits.into_iter().flatten().min().unwrap_or(Duration::MAX);
        let interval = (shortest / 10).clamp(CHECK_INTERVAL, Duration::from_secs(1));
        loop {
            if self.is_closing_idle() {
                sleep(CHECK_INTERVAL).await;
            } else {
                let _ = timeout(interval, self.stopped_accepting()).await;
            }
            let now = Instant::now();
            self.each(|connection| connection.check_limits(now));
        }
    }

    /// Waits until the host stops, and until each HTTP/1 connection that is still open has a request in progress. After
    /// that, the framework's own graceful shutdown can end the server.
    #[cfg(feature = "axum")]
    pub(crate) async fn idle_closed(&self, host: &HostHandle) {
        self.begin_drain(host).await;
        self.is_closing_idle.store(true, Ordering::Release);
        self.stopped_accepting.notify_waiters();
        self.accepted_all.notified().await;
        self.until(|all| !all.any(Connection::is_lingering)).await;
        let _ = self.goaway_at.set(Instant::now());
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        loop {
            let mut closed = pin!(self.closed.notified());
            closed.as_mut().enable();
            if lock(&self.open).by_id.is_empty() {
                return;
            }
            closed.await;
        }
    }

    /// Cuts off all connections, including those that are opened later. Returns the number of requests that are cut
    /// off.
    fn cut(&self) -> usize {
        let mut open = lock(&self.open);
        open.is_cut = true;
        drop(open);
        let mut requests = 0;
        self.each(|connection| requests += connection.cut());
        requests
    }

    pub(super) fn any(&self, matches: impl Fn(&Connection) -> bool) -> bool {
        lock(&self.open).by_id.iter().any(|(_, connection)| matches(connection))
    }

    /// Calls a function with each connection. The lock is not held, because the function may wake tasks.
    pub(super) fn each(&self, function: impl FnMut(&Arc<Connection>)) {
        let connections: Vec<_> = lock(&self.open).by_id.iter().map(|(_, connection)| Arc::clone(connection)).collect();
        connections.iter().for_each(function);
    }
}

impl OpenConnection {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let connections = self.connection.connections();
        let removed = lock(&connections.open).by_id.try_remove(self.id);
        drop(removed);
        // Tasks whose response will never be written start now.
        self.connection.after_close();
        connections.closed.notify_waiters();
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        let requests = self.0.cut();
        if requests > 0 {
            trace::requests_cut_off(requests);
            detached::record_cut("requests", requests);
        }
    }
}

impl_debug!(Connections |this| { open: lock(&this.open).by_id.len(), config: this.config, .. });
