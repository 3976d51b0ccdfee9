//! The problem types (RFC 9457) of the crate: the [`Refusal`] that each error becomes.

use std::convert::Infallible;
#[cfg(feature = "offload")]
use std::time::Duration;

use super::problem::{Problem, problem};
use super::refusal::MIN_RETRY_AFTER;
use super::{Refusal, RefusalReason};
use crate::guard::{AcquireError, AcquireErrorKind, FlightError, FlightErrorKind};
#[cfg(feature = "process")]
use crate::offload::process::ProcessError;
#[cfg(feature = "offload")]
use crate::offload::{Cancelled, OffloadError, OffloadErrorKind, Progress};

impl Refusal {
    #[cfg(feature = "tower")]
    pub(in crate::web) fn client_gone() -> Self {
        let problem =
            problem!(499, "client-gone", "Client gone", "The client closed its connection while the request waited.");
        Self::new(RefusalReason::ClientGone, problem)
    }

    pub(in crate::web) fn key_missing() -> Self {
        let problem = problem!(
            400,
            "key-missing",
            "Key missing",
            "The request does not name the client or the resource that it is for."
        );
        Self::new(RefusalReason::KeyMissing, problem)
    }

    pub(in crate::web) fn answer_broken() -> Self {
        let problem = problem!(500, "answer-broken", "Response broken", "The server's response ended early.");
        Self::new(RefusalReason::AnswerBroken, problem)
    }

    #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
    pub(in crate::web) fn background_tasks_full() -> Self {
        let problem = problem!(
            503,
            "background-tasks-full",
            "Too many background tasks",
            "Too much work of earlier requests is waiting. Try again later."
        );
        Self::new(RefusalReason::BackgroundTasksFull, problem).with_retry_after(Some(MIN_RETRY_AFTER))
    }

    #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
    pub(in crate::web) fn no_background_tasks() -> Self {
        let problem = problem!(
            500,
            "no-background-tasks",
            "No background tasks",
            "This server has no background tasks: serve the app with the serve function of this crate."
        );
        Self::new(RefusalReason::NoBackgroundTasks, problem)
    }

    pub(in crate::web) fn lease_lost() -> Self {
        let problem = problem!(
            503,
            "lease-lost",
            "Lease lost",
            "The server could not make sure that it serves this request alone. Try again later."
        );
        Self::new(RefusalReason::LeaseLost, problem).with_retry_after(Some(MIN_RETRY_AFTER))
    }

    #[cfg(feature = "tower")]
    pub(in crate::web) fn body_unreadable() -> Self {
        let problem = problem!(
            400,
            "body-unreadable",
            "Request body unreadable",
            "The request body ended early or is malformed."
        );
        Self::new(RefusalReason::BodyUnreadable, problem)
    }
}

impl From<AcquireError> for Refusal {
    fn from(error: AcquireError) -> Self {
        let problem = match error.kind() {
            AcquireErrorKind::Busy => {
                problem!(503, "busy", "Busy", "Another request is being served here. Try again later.")
            }
            AcquireErrorKind::QueueFull => {
                problem!(503, "queue-full", "Queue full", "Too many requests are waiting here. Try again later.")
            }
            AcquireErrorKind::TooManyKeys => problem!(
                503,
                "too-many-keys",
                "Too many keys",
                "Too many different requests are being served here. Try again later."
            ),
            AcquireErrorKind::Timeout => {
                problem!(503, "timeout", "Not admitted in time", "The requests before this one took too long.")
            }
            AcquireErrorKind::GrantExpired => {
                problem!(503, "grant-expired", "Admission expired", "The server was too slow to start on this request.")
            }
            AcquireErrorKind::Closed => problem!(503, "closed", "Closed", "No more requests are admitted here."),
            AcquireErrorKind::WouldDeadlock => {
                problem!(500, "would-deadlock", "Would deadlock", "The server's handler would wait for itself.")
            }
            AcquireErrorKind::BlockingInAsync => {
                problem!(
                    500,
                    "blocking-in-async",
                    "Would block the server",
                    "The server's handler waits where it must not."
                )
            }
            AcquireErrorKind::NotLocal => {
                problem!(500, "not-local", "Not local", "The server's handler asks for an answer that needs time.")
            }
            AcquireErrorKind::NotConnected => {
                problem!(503, "not-connected", "Not connected", "The server is not ready for this request.")
            }
            AcquireErrorKind::Unavailable => problem!(
                503,
                "store-unavailable",
                "Store unavailable",
                "The server can't find out if another request is being served. Try again later."
            ),
        };
        let may_retry = error.kind().is_overload() || error.kind() == AcquireErrorKind::Unavailable;
        let retry_after = may_retry.then(|| error.retry_after().unwrap_or(MIN_RETRY_AFTER));
        Self::new(RefusalReason::Guard(error), problem).with_retry_after(retry_after)
    }
}

impl From<FlightError<Infallible>> for Refusal {
    fn from(error: FlightError<Infallible>) -> Self {
        let problem = match error.kind() {
            FlightErrorKind::Failed => unreachable!("work that cannot fail has not failed"),
            FlightErrorKind::Panicked => problem!(500, "panicked", "Handler failed", "The server's handler failed."),
            FlightErrorKind::TooManyWaiters => problem!(
                503,
                "too-many-waiters",
                "Too many waiters",
                "Too many requests are waiting for this response. Try again later."
            ),
            FlightErrorKind::Timeout => {
                problem!(503, "timeout", "No response in time", "The response took too long. Try again later.")
            }
            FlightErrorKind::Closed => problem!(503, "closed", "Closed", "No more requests are admitted here."),
            FlightErrorKind::WouldDeadlock => {
                problem!(500, "would-deadlock", "Would deadlock", "The server's handler would wait for itself.")
            }
        };
        let is_overload = matches!(error.kind(), FlightErrorKind::TooManyWaiters | FlightErrorKind::Timeout);
        let retry_after = is_overload.then(|| error.retry_after().unwrap_or(MIN_RETRY_AFTER));
        Self::new(RefusalReason::Flight(error), problem).with_retry_after(retry_after)
    }
}

/// The response to a request whose work did not start in time.
#[cfg(feature = "offload")]
const NO_THREAD_IN_TIME: &Problem =
    problem!(503, "timeout", "No thread in time", "The requests before this one took too long.");

/// The response to a request whose work took too long. No gateway is involved, but no other status distinguishes "it
/// took too long" from "the server is overloaded".
#[cfg(feature = "offload")]
const TOOK_TOO_LONG: &Problem = problem!(504, "took-too-long", "Took too long", "The server's handler took too long.");

#[cfg(feature = "offload")]
const CANCELLED: &Problem = problem!(503, "cancelled", "Cancelled", "The server cancelled the work for this request.");

#[cfg(feature = "offload")]
const PANICKED: &Problem = problem!(500, "panicked", "Handler failed", "The server's handler failed.");

#[cfg(feature = "offload")]
impl From<OffloadError> for Refusal {
    fn from(error: OffloadError) -> Self {
        let (problem, retry_after) = problem_of(&error);
        Self::new(RefusalReason::Offload(error), problem).with_retry_after(retry_after)
    }
}

/// Returns the problem of work that a pool did not run to its end, and when to retry.
#[cfg(feature = "offload")]
fn problem_of(error: &OffloadError) -> (&'static Problem, Option<Duration>) {
    let problem = match error.kind() {
        OffloadErrorKind::Full => {
            problem!(503, "pool-full", "Pool full", "Too many requests are waiting here. Try again later.")
        }
        OffloadErrorKind::QueueTimeout => NO_THREAD_IN_TIME,
        OffloadErrorKind::Timeout if error.progress() == Progress::NotStarted => NO_THREAD_IN_TIME,
        OffloadErrorKind::Timeout => TOOK_TOO_LONG,
        OffloadErrorKind::Cancelled => CANCELLED,
        OffloadErrorKind::Panicked => PANICKED,
        OffloadErrorKind::Closed => problem!(503, "closed", "Closed", "No more requests are admitted here."),
        OffloadErrorKind::RuntimeShutdown => {
            problem!(503, "shutting-down", "Shutting down", "The server is shutting down.")
        }
        OffloadErrorKind::NoThread => {
            problem!(503, "no-thread", "No thread left", "The server is overloaded. Try again later.")
        }
        OffloadErrorKind::WouldDeadlock => {
            problem!(500, "would-deadlock", "Would deadlock", "The server's handler would wait for itself.")
        }
        OffloadErrorKind::NoRuntime => {
            problem!(500, "no-runtime", "No runtime", "The server's handler started work where it can't run.")
        }
    };
    (problem, error.is_overload().then(|| error.retry_after().unwrap_or(MIN_RETRY_AFTER)))
}

/// The response shows the client neither how the work failed nor what the worker wrote: both describe the service's
/// code.
#[cfg(feature = "process")]
impl From<ProcessError> for Refusal {
    fn from(error: ProcessError) -> Self {
        let (problem, retry_after) = match &error {
            ProcessError::NotStarted(error) => problem_of(error),
            ProcessError::Timeout(_) => (TOOK_TOO_LONG, None),
            ProcessError::Cancelled(_) => (CANCELLED, None),
            ProcessError::Panicked(_) => (PANICKED, None),
            ProcessError::MemoryLimit(_) | ProcessError::CpuLimit(_) => {
                (problem!(500, "over-limit", "Over limit", "The request needs more than the server allows."), None)
            }
            ProcessError::NoWorker { .. } => {
                (problem!(503, "no-worker", "Not ready", "The server is not ready for this request."), None)
            }
            ProcessError::WorkerDied(_)
            | ProcessError::BadReply { .. }
            | ProcessError::Codec(_)
            | ProcessError::ForeignFunction => {
                (problem!(500, "failed", "Handler failed", "The server's handler failed."), None)
            }
        };
        Self::new(RefusalReason::Process(error), problem).with_retry_after(retry_after)
    }
}

/// Work that stops because of its time limit gets the same response as work that continues after the limit. If the work
/// stops because its client has disconnected, no client receives the response.
#[cfg(feature = "offload")]
impl From<Cancelled> for Refusal {
    fn from(_: Cancelled) -> Self {
        OffloadError::from(OffloadErrorKind::Timeout).with_progress(Progress::Running).into()
    }
}
