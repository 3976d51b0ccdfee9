//! The drain of a server that does not report what it reads and writes, such as actix-web.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connection::{Connection, Protocol};
use super::connections::Connections;
use crate::background::HostHandle;
use crate::sync::lock;

/// For how long a server that pauses must have opened no connection before it is taken to accept no more. The thread
/// that accepts connections does not report when it has stopped.
const QUIET: Duration = Duration::from_millis(20);

/// How long a client at least has to send its first request, in a pause of the server. Those that wait for longer have
/// connected in advance.
const FIRST_REQUEST: Duration = Duration::from_millis(100);

/// How long a server at least has for bytes that it does not report: the last ones of a response over HTTP/2, and of a
/// response after which it waits for its client.
const FLUSH: Duration = Duration::from_millis(20);

/// What is known of a connection that the server does not report.
#[derive(Default)]
pub(super) struct UnwatchedState {
    /// Handlers that have not responded, and WebSockets. If their clients leave, work may continue without them.
    handlers: usize,
    /// At least one handler has run all the time since the drain noted it.
    is_noted: bool,
    /// Parts of responses over HTTP/2 that are not written.
    unwritten: usize,
    /// The server may keep the connection open after the response, to wait for its client.
    waits_for_client: bool,
    /// A response over HTTP/1 has asked the client to close the connection.
    is_last_response: bool,
}

/// A part of a response over HTTP/2. The server drops it when it has written it.
pub(crate) struct UnwrittenPart {
    bytes: Bytes,
    connection: Arc<Connection>,
}

/// Records, when it is dropped, the responses that are cut off at that time.
struct CountUnwritten<'a>(&'a Connections);

impl Connections {
    /// Waits until the host stops, and until no client may be about to send its next request, no longer than
    /// [`linger`](super::ServeConfig::linger). Meanwhile, the server accepts connections.
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

    /// Returns `true` if no connection is left that has had handlers all the time since they were noted.
    pub(crate) fn have_noted_ended(&self) -> bool {
        !self.any(|connection| lock(&connection.state).unwatched.is_noted)
    }

    /// Returns `true` if the server, which has paused at this time, accepts no more connections, no handler runs, and no
    /// first request is on its way.
    pub(crate) fn is_quiet(&self, paused_at: Instant) -> bool {
        let opened_at = lock(&self.open).opened_at;
        let has_paused = opened_at.is_none_or(|at| {
            let is_used = at.elapsed() < self.config.linger.max(QUIET);
            !is_used || at.max(paused_at).elapsed() >= QUIET
        });
        has_paused && !self.any(|connection| connection.has_handler() || connection.is_new())
    }

    /// Waits until the connections that are still open need not be served any longer. The server has been asked to
    /// close those that are idle.
    pub(crate) async fn ended(&self) {
        let linger = self.config.linger.max(FLUSH);
        let stopped_at = Instant::now();
        let _count = CountUnwritten(self);
        self.until(|all| {
            // The clients of HTTP/2 are not asked to leave. Those that send requests all the time are not waited for.
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

    /// Records if the server may keep the connection open after the response that begins.
    pub(crate) fn set_waits_for_client(&self, waits_for_client: bool) {
        lock(&self.state).unwatched.waits_for_client = waits_for_client;
    }

    /// Records that the response that begins asks its client to close the connection.
    pub(crate) fn begin_last_response(&self) {
        lock(&self.state).unwatched.is_last_response = true;
    }

    /// Returns `true` if a request must not be served, because an earlier response was the last one. The server then
    /// keeps the connection open.
    pub(crate) fn leaves_request(&self) -> bool {
        let mut state = lock(&self.state);
        state.unwatched.waits_for_client |= state.unwatched.is_last_response;
        state.unwatched.is_last_response
    }

    fn has_handler(&self) -> bool {
        lock(&self.state).unwatched.handlers > 0
    }

    /// Returns `true` if the client has connected a short time ago, and has sent no request.
    fn is_new(&self) -> bool {
        let state = lock(&self.state);
        let limit = self.connections.config.linger.min(FIRST_REQUEST);
        state.protocol == Protocol::Unknown && state.active_at.elapsed() < limit
    }

    /// Returns `true` if the connection is open only because its client may send another request, and has been so for
    /// less than `linger`.
    fn is_recent(&self) -> bool {
        let state = lock(&self.state);
        state.requests == 0 && state.active_at.elapsed() < self.connections.config.linger
    }

    /// Returns `true` if a request is in progress or its response is not written. Where that is not known, the last
    /// request must have ended this long ago.
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
