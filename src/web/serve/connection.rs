//! [`Connection`], what the I/O and the requests of one connection know of each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

use super::config::ServeConfig;
use super::connections::Connections;
use crate::debug::impl_debug;
use crate::sync::lock;

/// How the first bytes of an HTTP/2 connection begin (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI";

/// One open connection.
pub(crate) struct Connection {
    connections: Arc<Connections>,
    state: Mutex<ConnectionState>,
    /// The server fails to read and to write from now on.
    is_cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

struct ConnectionState {
    protocol: Protocol,
    /// Requests whose response has not ended.
    requests: usize,
    /// When the connection was opened, or its last request ended, or its last byte arrived while the server drains.
    active_at: Instant,
    /// A part of a request has arrived that is not a whole head yet.
    head: HeadState,
    /// The client does not read as fast as the server writes. The body of the response may have ended by then.
    is_writing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Nothing has arrived.
    Unknown,
    Http1,
    Http2,
    /// Another protocol has taken the connection over, such as WebSocket.
    Upgraded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadState {
    Complete,
    /// Bytes have arrived. The time is taken when the server waits for more of them, which is rare.
    Begun,
    Awaited {
        since: Instant,
    },
}

/// What ends the wait for bytes of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadLimit {
    pub(super) at: Instant,
    pub(super) end: ReadEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// The connection is idle, and the server drains.
    Idle,
    NoFirstByte,
    HeadTooSlow,
}

/// A request in progress. The request ends when this value is dropped, with the body of its response.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<Connection>);

impl Connection {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        let state = ConnectionState {
            protocol: Protocol::Unknown,
            requests: 0,
            active_at: Instant::now(),
            head: HeadState::Complete,
            is_writing: false,
        };
        Self {
            connections,
            state: Mutex::new(state),
            is_cut: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Records the beginning of a request.
    pub(crate) fn begin_request(self: &Arc<Self>, is_http2: bool) -> RequestGuard {
        let mut state = lock(&self.state);
        state.protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        state.head = HeadState::Complete;
        state.requests += 1;
        drop(state);
        RequestGuard(Arc::clone(self))
    }

    /// Records bytes that have arrived.
    pub(super) fn received(&self, bytes: &[u8]) {
        let is_draining = self.connections.is_draining();
        let mut state = lock(&self.state);
        if state.protocol == Protocol::Unknown {
            let is_http2 = bytes.starts_with(&HTTP2_PREFACE[..HTTP2_PREFACE.len().min(bytes.len())]);
            state.protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        }
        if state.protocol == Protocol::Http1 && state.requests == 0 && state.head == HeadState::Complete {
            state.head = HeadState::Begun;
        }
        if is_draining {
            state.active_at = Instant::now();
        }
    }

    /// Returns until when the server waits for more bytes. `None` is forever.
    pub(super) fn read_limit(&self, config: &ServeConfig) -> Option<ReadLimit> {
        let is_draining = self.connections.is_closing_idle();
        let mut state = lock(&self.state);
        let mut limits = [None, None];
        if is_draining && state.is_idle() {
            limits[0] = state.active_at.checked_add(config.linger).map(|at| ReadLimit { at, end: ReadEnd::Idle });
        }
        limits[1] = match (state.protocol, state.head) {
            (Protocol::Unknown, _) => after(state.active_at, config.first_byte_timeout, ReadEnd::NoFirstByte),
            (Protocol::Http1, HeadState::Begun) => {
                let since = Instant::now();
                state.head = HeadState::Awaited { since };
                after(since, config.header_timeout, ReadEnd::HeadTooSlow)
            }
            (Protocol::Http1, HeadState::Awaited { since }) => {
                after(since, config.header_timeout, ReadEnd::HeadTooSlow)
            }
            _ => None,
        };
        limits.into_iter().flatten().min_by_key(|limit| limit.at)
    }

    /// Returns `true` if the connection is open only because its client may send another request.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.state).is_idle()
    }

    /// Makes each read and write fail. Returns how many requests that cuts off.
    pub(super) fn cut(&self) -> usize {
        self.is_cut.store(true, Ordering::Release);
        self.wake();
        let state = lock(&self.state);
        let has_more = state.protocol == Protocol::Upgraded || state.is_writing && state.requests == 0;
        state.requests + usize::from(has_more)
    }

    /// Records that bytes wait for the client to read, or that the client has read them.
    pub(super) fn set_writing(&self, is_writing: bool) {
        let mut state = lock(&self.state);
        state.is_writing = is_writing;
        state.active_at = Instant::now();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    pub(super) fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    pub(super) fn register_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    pub(super) fn register_writer(&self, waker: &Waker) {
        self.writer.register(waker);
    }
}

impl ConnectionState {
    fn is_idle(&self) -> bool {
        self.requests == 0 && !self.is_writing && matches!(self.protocol, Protocol::Unknown | Protocol::Http1)
    }
}

impl RequestGuard {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }

    /// Records that another protocol takes the connection over.
    pub(crate) fn upgrade(&self) {
        lock(&self.0.state).protocol = Protocol::Upgraded;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.0.state);
        state.requests -= 1;
        state.active_at = now;
    }
}

fn after(since: Instant, limit: Option<Duration>, end: ReadEnd) -> Option<ReadLimit> {
    limit.and_then(|limit| since.checked_add(limit)).map(|at| ReadLimit { at, end })
}

impl_debug!(Connection |this| { is_cut: this.is_cut(), .. });
