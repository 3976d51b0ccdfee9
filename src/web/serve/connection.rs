//! [`Connection`], what the I/O and the requests of one connection know of each other.

use std::mem;
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
use crate::web::TaskStart;
use crate::web::background_tasks::{RequestTasks, TaskList};

/// How the first bytes of an HTTP/2 connection begin (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI";

/// How long the server may take to close a connection that has lingered. It may not read from the connection, for
/// instance if it waits for the rest of a request that it has responded to.
const GRACE: Duration = Duration::from_millis(50);

/// One open connection.
pub(crate) struct Connection {
    connections: Arc<Connections>,
    state: Mutex<ConnectionState>,
    /// Nothing will be written any more.
    is_closed: AtomicBool,
    /// The server fails to read and to write from now on.
    is_cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// The tasks that start once the end of their responses is written.
    unflushed: Mutex<Vec<UnflushedTasks>>,
    has_unflushed: AtomicBool,
}

struct UnflushedTasks {
    tasks: TaskList,
    /// The response, which has no body, is not written yet.
    is_unwritten: bool,
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
pub(crate) struct RequestGuard {
    connection: Arc<Connection>,
    tasks: Arc<RequestTasks>,
    has_responded: bool,
    /// Parts of the body have been passed to the server with this value.
    has_body: bool,
}

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
            is_closed: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            unflushed: Mutex::default(),
            has_unflushed: AtomicBool::new(false),
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
        let tasks = RequestTasks::new(&self.connections.tasks);
        RequestGuard { connection: Arc::clone(self), tasks, has_responded: false, has_body: false }
    }

    /// Records bytes that have arrived.
    pub(super) fn received(&self, bytes: &[u8]) {
        let is_draining = self.connections.is_draining();
        let mut state = lock(&self.state);
        if state.protocol == Protocol::Unknown {
            state.protocol = if bytes.starts_with(HTTP2_PREFACE) { Protocol::Http2 } else { Protocol::Http1 };
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

    /// Returns `true` if the connection is open because its client may be about to send another request.
    pub(super) fn is_lingering(&self) -> bool {
        let state = lock(&self.state);
        state.is_idle() && state.active_at.elapsed() < self.connections.config.linger + GRACE
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

    /// Starts tasks once everything that the server has to write is written.
    fn start_when_flushed(&self, tasks: TaskList, is_unwritten: bool) {
        lock(&self.unflushed).push(UnflushedTasks { tasks, is_unwritten });
        self.has_unflushed.store(true, Ordering::Release);
        if self.is_closed.load(Ordering::Acquire) {
            self.flushed();
        }
    }

    /// Returns `true` if tasks wait until the end of their responses is written.
    pub(super) fn has_unflushed(&self) -> bool {
        self.has_unflushed.load(Ordering::Acquire)
    }

    /// Records that bytes were written.
    pub(super) fn wrote(&self) {
        lock(&self.unflushed).iter_mut().for_each(|unflushed| unflushed.is_unwritten = false);
    }

    /// Records that everything is written that the server had to write.
    pub(super) fn flushed(&self) {
        let is_closed = self.is_closed.load(Ordering::Acquire);
        let mut unflushed = lock(&self.unflushed);
        let all = mem::take(&mut *unflushed);
        let (left, flushed): (Vec<_>, Vec<_>) = all.into_iter().partition(|tasks| tasks.is_unwritten && !is_closed);
        self.has_unflushed.store(!left.is_empty(), Ordering::Release);
        *unflushed = left;
        drop(unflushed);
        flushed.into_iter().for_each(|unflushed| unflushed.tasks.start());
    }

    /// Records that nothing will be written any more.
    pub(super) fn after_close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.flushed();
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
        &self.connection
    }

    pub(crate) fn tasks(&self) -> &Arc<RequestTasks> {
        &self.tasks
    }

    /// Records the status of the response.
    pub(crate) fn respond(&mut self, status: u16) {
        self.has_responded = true;
        self.tasks.note_response(status);
    }

    /// Returns `true` if something starts when the last bytes of the body are written. Each part of the body must then
    /// hold this value.
    pub(crate) fn follows_body(&mut self) -> bool {
        let is_flushed = self.connection.connections.tasks.config.start == TaskStart::Flushed;
        self.has_body = is_flushed && self.tasks.has_tasks();
        self.has_body
    }

    /// Records that another protocol takes the connection over.
    pub(crate) fn upgrade(&self) {
        lock(&self.connection.state).protocol = Protocol::Upgraded;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let connection = &self.connection;
        // Without a response, the handler may continue without its client, and adds tasks until it ends.
        if self.has_responded
            && let Some(tasks) = self.tasks.end()
        {
            match connection.connections.tasks.config.start {
                TaskStart::BodyEnd => tasks.start(),
                TaskStart::Flushed => connection.start_when_flushed(tasks, !self.has_body),
            }
        }
        let now = Instant::now();
        let mut state = lock(&connection.state);
        state.requests -= 1;
        state.active_at = now;
    }
}

fn after(since: Instant, limit: Option<Duration>, end: ReadEnd) -> Option<ReadLimit> {
    limit.and_then(|limit| since.checked_add(limit)).map(|at| ReadLimit { at, end })
}

impl_debug!(Connection |this| { is_cut: this.is_cut(), .. });
