//! The drain of a server that does not report what it reads and writes, such as actix-web.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connection::{Connection, Protocol};
use super::connections::Connections;
use crate::background::HostHandle;
use crate::sync::lock;

/// How long a paused server must have opened no connection before it counts as accepting no more. The thread that
/// accepts connections does not report when it has stopped.
const QUIET: Duration = Duration::from_millis(20);

/// The longest time that a paused server waits for the first request on a new connection. A client that takes longer
/// has connected in advance.
const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// The least time that a server gets for bytes that it does not report: the last bytes of a response over HTTP/2, and
/// of a response after which the server waits for its client.
const FLUSH: Duration = Duration::from_millis(20);

/// What is known about a connection whose I/O the server does not report.
#[derive(Default)]
pub(super) struct UnwatchedState {
    /// Handlers that have not responded, and WebSockets. If a client leaves, its work may continue without it.
    handlers: usize,
    /// At least one handler has been running ever since the drain noted the connection.
    is_noted: bool,
    /// Parts of responses over HTTP/2 that have not been written.
    unwritten: usize,
    /// The server may keep the connection open after the response, to wait for the client.
    waits_for_client: bool,
    /// A response over HTTP/1 has asked the client to close the connection.
    is_last_response: bool,
}

/// A part of a response over HTTP/2. The server drops the part once it has written it.
pub(crate) struct UnwrittenPart {
    bytes: Bytes,
    connection: Arc<Connection>,
}

/// Records the responses that are cut off when this value is dropped.
struct CountUnwritten<'a>(&'a Connections);

impl Connections {
    /// Waits until the host stops, and then until no client could be about to send its next request, for
    /// [`linger`](super::ServeConfig::linger) at most. The server accepts connections during that time.
    pub(crate) async fn lingered(&self, host: &HostHandle) {
        self.begin_drain(host).await;
        let until = Instant::now().checked_add(self.config.linger);
        self.until(|all| !all.any(Connection::is_recent) || until.is_some_and(|until| until <= Instant::now())).await;
    }

    /// Notes which connections have handlers.
    pub(crate) fn note_handlers(&self) {
        self.each(|connection| {
            let mut state = lock(&connection.state);
            state.unwatched.is_noted = state.unwatched.handlers > 0;
        });
    }

    /// Returns `true` if no connection is left that has had handlers ever since it was noted.
    pub(crate) fn have_noted_ended(&self) -> bool {
        !self.any(|connection| lock(&connection.state).unwatched.is_noted)
    }

    /// Returns `true` if the server, which paused at `paused_at`, accepts no more connections, no handler is running,
    /// and no first request is on its way.
    pub(crate) fn is_quiet(&self, paused_at: Instant) -> bool {
        let opened_at = lock(&self.open).opened_at;
        let has_paused = opened_at.is_none_or(|at| {
            let is_used = at.elapsed() < self.config.linger.max(QUIET);
            !is_used || at.max(paused_at).elapsed() >= QUIET
        });
        has_paused && !self.any(|connection| connection.has_handler() || connection.is_new())
    }

    /// Waits until none of the open connections needs the server any longer. The server has been asked to close idle
    /// connections.
    pub(crate) async fn ended(&self) {
        let linger = self.config.linger.max(FLUSH);
        let stopped_at = Instant::now();
        let _count = CountUnwritten(self);
        self.until(|all| {
            // HTTP/2 clients are not asked to leave. Once `linger` has passed, a short gap between their requests is
            // enough.
            let idle = if stopped_at.elapsed() < linger { linger } else { FLUSH };
            !all.any(|connection| connection.is_in_use(idle))
        })
        .await;
    }
}

impl Connection {
    /// Records that a handler runs.
    pub(crate) fn begin_handler(&self) {
        lock(&self.state).unwatched.handlers += 1;
    }

    /// Records that a handler has responded, or has been dropped.
    pub(crate) fn end_handler(&self) {
        let mut state = lock(&self.state);
        state.unwatched.handlers -= 1;
        state.unwatched.is_noted &= state.unwatched.handlers > 0;
    }

    /// Records whether the server may keep the connection open after the response that begins now.
    pub(crate) fn set_waits_for_client(&self, waits_for_client: bool) {
        lock(&self.state).unwatched.waits_for_client = waits_for_client;
    }

    /// Records that the response that begins now asks its client to close the connection.
    pub(crate) fn begin_last_response(&self) {
        lock(&self.state).unwatched.is_last_response = true;
    }

    /// Returns `true` if a request must not be served, because an earlier response was the last one on the connection.
    /// The server then keeps the connection open.
    pub(crate) fn leaves_request(&self) -> bool {
        let mut state = lock(&self.state);
        state.unwatched.waits_for_client |= state.unwatched.is_last_response;
        state.unwatched.is_last_response
    }

    fn has_handler(&self) -> bool {
        lock(&self.state).unwatched.handlers > 0
    }

    /// Returns `true` if the client connected a short time ago and has sent no request.
    fn is_new(&self) -> bool {
        let state = lock(&self.state);
        let limit = self.connections.config.linger.min(FIRST_REQUEST);
        state.protocol == Protocol::Unknown && state.active_at.elapsed() < limit
    }

    /// Returns `true` if the connection is open only because its client may send another request, and has been idle for
    /// less than `linger`.
    fn is_recent(&self) -> bool {
        let state = lock(&self.state);
        state.requests == 0 && state.active_at.elapsed() < self.connections.config.linger
    }

    /// Returns `true` if a request is in progress or its response has not been written. If that is not known, the
    /// connection is in use until its last request ended `idle` ago.
    fn is_in_use(&self, idle: Duration) -> bool {
        let state = lock(&self.state);
        state.requests > 0 || state.is_writing || state.closes_when_written() || state.active_at.elapsed() < idle
    }
}

impl super::connection::ConnectionState {
    /// Returns `true` if the server closes the connection as soon as the response is written.
    fn closes_when_written(&self) -> bool {
        self.protocol == Protocol::Http1 && !self.unwatched.waits_for_client
    }
}

impl UnwrittenPart {
    pub(crate) fn wrap(bytes: Bytes, connection: &Arc<Connection>) -> Bytes {
        let mut state = lock(&connection.state);
        state.unwatched.unwritten += 1;
        state.is_writing = true;
        drop(state);
        Bytes::from_owner(Self { bytes, connection: Arc::clone(connection) })
    }
}

impl AsRef<[u8]> for UnwrittenPart {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for UnwrittenPart {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.connection.state);
        state.unwatched.unwritten -= 1;
        state.is_writing = state.unwatched.unwritten > 0;
        state.active_at = now;
    }
}

impl Drop for CountUnwritten<'_> {
    fn drop(&mut self) {
        self.0.each(|connection| {
            let mut state = lock(&connection.state);
            state.is_writing |= state.closes_when_written();
        });
    }
}
