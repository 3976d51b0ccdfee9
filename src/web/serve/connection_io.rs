//! What the I/O of a [`Connection`] reports, and how long the I/O may wait.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::config::ServeConfig;
use super::connection::{Connection, HeadState, Protocol};
use crate::sync::lock;

/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI";

/// How long the server may take to close a connection that has lingered. The time is limited because the server might
/// not be reading from the connection, for instance if it waits for the rest of a request that it has responded to.
const GRACE: Duration = Duration::from_millis(50);

/// Why the wait for bytes from the client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadEnd {
    /// The connection is idle, and the server drains.
    Idle,
    NoFirstByte,
    HeadTooSlow,
}

impl Connection {
    /// Records bytes that have arrived.
    pub(super) fn received(&self, bytes: &[u8]) {
        let is_draining = self.connections.is_draining();
        let mut state = lock(&self.state);
        if state.protocol == Protocol::Unknown && bytes.starts_with(HTTP2_PREFACE) {
            (state.protocol, state.head) = (Protocol::Http2, HeadState::Begun);
        } else if state.protocol == Protocol::Unknown {
            state.protocol = Protocol::Http1;
        }
        if state.protocol == Protocol::Http1 && state.is_unused() && state.head == HeadState::Complete {
            state.head = HeadState::Begun;
        }
        if is_draining {
            state.active_at = Instant::now();
        }
    }

    /// Returns why the server need not wait for more bytes, or `None` if it must wait.
    pub(super) fn read_end(&self) -> Option<ReadEnd> {
        if !self.may_have_ended.swap(false, Ordering::AcqRel) {
            return None;
        }
        // Bytes may have arrived since the server checked all connections.
        self.read_end_at(Instant::now())
    }

    /// Wakes the reader if the server need not wait for more bytes from this client.
    pub(super) fn check_limits(&self, now: Instant) {
        if self.read_end_at(now).is_some() {
            self.may_have_ended.store(true, Ordering::Release);
            self.reader.wake();
        }
    }

    fn read_end_at(&self, now: Instant) -> Option<ReadEnd> {
        let ServeConfig { linger, first_byte_timeout, header_timeout, .. } = self.connections.config;
        let mut state = lock(&self.state);
        let has_passed = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let idle_since = match state.protocol {
            // The server waits for a response to its GOAWAY, which a client that is gone never sends.
            Protocol::Http2 if state.is_unused() => self.connections.goaway_at.get().map(|at| state.active_at.max(*at)),
            _ => (self.connections.is_closing_idle() && state.is_idle()).then_some(state.active_at),
        };
        if idle_since.is_some_and(|since| has_passed(since, linger)) {
            return Some(ReadEnd::Idle);
        }
        let (since, limit, end) = match (state.protocol, state.head) {
            // No request has arrived over HTTP/2.
            (Protocol::Unknown, _) | (Protocol::Http2, HeadState::Begun) => {
                (state.active_at, first_byte_timeout, ReadEnd::NoFirstByte)
            }
            (Protocol::Http1, HeadState::Begun) => {
                state.head = HeadState::Awaited { since: now };
                return None;
            }
            (Protocol::Http1, HeadState::Awaited { since }) => (since, header_timeout, ReadEnd::HeadTooSlow),
            _ => return None,
        };
        limit.is_some_and(|limit| has_passed(since, limit)).then_some(end)
    }

    /// Returns `true` if the connection is open because its client may be about to send another request.
    pub(super) fn is_lingering(&self) -> bool {
        let state = lock(&self.state);
        state.is_idle() && state.active_at.elapsed() < self.connections.config.linger.saturating_add(GRACE)
    }

    /// Records whether written bytes are waiting for the client to read them.
    pub(super) fn set_writing(&self, is_writing: bool) {
        let mut state = lock(&self.state);
        state.is_writing = is_writing;
        state.active_at = Instant::now();
    }

    /// Returns `true` if tasks are waiting until their responses have been written to the end.
    pub(super) fn has_unflushed(&self) -> bool {
        self.has_unflushed.load(Ordering::Acquire)
    }

    /// Records that bytes were written.
    pub(super) fn wrote(&self) {
        lock(&self.unflushed).iter_mut().for_each(|unflushed| unflushed.is_unwritten = false);
    }

    /// Wakes the task of an HTTP/1 request if the connection is cut off. The same task reads from the connection and
    /// writes to it.
    pub(crate) fn wake_when_cut(&self, waker: &Waker) {
        self.register_reader(waker);
    }

    pub(super) fn register_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    pub(super) fn register_writer(&self, waker: &Waker) {
        self.writer.register(waker);
    }
}
