//! The problem types (RFC 9457) of the crate: which error becomes which [`Refusal`].

use std::convert::Infallible;

use super::refusal::MIN_RETRY_AFTER;
use super::{Refusal, RefusalReason};
use crate::guard::{AcquireError, AcquireErrorKind, FlightError, FlightErrorKind};
#[cfg(feature = "offload")]
use crate::offload::{Cancelled, OffloadError, OffloadErrorKind, Progress};

impl Refusal {
    #[cfg(feature = "tower")]
    pub(crate) fn client_gone() -> Self {
        let detail = "The client closed its connection while the request waited.";
        Self::new(RefusalReason::ClientGone, 499, "client-gone", "Client gone", detail)
    }

    pub(crate) fn key_missing() -> Self {
        let detail = "The request does not name the client or the resource that it is for.";
        Self::new(RefusalReason::KeyMissing, 400, "key-missing", "Key missing", detail)
    }

    pub(crate) fn answer_broken() -> Self {
        let detail = "The server's response ended early.";
        Self::new(RefusalReason::AnswerBroken, 500, "answer-broken", "Response broken", detail)
    }

    #[cfg(feature = "tower")]
    pub(crate) fn body_unreadable() -> Self {
        let detail = "The request body ended early or is malformed.";
        let kind = "body-unreadable";
        Self::new(RefusalReason::BodyUnreadable, 400, kind, "Request body unreadable", detail)
    }
}

impl From<AcquireError> for Refusal {
    fn from(error: AcquireError) -> Self {
        let (status, kind, title, detail) = match error.kind() {
            AcquireErrorKind::Busy => (503, "busy", "Busy", "Another request is being served here. Try again later."),
            AcquireErrorKind::QueueFull => {
                (503, "queue-full", "Queue full", "Too many requests are waiting here. Try again later.")
            }
            AcquireErrorKind::TooManyKeys => (
                503,
                "too-many-keys",
                "Too many keys",
                "Too many different requests are being served here. Try again later.",
            ),
            AcquireErrorKind::Timeout => {
                (503, "timeout", "Not admitted in time", "The requests before this one took too long.")
            }
            AcquireErrorKind::GrantExpired => {
                (503, "grant-expired", "Admission expired", "The server was too slow to start on this request.")
            }
            AcquireErrorKind::Closed => (503, "closed", "Closed", "No more requests are admitted here."),
            AcquireErrorKind::WouldDeadlock => {
                (500, "would-deadlock", "Would deadlock", "The server's handler would wait for itself.")
            }
            AcquireErrorKind::BlockingInAsync => {
                (500, "blocking-in-async", "Would block the server", "The server's handler waits where it must not.")
            }
        };
        let retry_after = error.kind().is_overload().then(|| error.retry_after().unwrap_or(MIN_RETRY_AFTER));
        Self::new(RefusalReason::Guard(error), status, kind, title, detail).with_retry_after(retry_after)
    }
}

impl From<FlightError<Infallible>> for Refusal {
    fn from(error: FlightError<Infallible>) -> Self {
        let (status, kind, title, detail) = match error.kind() {
            FlightErrorKind::Failed => unreachable!("work that cannot fail has not failed"),
            FlightErrorKind::Panicked => (500, "panicked", "Handler failed", "The server's handler failed."),
            FlightErrorKind::TooManyWaiters => (
                503,
                "too-many-waiters",
                "Too many waiters",
                "Too many requests are waiting for this response. Try again later.",
            ),
            FlightErrorKind::Timeout => {
                (503, "timeout", "No response in time", "The response took too long. Try again later.")
            }
            FlightErrorKind::Closed => (503, "closed", "Closed", "No more requests are admitted here."),
            FlightErrorKind::WouldDeadlock => {
                (500, "would-deadlock", "Would deadlock", "The server's handler would wait for itself.")
            }
        };
        let is_overload = matches!(error.kind(), FlightErrorKind::TooManyWaiters | FlightErrorKind::Timeout);
        let retry_after = is_overload.then(|| error.retry_after().unwrap_or(MIN_RETRY_AFTER));
        Self::new(RefusalReason::Flight(error), status, kind, title, detail).with_retry_after(retry_after)
    }
}

/// The response to a request whose work did not start in time.
#[cfg(feature = "offload")]
const NO_THREAD_IN_TIME: (u16, &str, &str, &str) =
    (503, "timeout", "No thread in time", "The requests before this one took too long.");

#[cfg(feature = "offload")]
impl From<OffloadError> for Refusal {
    fn from(error: OffloadError) -> Self {
        let (status, kind, title, detail) = match error.kind() {
            OffloadErrorKind::Full => {
                (503, "pool-full", "Pool full", "Too many requests are waiting here. Try again later.")
            }
            OffloadErrorKind::QueueTimeout => NO_THREAD_IN_TIME,
            OffloadErrorKind::Timeout if error.progress() == Progress::NotStarted => NO_THREAD_IN_TIME,
            // No gateway is involved, but no other status distinguishes "it took too long" from "the server is
            // overloaded".
            OffloadErrorKind::Timeout => (504, "took-too-long", "Took too long", "The server's handler took too long."),
            OffloadErrorKind::Cancelled => {
                (503, "cancelled", "Cancelled", "The server cancelled the work for this request.")
            }
            OffloadErrorKind::Panicked => (500, "panicked", "Handler failed", "The server's handler failed."),
            OffloadErrorKind::Closed => (503, "closed", "Closed", "No more requests are admitted here."),
            OffloadErrorKind::RuntimeShutdown => {
                (503, "shutting-down", "Shutting down", "The server is shutting down.")
            }
            OffloadErrorKind::NoThread => {
                (503, "no-thread", "No thread left", "The server is overloaded. Try again later.")
            }
            OffloadErrorKind::NoRuntime => {
                (500, "no-runtime", "No runtime", "The server's handler started work where it can't run.")
            }
        };
        let retry_after = error.is_overload().then(|| error.retry_after().unwrap_or(MIN_RETRY_AFTER));
        Self::new(RefusalReason::Offload(error), status, kind, title, detail).with_retry_after(retry_after)
    }
}

/// Work that stops because of its time limit gets the same response as work that continues after the limit. If it stops
/// because its client has disconnected, no client receives the response.
#[cfg(feature = "offload")]
impl From<Cancelled> for Refusal {
    fn from(_: Cancelled) -> Self {
        OffloadError::from(OffloadErrorKind::Timeout).with_progress(Progress::Running).into()
    }
}
