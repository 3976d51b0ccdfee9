//! [`GuardOptions`], which configure how a guarded route treats its requests.

use std::time::Duration;

use super::refusal::RefusalHook;
use super::{KeyKind, Refusal, RequestHead};
use crate::debug::impl_debug;

/// The behaviour of a handler whose client disconnects while the handler runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// The handler runs to its end in its own task and holds its permit, as handlers do in FastAPI. Its response is
    /// dropped. Nothing is spawned as long as the client stays connected.
    ///
    /// A timeout layer around the guard layer acts like a client that disconnects: the timeout layer responds, but does
    /// not release the permit. Put the timeout layer [behind the guard layer](crate::web#time-limits).
    ///
    /// A handler that continues without its client stays in the tracing span of its request. The handler loses the
    /// task-locals that outer layers have set: reading such a task-local then panics, or fails with `try_with`. Read
    /// task-locals at the start of the handler.
    #[default]
    Finish,
    /// The handler is dropped at its next `.await`, like a handler without a guard.
    Cancel,
}

/// The time for which a request holds its permit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// Until the handler has returned. If the response body is a stream, in which the work continues, until the stream
    /// has ended, but for at most [`body_hold_max`](GuardOptions::body_hold_max).
    ///
    /// A body that is already in memory does not hold the permit while the client reads it. Behind the tower layer, a
    /// stream of at most 64 KiB whose length is known beforehand counts as in memory.
    #[default]
    Auto,
    /// Until the handler has returned, even if the response body is a stream.
    Head,
    /// Until the response body, of any kind, has been handed to the server or dropped, but for at most
    /// [`body_hold_max`](GuardOptions::body_hold_max).
    Body,
}

/// Configures how a guarded route treats its requests. The defaults suit most routes.
///
/// If a permit is available at once, the handler is called before the request's body has arrived, so a client that
/// sends slowly holds its permit while it sends. Where that matters, set a read timeout in the server, or read the body
/// first and acquire the guard in the handler.
///
/// The limits need tokio's timer, which every web server on tokio has.
///
/// ```
/// use std::time::Duration;
/// use onelane::web::{GuardOptions, Hold, OnDisconnect};
///
/// let options = GuardOptions::new()
///     .on_disconnect(OnDisconnect::Cancel)
///     .hold(Hold::Body)
///     .body_hold_max(Duration::from_secs(5));
/// ```
#[derive(Clone)]
#[must_use]
pub struct GuardOptions {
    pub(crate) on_disconnect: OnDisconnect,
    pub(crate) max_run: Option<Duration>,
    pub(crate) hold: Hold,
    pub(crate) body_hold_max: Option<Duration>,
    pub(crate) key_kind: KeyKind,
    #[cfg(feature = "tower")]
    pub(crate) read_ahead: usize,
    pub(crate) on_refusal: RefusalHook,
}

impl GuardOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            on_disconnect: OnDisconnect::Finish,
            max_run: Some(Duration::from_secs(3600)),
            hold: Hold::Auto,
            body_hold_max: Some(Duration::from_secs(30)),
            key_kind: KeyKind::Client,
            #[cfg(feature = "tower")]
            read_ahead: 64 * 1024,
            on_refusal: RefusalHook::default(),
        }
    }

    /// Sets what happens to a handler whose client disconnects while the handler runs. Default:
    /// [`OnDisconnect::Finish`].
    pub fn on_disconnect(mut self, on_disconnect: OnDisconnect) -> Self {
        self.on_disconnect = on_disconnect;
        self
    }

    /// Limits how long a handler may continue after its client has disconnected. After that time the handler is
    /// dropped. Default: one hour. `None` means no limit.
    pub fn max_run(mut self, max_run: impl Into<Option<Duration>>) -> Self {
        self.max_run = max_run.into();
        self
    }

    /// Sets how long a request holds its permit. Default: [`Hold::Auto`].
    pub fn hold(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }

    /// Sets how long a response body may hold the permit, counted from the response's head. After that time the next
    /// request runs alongside it. `None` means no limit.
    ///
    /// The default, 30 seconds, keeps one slow reader from occupying the endpoint. Long exports and event streams need
    /// a higher limit, or none.
    pub fn body_hold_max(mut self, body_hold_max: impl Into<Option<Duration>>) -> Self {
        self.body_hold_max = body_hold_max.into();
        self
    }

    /// Sets what the keys of a keyed guard stand for: clients or resources. Default: [`KeyKind::Client`].
    pub fn key_kind(mut self, key_kind: KeyKind) -> Self {
        self.key_kind = key_kind;
        self
    }

    /// Sets how many bytes of its body a request may read while it waits. The last read may exceed the limit. A frame
    /// of less than about 100 bytes counts as 100. Default: 64 KiB; 0 reads nothing.
    ///
    /// A server based on hyper notices that a client has disconnected only when nothing of its request is unread. So
    /// while a request waits, its body is read into memory, and the handler gets it from there.
    ///
    /// A client that sends `Expect: 100-continue` gets its `100 Continue` when the reading begins. If the body fails
    /// while it is read ahead, the request gets status 400. So put a limit on the body's size behind the guard, where
    /// its error reaches the handler.
    #[cfg(feature = "tower")]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// Changes the response to requests that are refused, for any [reason](Refusal::reason): see [`Refusal`].
    pub fn on_refusal(mut self, change: impl Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync + 'static) -> Self {
        self.on_refusal = RefusalHook::new(change);
        self
    }
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl_debug!(GuardOptions |this| {
    on_disconnect: this.on_disconnect, max_run: this.max_run, hold: this.hold, body_hold_max: this.body_hold_max,
    key_kind: this.key_kind, ..
});
