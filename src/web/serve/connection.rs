//! [`Connection`], the state that the I/O and the requests of one connection share.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

use super::connections::Connections;
#[cfg(feature = "actix-web")]
use super::unwatched::UnwatchedState;
use crate::debug::impl_debug;
use crate::sync::lock;
use crate::web::TaskStart;
use crate::web::background_tasks::{OpenTasks, TaskList};

/// One open connection.
pub(crate) struct Connection {
    pub(super) connections: Arc<Connections>,
    pub(super) state: Mutex<ConnectionState>,
    /// Nothing more will be written.
    is_closed: AtomicBool,
    /// Every read and write of the server fails from now on.
    is_cut: AtomicBool,
    /// The time to wait for bytes from the client may be over. The reader checks whether it is.
    pub(super) may_have_ended: AtomicBool,
    pub(super) reader: AtomicWaker,
    pub(super) writer: AtomicWaker,
    /// The tasks that start once their responses have been written to the end.
    pub(super) unflushed: Mutex<Vec<UnflushedTasks>>,
    pub(super) has_unflushed: AtomicBool,
}

pub(super) struct UnflushedTasks {
    tasks: TaskList,
    /// The response has no body, and has not been written yet.
    pub(super) is_unwritten: bool,
}

pub(super) struct ConnectionState {
    pub(super) protocol: Protocol,
    /// Requests whose response has not ended.
    pub(super) requests: usize,
    /// Bodies of requests that are being read, some of them after the response.
    pub(super) uploads: usize,
    /// Streams of an HTTP/2 connection that other protocols have taken over. A tunnel counts until the connection ends.
    pub(super) tunnels: usize,
    /// When the connection was opened, when its last request ended or, while the server drains, when its last byte
    /// arrived.
    pub(super) active_at: Instant,
    /// How much of the next request's head has arrived. Over HTTP/2, the head is complete once the first request has
    /// arrived.
    pub(super) head: HeadState,
    /// The client reads more slowly than the server writes. The body of the response may have ended already.
    pub(super) is_writing: bool,
    #[cfg(feature = "actix-web")]
    pub(super) unwatched: UnwatchedState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// No byte has arrived.
    Unknown,
    Http1,
    Http2,
    /// Another protocol, such as WebSocket, has taken over the connection.
    Upgraded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadState {
    Complete,
    /// Bytes of the head have arrived. The time limit for the head begins when the server next checks its connections.
    Begun,
    Awaited {
        since: Instant,
    },
}

/// A request in progress. The request ends when this value is dropped, with the body of its response.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    connection: Arc<Connection>,
    tasks: OpenTasks,
    has_responded: bool,
    /// The handler had added tasks when it responded.
    has_tasks: bool,
    /// The response has a body.
    has_body: bool,
}

impl Connection {
    pub(super) fn new(connections: Arc<Connections>) -> Self {
        let state = ConnectionState {
            protocol: Protocol::Unknown,
            requests: 0,
            uploads: 0,
            tunnels: 0,
            active_at: Instant::now(),
            head: HeadState::Complete,
            is_writing: false,
            #[cfg(feature = "actix-web")]
            unwatched: UnwatchedState::default(),
        };
        Self {
            connections,
            state: Mutex::new(state),
            is_closed: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            may_have_ended: AtomicBool::new(false),
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
        let tasks = OpenTasks::new(&self.connections.tasks);
        RequestGuard { connection: Arc::clone(self), tasks, has_responded: false, has_tasks: false, has_body: false }
    }

    /// Records that the body of a request is being read.
    #[cfg(feature = "axum")]
    pub(crate) fn begin_upload(self: &Arc<Self>) -> UploadGuard {
        lock(&self.state).uploads += 1;
        UploadGuard(Arc::clone(self))
    }

    /// Makes every read and write fail. Returns the number of requests that are cut off.
    pub(super) fn cut(&self) -> usize {
        let state = lock(&self.state);
        let is_in_use = state.protocol == Protocol::Upgraded || state.is_writing || state.uploads > 0;
        // Counted first, because the connection ends on another thread once it is marked as cut off.
        let requests = state.tunnels + if is_in_use { state.requests.max(1) } else { state.requests };
        drop(state);
        self.is_cut.store(true, Ordering::Release);
        self.wake();
        requests
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    pub(super) fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// Starts the tasks once the server has written everything that it has to write.
    fn start_when_flushed(&self, tasks: TaskList, is_unwritten: bool) {
        lock(&self.unflushed).push(UnflushedTasks { tasks, is_unwritten });
        self.has_unflushed.store(true, Ordering::Release);
        if self.is_closed.load(Ordering::Acquire) {
            self.flushed();
        } else if lock(&self.state).protocol == Protocol::Http2 {
            // The stream has ended in its own task. The connection's task may have written the stream's last bytes
            // already, and flushes once more when it is polled.
            self.reader.wake();
        }
    }

    /// Records that the server has written everything that it had to write.
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

    /// Records that nothing more will be written.
    pub(super) fn after_close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.flushed();
    }
}

impl ConnectionState {
    #[cfg(feature = "axum")]
    pub(super) fn is_idle(&self) -> bool {
        self.is_unused() && matches!(self.protocol, Protocol::Unknown | Protocol::Http1)
    }

    /// Returns `true` if no request is in progress, and nothing waits for the client.
    #[cfg(feature = "axum")]
    pub(super) fn is_unused(&self) -> bool {
        self.requests == 0 && self.uploads == 0 && self.tunnels == 0 && !self.is_writing
    }
}

impl RequestGuard {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn tasks(&self) -> &OpenTasks {
        &self.tasks
    }

    /// Records the status of the response.
    pub(crate) fn respond(&mut self, status: u16) {
        self.has_responded = true;
        self.has_tasks = self.tasks.note_response(status);
    }

    /// Records that the response has a body. Returns `true` if tasks start when its last bytes have been written. Each
    /// part of the body must then hold this value.
    pub(crate) fn follows_body(&mut self) -> bool {
        self.has_body = true;
        self.has_tasks && self.connection.connections.tasks.config.start == TaskStart::Flushed
    }

    /// Records that another protocol takes over the connection or, over HTTP/2, the stream of this request.
    pub(crate) fn upgrade(&self) {
        let mut state = lock(&self.connection.state);
        if state.protocol == Protocol::Http2 {
            state.tunnels += 1;
        } else {
            state.protocol = Protocol::Upgraded;
        }
    }
}

/// The body of a request that is being read. The upload ends when this value is dropped.
#[cfg(feature = "axum")]
#[derive(Debug)]
pub(crate) struct UploadGuard(Arc<Connection>);

#[cfg(feature = "axum")]
impl Drop for UploadGuard {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.0.state);
        state.uploads -= 1;
        state.active_at = now;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let connection = &self.connection;
        // If there is no response, the handler may continue without its client and add more tasks. The layer that runs
        // the handler then closes the list of tasks when the handler ends.
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

impl_debug!(Connection |this| { is_cut: this.is_cut(), .. });
