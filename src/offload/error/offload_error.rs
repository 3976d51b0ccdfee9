//! [`OffloadError`], why a task has no result.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::kind::OffloadErrorKind;
use super::progress::Progress;
use crate::panic::Panic;
use crate::rounded::rounded;

/// Why a task of a pool has no result.
///
/// [`kind`](Self::kind) returns the reason, and the other methods return the details. `Display` is for the developer's
/// log: it names the pool and the task, and says what to do. Don't send it to clients: the [refusal](crate::web) that
/// an error becomes has a text of its own.
///
/// The closure's own errors are not part of this type: a closure that returns a `Result` yields a `Result` in a
/// `Result`.
///
/// # Examples
///
/// ```
/// use onelane::BlockingPool;
/// use onelane::offload::OffloadErrorKind;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool = BlockingPool::new("exports");
/// pool.close();
/// let error = pool.run(|| 7).await.unwrap_err();
/// assert_eq!(error.kind(), OffloadErrorKind::Closed);
/// assert_eq!(error.pool(), Some("exports"));
/// # }
/// ```
///
/// A test can make an error from its kind:
///
/// ```
/// use onelane::offload::{OffloadError, OffloadErrorKind};
///
/// let error = OffloadError::from(OffloadErrorKind::NoThread).with_source("no memory for a stack");
/// assert_eq!(error, OffloadErrorKind::NoThread);
/// ```
#[derive(Clone)]
pub struct OffloadError(Box<ErrorDetails>);

#[derive(Clone)]
struct ErrorDetails {
    kind: OffloadErrorKind,
    progress: Progress,
    pool: Option<Cow<'static, str>>,
    label: Option<Cow<'static, str>>,
    /// How many tasks were queued in a pool that was full.
    queued: Option<usize>,
    waited: Option<Duration>,
    retry_after: Option<Duration>,
    panic: Option<Panic>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl OffloadError {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> OffloadErrorKind {
        self.0.kind
    }

    /// Returns the name of the pool. `None` only for an error that was made from its kind.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        self.0.pool.as_deref()
    }

    /// Returns the [label](crate::offload::Task::label) of the task, if the task has one.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.label.as_deref()
    }

    /// Returns how long the caller had waited since the task was submitted. `Some` for a task that exceeded one of its
    /// time limits: [`QueueTimeout`](OffloadErrorKind::QueueTimeout) and [`Timeout`](OffloadErrorKind::Timeout).
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.0.waited
    }

    /// Returns how long to wait before the next attempt, or `None` if [`with_retry_after`](Self::with_retry_after) was
    /// not called.
    ///
    /// A pool does not measure how long its tasks run, so its own errors have no estimate. An
    /// [overload](Self::is_overload) without an estimate becomes a refusal that asks for a retry after one second.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns how far the task got.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.0.progress
    }

    /// Returns the panic of a task that [panicked](OffloadErrorKind::Panicked).
    #[must_use]
    pub fn panic(&self) -> Option<&Panic> {
        self.0.panic.as_ref()
    }

    /// Returns the panic of a task that [panicked](OffloadErrorKind::Panicked), with its
    /// [payload](Panic::into_payload). [`Panic::resume_unwind`] resumes the panic.
    ///
    /// # Errors
    ///
    /// Returns the error itself if it has another kind.
    pub fn into_panic(mut self) -> Result<Panic, Self> {
        self.0.panic.take().ok_or(self)
    }

    /// Returns `true` if the pool had too much work, so that a later attempt may succeed: the pool was full, the task
    /// did not start in time, or there was no thread for it.
    ///
    /// A task that has started and timed out is not overload: it may still run.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        match self.kind() {
            OffloadErrorKind::Full | OffloadErrorKind::QueueTimeout | OffloadErrorKind::NoThread => true,
            OffloadErrorKind::Timeout => self.progress() == Progress::NotStarted,
            OffloadErrorKind::Cancelled
            | OffloadErrorKind::Panicked
            | OffloadErrorKind::Closed
            | OffloadErrorKind::RuntimeShutdown
            | OffloadErrorKind::NoRuntime
            | OffloadErrorKind::WouldDeadlock => false,
        }
    }

    /// Sets the error that [`source`](Error::source) returns.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Sets how long to wait before the next attempt. A [refusal](crate::web) for an overload sends that time to the
    /// client.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// Sets how far the task got, for tests of code that distinguishes the outcomes of a
    /// [`Timeout`](OffloadErrorKind::Timeout).
    #[must_use]
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.0.progress = progress;
        self
    }

    pub(crate) fn panicked(panic: Panic) -> Self {
        let mut error = Self::from(OffloadErrorKind::Panicked);
        error.0.panic = Some(panic);
        error
    }

    pub(crate) fn full(queued: usize) -> Self {
        let mut error = Self::from(OffloadErrorKind::Full);
        error.0.queued = Some(queued);
        error
    }

    /// Records how long the caller had waited.
    pub(crate) fn after(mut self, waited: Duration) -> Self {
        self.0.waited = Some(waited);
        self
    }

    /// Replaces the kind and keeps the details.
    #[cfg(feature = "process")]
    pub(crate) fn with_kind(mut self, kind: OffloadErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Records the pool and the label of the task.
    pub(crate) fn of_task(mut self, pool: Cow<'static, str>, label: Option<Cow<'static, str>>) -> Self {
        (self.0.pool, self.0.label) = (Some(pool), label);
        self
    }
}

/// Makes an error without details, for tests. A [`Timeout`](OffloadErrorKind::Timeout) is one of a task that never
/// started, unless [`with_progress`](OffloadError::with_progress) changes that.
impl From<OffloadErrorKind> for OffloadError {
    fn from(kind: OffloadErrorKind) -> Self {
        let progress = match kind {
            OffloadErrorKind::Panicked => Progress::Stopped,
            _ => Progress::NotStarted,
        };
        let details = ErrorDetails {
            kind,
            progress,
            pool: None,
            label: None,
            queued: None,
            waited: None,
            retry_after: None,
            panic: None,
            source: None,
        };
        Self(Box::new(details))
    }
}

/// Compares all details but the [`source`](Error::source).
impl PartialEq for OffloadError {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (&*self.0, &*other.0);
        (left.kind, left.progress, left.queued, left.waited) == (right.kind, right.progress, right.queued, right.waited)
            && (&left.pool, &left.label, &left.panic) == (&right.pool, &right.label, &right.panic)
            && left.retry_after == right.retry_after
    }
}

impl Eq for OffloadError {}

/// Compares the kind only.
impl PartialEq<OffloadErrorKind> for OffloadError {
    fn eq(&self, kind: &OffloadErrorKind) -> bool {
        self.kind() == *kind
    }
}

impl Error for OffloadError {
    /// Returns the error of the operating system for [`NoThread`](OffloadErrorKind::NoThread), as far as tokio reports
    /// it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &*self.0;
        let pool = details.pool.as_ref().map_or_else(|| "the pool".to_owned(), |pool| format!("pool `{pool}`"));
        let task = details.label.as_ref().map_or_else(|| "the task".to_owned(), |label| format!("task `{label}`"));
        let task = if details.pool.is_some() { format!("{task} of {pool}") } else { task };
        match details.kind {
            OffloadErrorKind::Full => {
                write!(f, "{pool} is full")?;
                match details.queued {
                    Some(1) => f.write_str(", and 1 task is queued")?,
                    Some(queued) => write!(f, ", and {queued} tasks are queued")?,
                    None => {}
                }
                f.write_str(": try again later, or raise max_queued")
            }
            OffloadErrorKind::QueueTimeout => {
                write!(f, "{task} did not start ")?;
                match details.waited {
                    Some(waited) => write!(f, "within {:?}", rounded(waited))?,
                    None => f.write_str("in time")?,
                }
                f.write_str(": try again later, or raise max_wait")
            }
            OffloadErrorKind::Timeout => {
                let advice = match details.progress {
                    Progress::NotStarted => "it never started, so try again later, or raise timeout",
                    Progress::Running => "it still runs, so let it check its context, or raise timeout",
                    Progress::Stopped => "it was stopped, so let it do less, or raise timeout",
                };
                write!(f, "{task} did not complete in time: {advice}")
            }
            OffloadErrorKind::Cancelled => write!(f, "{task} was cancelled through its handle before it started"),
            OffloadErrorKind::Panicked => match &details.panic {
                Some(panic) => write!(f, "{task} panicked: {panic}"),
                None => write!(f, "{task} panicked"),
            },
            OffloadErrorKind::Closed => {
                let advice = "submit the task to another pool, or send the request to another instance";
                write!(f, "{pool} is closed: {advice}")
            }
            OffloadErrorKind::RuntimeShutdown => {
                write!(f, "the runtime was shut down before {task} started: submit it from a runtime that is running")
            }
            OffloadErrorKind::NoThread => {
                let advice = "run fewer tasks at a time, or raise the process's thread limit";
                write!(f, "no thread can be started for {task}: {advice}")
            }
            OffloadErrorKind::NoRuntime => {
                let advice = "from async code, or inside Runtime::block_on or Handle::enter";
                write!(f, "no tokio runtime here: submit {task} {advice}")
            }
            OffloadErrorKind::WouldDeadlock => {
                write!(f, "{pool} is not drained while this task of it runs: await drained() outside of its tasks")
            }
        }
    }
}

impl fmt::Debug for OffloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorDetails { kind, progress, pool, label, queued, waited, retry_after, panic, source } = &*self.0;
        let mut debug = f.debug_struct("OffloadError");
        debug.field("kind", kind).field("progress", progress);
        let details: [(&str, Option<&dyn fmt::Debug>); 7] = [
            ("pool", pool.as_ref().map(|pool| pool as _)),
            ("label", label.as_ref().map(|label| label as _)),
            ("queued", queued.as_ref().map(|queued| queued as _)),
            ("waited", waited.as_ref().map(|waited| waited as _)),
            ("retry_after", retry_after.as_ref().map(|retry_after| retry_after as _)),
            ("panic", panic.as_ref().map(|panic| panic as _)),
            ("source", source.as_ref().map(|source| source as _)),
        ];
        for (name, value) in details {
            if let Some(value) = value {
                debug.field(name, value);
            }
        }
        debug.finish()
    }
}
