//! [`Report`], which a watch passes to its callbacks.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Id;

use super::label::Label;
use super::slot::SlotView;
use super::stack::{Capture, Hint, Stack};
use crate::rounded::rounded;

/// A change that a [`Watch`](super::Watch) reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Report {
    /// A worker is blocked. Reported at the threshold, and again each time that the blocked time has doubled.
    Blocked(Blocked),
    /// A worker that was reported as blocked has returned to its scheduler, or its runtime has shut down.
    Recovered(Recovered),
}

/// A worker that is blocked: it has not returned to its scheduler for at least the threshold of the watch.
///
/// The `Display` text is one line, without the stack: ``worker 1 (tokio-rt-worker) blocked for 112ms by `GET /report` at
/// app::report (src/main.rs:7): it sleeps: use tokio::time::sleep``.
#[derive(Clone)]
pub struct Blocked(Arc<BlockedParts>);

#[derive(Clone, Debug)]
struct BlockedParts {
    runtime: Id,
    worker: usize,
    thread: Option<String>,
    label: Option<Label>,
    since: Instant,
    at: Instant,
    repeats: u32,
    stack: Option<Stack>,
}

/// A worker that was blocked has returned to its scheduler, or its runtime has shut down.
#[derive(Clone, Debug)]
pub struct Recovered {
    last: Blocked,
    total: Duration,
    /// `true` if the thread has emitted the event of the slow poll, in the span of its task, or if no event is due.
    pub(super) is_logged: bool,
    /// `true` if one poll with the label of the last report has blocked the worker all the time.
    pub(super) is_one_poll: bool,
}

impl Blocked {
    pub(super) fn new(runtime: Id, worker: usize, since: Instant, at: Instant) -> Self {
        Self(Arc::new(BlockedParts { runtime, worker, thread: None, label: None, since, at, repeats: 0, stack: None }))
    }

    /// Adds the label of the slot, and the name and the stack of its thread.
    pub(super) fn with_thread(mut self, slot: &SlotView, capture: Option<&Capture>) -> Self {
        let parts = Arc::make_mut(&mut self.0);
        parts.label = slot.poll.label();
        if let Some(thread) = slot.thread() {
            parts.stack = capture.and_then(|capture| capture.stack_of(&thread));
            parts.thread = thread.name;
        }
        self
    }

    /// Marks this report as a repetition of `last`.
    pub(super) fn repeating(mut self, last: &Self) -> Self {
        Arc::make_mut(&mut self.0).repeats = last.repeats() + 1;
        self
    }

    /// Returns the [id](tokio::runtime::Handle::id) of the worker's runtime.
    #[must_use]
    pub fn runtime(&self) -> Id {
        self.0.runtime
    }

    /// Returns the index of the worker in its runtime, from 0. A current-thread runtime has one worker.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.0.worker
    }

    /// Returns the name of the worker's thread. Returns `None` if the thread has no name, or if the watch does not know
    /// the thread: see [`register_thread`](super::register_thread). If the report has no label, the name may be that of
    /// the previous thread, which has just handed the worker over in `block_in_place`.
    #[must_use]
    pub fn thread(&self) -> Option<&str> {
        self.0.thread.as_deref()
    }

    /// Returns the label of the innermost [watched](super::watch()) future that the worker polled when the report was
    /// made, such as the route of a request. Returns `None` if the worker polled no watched future.
    #[must_use]
    pub fn label(&self) -> Option<&'static str> {
        self.0.label.map(Label::as_str)
    }

    /// Returns when the watch took the first sample of this block. The block began at most one
    /// [interval](super::Watch#precision) earlier.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.0.since
    }

    /// Returns how long the worker had been blocked when the report was made.
    #[must_use]
    pub fn blocked_for(&self) -> Duration {
        self.0.at - self.0.since
    }

    /// Returns how many reports of this block came before.
    #[must_use]
    pub fn repeats(&self) -> u32 {
        self.0.repeats
    }

    /// Returns the stack of the worker's thread, if the watch [captures stacks](super::WatchBuilder::capture_stacks).
    #[must_use]
    pub fn stack(&self) -> Option<&Stack> {
        self.0.stack.as_ref()
    }

    /// Returns what the thread seems to do. The text of the hint says how to fix it.
    #[must_use]
    pub fn hint(&self) -> Hint {
        Hint::of(self.stack())
    }
}

impl Recovered {
    /// Emits no event for this recovery.
    pub(super) fn without_event(self) -> Self {
        Self { is_logged: true, ..self }
    }

    pub(super) fn new(last: Blocked, at: Instant, is_one_poll: bool, is_logged: bool) -> Self {
        let total = at - last.since();
        Self { last, total, is_logged, is_one_poll }
    }

    /// Returns the last report of this block.
    #[must_use]
    pub fn last(&self) -> &Blocked {
        &self.last
    }

    /// Returns how long the worker was blocked, in real time. Each end is precise to one
    /// [interval](super::Watch#precision).
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked(blocked) => blocked.fmt(f),
            Self::Recovered(recovered) => recovered.fmt(f),
        }
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}", self.worker())?;
        if let Some(thread) = self.thread() {
            write!(f, " ({thread})")?;
        }
        write!(f, " blocked for {:?}", rounded(self.blocked_for()))?;
        if let Some(label) = self.label() {
            write!(f, " by `{label}`")?;
        }
        if let Some(frame) = self.stack().and_then(Stack::culprit) {
            write!(f, " at {frame}")?;
        }
        write!(f, ": {}", self.hint())
    }
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocked")
            .field("worker", &self.worker())
            .field("thread", &self.thread())
            .field("label", &self.label())
            .field("blocked_for", &self.blocked_for())
            .field("stack", &self.stack())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} recovered after {:?}", self.last.worker(), rounded(self.total))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Blocked {
    /// Serializes the worker, the thread, the label, how long the worker had been blocked, the culprit and the hint.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut blocked = serializer.serialize_struct("Blocked", 6)?;
        blocked.serialize_field("worker", &self.worker())?;
        blocked.serialize_field("thread", &self.thread())?;
        blocked.serialize_field("label", &self.label())?;
        blocked.serialize_field("blocked_for_seconds", &self.blocked_for().as_secs_f64())?;
        blocked.serialize_field("at", &self.stack().and_then(Stack::culprit).map(ToString::to_string))?;
        blocked.serialize_field("hint", &self.hint().to_string())?;
        blocked.end()
    }
}
