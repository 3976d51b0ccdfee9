//! [`GuardOptions`], how a guarded route treats its requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Admission, refusal_per_key};
use super::{KeyKind, Refusal};
use crate::guard::AcquireError;

/// What becomes of a handler whose client leaves while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// It runs to its end, holding its permit, in a task of its own, as handlers do in FastAPI. Its answer is dropped.
    /// Nothing is spawned as long as clients stay.
    #[default]
    Finish,
    /// It is dropped at its next `.await`, as handlers are without a guard.
    Cancel,
}

/// How long a request holds its permit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hold {
    /// Until the handler has returned, and if its answer is a stream, until the stream has ended, for
    /// [`body_hold_max`](GuardOptions::body_hold_max) at most: the work goes on in it. An answer that is already in memory holds nothing while the client reads it. (Behind the tower layer, a stream
    /// of up to 64 KiB whose length is known beforehand counts as in memory.)
    #[default]
    Auto,
    /// Until the handler has returned, streams too.
    Head,
    /// Until the body was handed to the server, or dropped, whatever it is, for
    /// [`body_hold_max`](GuardOptions::body_hold_max) at most.
    Body,
}

/// How a guarded route treats its requests. The defaults are right for most.
///
/// A request whose turn comes at once is in the handler before its body has arrived: a client that sends slowly then
/// holds its turn while it sends. Where that matters, give the server a limit on reading, or read the body first and
/// acquire the guard within the handler.
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
    pub(crate) max_run: Duration,
    pub(crate) hold: Hold,
    pub(crate) body_hold_max: Duration,
    pub(crate) key_kind: KeyKind,
    #[cfg(feature = "tower")]
    pub(crate) read_ahead: usize,
    on_refusal: Option<Arc<dyn Fn(Refusal) -> Refusal + Send + Sync>>,
}

/// What one layer or middleware and all services behind it share.
pub(super) struct Settings<Q> {
    pub(super) admission: Admission<Q>,
    pub(super) options: GuardOptions,
}

impl<Q> Settings<Q> {
    /// The answer to a request that its lane does not let in.
    pub(super) fn refuse(&self, error: AcquireError) -> Refusal {
        let refusal = match self.admission {
            Admission::One(_) => error.into(),
            Admission::PerKey(_) => refusal_per_key(error, self.options.key_kind),
        };
        self.options.refuse(refusal)
    }
}

impl GuardOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            on_disconnect: OnDisconnect::Finish,
            max_run: Duration::from_secs(3600),
            hold: Hold::Auto,
            body_hold_max: Duration::from_secs(30),
            key_kind: KeyKind::Client,
            #[cfg(feature = "tower")]
            read_ahead: 64 * 1024,
            on_refusal: None,
        }
    }

    /// What becomes of a handler whose client leaves while it runs. Default: [`OnDisconnect::Finish`].
    pub fn on_disconnect(mut self, on_disconnect: OnDisconnect) -> Self {
        self.on_disconnect = on_disconnect;
        self
    }

    /// How long a handler may go on at most after its client has left; then it is dropped. Default: one hour.
    /// `Duration::MAX` is no limit.
    pub fn max_run(mut self, max_run: Duration) -> Self {
        self.max_run = max_run;
        self
    }

    /// How long a request holds its permit. Default: [`Hold::Auto`].
    pub fn hold(mut self, hold: Hold) -> Self {
        self.hold = hold;
        self
    }

    /// How long a response body may hold the permit at most, counted from its head; then the next request goes on
    /// beside it. Default: 30 seconds, so that one slow reader does not own the endpoint. `Duration::MAX` is no limit: say
    /// so for long exports and event streams.
    pub fn body_hold_max(mut self, body_hold_max: Duration) -> Self {
        self.body_hold_max = body_hold_max;
        self
    }

    /// What the keys of a keyed guard stand for: clients, or resources. Default: [`KeyKind::Client`].
    pub fn key_kind(mut self, key_kind: KeyKind) -> Self {
        self.key_kind = key_kind;
        self
    }

    /// How many bytes of its body a request may read while it waits, plus what one read brings. Default: 64 KiB. Frames
    /// smaller than about 100 bytes count as 100.
    ///
    /// A server based on hyper notices that a client has left only when nothing of its request is unread. So a request
    /// that waits reads its body into memory, and the handler finds it there. With 0 nothing is read.
    ///
    /// A client that asks with `Expect: 100-continue` is told to go on when the reading begins. A body that fails while
    /// it is read here is answered with 400: put a limit on its size behind the guard, where it is the handler that
    /// meets it.
    #[cfg(feature = "tower")]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// Changes the answer to requests that are not let in, for whatever [reason](Refusal::reason): see [`Refusal`].
    pub fn on_refusal(mut self, change: impl Fn(Refusal) -> Refusal + Send + Sync + 'static) -> Self {
        self.on_refusal = Some(Arc::new(change));
        self
    }

    pub(crate) fn refuse(&self, refusal: Refusal) -> Refusal {
        match &self.on_refusal {
            Some(change) => change(refusal),
            None => refusal,
        }
    }
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for GuardOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardOptions")
            .field("on_disconnect", &self.on_disconnect)
            .field("max_run", &self.max_run)
            .field("hold", &self.hold)
            .field("body_hold_max", &self.body_hold_max)
            .field("key_kind", &self.key_kind)
            .finish_non_exhaustive()
    }
}

impl<Q> fmt::Debug for Settings<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let admission: &dyn fmt::Debug = match &self.admission {
            Admission::One(guard) => guard,
            Admission::PerKey(_) => &"per key",
        };
        f.debug_struct("Settings").field("admission", admission).field("options", &self.options).finish()
    }
}
