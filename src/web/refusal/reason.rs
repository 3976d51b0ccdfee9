//! [`RefusalReason`], the reason why a request is refused.

use std::convert::Infallible;

use crate::guard::{AcquireError, FlightError, FlightErrorKind};
#[cfg(feature = "offload")]
use crate::offload::OffloadError;
#[cfg(feature = "process")]
use crate::offload::process::ProcessError;

/// The reason why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The guard refused the request.
    Guard(AcquireError),
    /// The guard is distributed, and its lease was lost while the handler ran. The handler was cancelled.
    LeaseLost,
    /// The client disconnected while the request waited. No client receives this response; it appears in access logs.
    ClientGone,
    /// The run that the request joined produced no response, or the request could not wait for the run.
    Flight(FlightError<Infallible>),
    /// The work of the request produced no result: a pool did not accept the work, or the work took too long or
    /// panicked.
    #[cfg(feature = "offload")]
    Offload(OffloadError),
    /// The task of the request in a worker process has no result. The error may contain what the worker wrote to its
    /// standard error.
    #[cfg(feature = "process")]
    Process(ProcessError),
    /// The response that was made for the request ended early.
    AnswerBroken,
    /// The request has no key, and requests without a key are refused.
    KeyMissing,
    /// The body of the request ended early or was malformed while the request waited.
    BodyUnreadable,
    /// The handler could not add a background task.
    BackgroundTasksFull,
    /// The handler has an argument for background tasks, and its server has none.
    NoBackgroundTasks,
    /// The service refused the request itself, with [`Refusal::custom`](super::Refusal::custom).
    Custom,
}

impl RefusalReason {
    /// Returns `true` if there are too many requests.
    pub(super) fn is_overload(&self) -> bool {
        match self {
            Self::Guard(error) => error.kind().is_overload(),
            Self::Flight(error) => matches!(error.kind(), FlightErrorKind::TooManyWaiters | FlightErrorKind::Timeout),
            #[cfg(feature = "offload")]
            Self::Offload(error) => error.is_overload(),
            #[cfg(feature = "process")]
            Self::Process(error) => error.is_overload(),
            Self::BackgroundTasksFull => true,
            _ => false,
        }
    }
}
