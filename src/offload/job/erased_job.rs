//! [`RunnableJob`] and [`AwaitableJob`], the two sides of a job whose closure type is erased.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::context::{TaskOptions, TaskPlace};
use crate::offload::error::OffloadError;
use crate::sync::atomic::{AtomicU8, Ordering};

const CANCELLED: u8 = 1;
const ABANDONED: u8 = 2;
const STARTED: u8 = 4;

/// What a pool does with a job.
pub(crate) trait RunnableJob: Send + Sync {
    /// Runs the closure, on the thread of a worker or of a caller that runs it inline. The job keeps the result until
    /// it is published. `pool` is the name of the pool, for events.
    fn run(self: Arc<Self>, pool: &str);

    /// Makes the result available to the caller. Returns the waker to call.
    ///
    /// A caller often submits its next task immediately. So a worker decides its next step before it publishes the
    /// result. By the time the caller has the result, the worker has kept or given back its token and its thread, even
    /// if the caller polls without being woken. (A caller that drops its handle may take the result before it is
    /// published.)
    fn publish(&self) -> Option<Waker>;

    /// Fails the job with `why` if it has not started. Returns the waker to call.
    fn refuse(&self, why: OffloadError) -> Option<Waker>;

    /// Takes the waker of the caller that waits for the job. The caller registers another one when it polls.
    fn take_waker(&self) -> Option<Waker>;

    fn flags(&self) -> &CallerFlags;

    fn options(&self) -> &TaskOptions;

    fn place(&self) -> TaskPlace;

    /// Returns `true` if the result is published, or was taken.
    fn is_finished(&self) -> bool;
}

/// A job as its pool holds it.
pub(crate) type SharedJob = Arc<dyn RunnableJob>;

/// What a caller does with a job.
pub(crate) trait AwaitableJob<T>: RunnableJob {
    /// Returns the result once it is published. Until then, `cx` is registered to be woken.
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, OffloadError>>;

    /// Drops the closure if the job has not started. Returns `true` if the job had not started: exactly one of
    /// cancelling, refusing and starting a queued job succeeds.
    fn cancel_if_queued(&self) -> bool;

    /// Fails the job with [`OffloadErrorKind::Cancelled`](crate::offload::OffloadErrorKind::Cancelled) if it has not
    /// started, and marks its context as cancelled.
    fn cancel(&self);

    /// Marks the job as abandoned: it continues without its caller, and the process knows it by the name of its pool.
    /// Returns the result if it is available already.
    fn abandon(&self, pool: Option<&str>) -> Option<Result<T, OffloadError>>;
}

/// What has happened to a job: it has started, or its caller has cancelled or dropped it. The flags guard no other
/// memory, so `Relaxed` suffices.
#[derive(Debug, Default)]
pub(crate) struct CallerFlags(AtomicU8);

impl CallerFlags {
    /// Records that the result is no longer wanted.
    pub(crate) fn cancel(&self) {
        self.0.fetch_or(CANCELLED, Ordering::Relaxed);
    }

    /// Records that the caller has dropped the job while the job was running.
    pub(crate) fn abandon(&self) {
        self.0.fetch_or(ABANDONED, Ordering::Relaxed);
    }

    /// Records that the closure runs.
    pub(super) fn start(&self) {
        self.0.fetch_or(STARTED, Ordering::Relaxed);
    }

    pub(crate) fn is_started(&self) -> bool {
        self.0.load(Ordering::Relaxed) & STARTED != 0
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) & CANCELLED != 0
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.load(Ordering::Relaxed) & ABANDONED != 0
    }
}
