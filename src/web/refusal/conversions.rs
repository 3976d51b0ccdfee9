//! Conversions of [`Refusal`]: into an error, into a response without a framework, and from an error that contains one.

use std::convert::Infallible;
use std::error::Error;
use std::iter;

#[cfg(feature = "tower")]
use bytes::Bytes;

use super::{Refusal, RefusalReason};
use crate::guard::{AcquireError, FlightError};
#[cfg(feature = "offload")]
use crate::offload::OffloadError;
#[cfg(feature = "process")]
use crate::offload::process::ProcessError;

impl Refusal {
    /// Returns the refusal for an error of this crate that is `error` itself or one of its sources, such as in an
    /// `anyhow::Error` or in an error of the service's own.
    ///
    /// The search finds [`AcquireError`], [`OffloadError`](crate::offload::OffloadError),
    /// [`ProcessError`](crate::ProcessError), [`FlightError`] of work that cannot fail, and refusals. A
    /// `#[error(transparent)]` variant of thiserror hides its error from this search: use `#[source]`, or match on the
    /// variant.
    ///
    /// ```
    /// use onelane::AcquireError;
    /// use onelane::guard::AcquireErrorKind;
    /// use onelane::web::Refusal;
    ///
    /// let error: Box<dyn std::error::Error> = AcquireError::from(AcquireErrorKind::Busy).into();
    /// assert_eq!(Refusal::find_in(&*error).map(|refusal| refusal.status()), Some(503));
    /// ```
    #[must_use]
    pub fn find_in(error: &(dyn Error + 'static)) -> Option<Self> {
        const MAX_SOURCES: usize = 32;
        iter::successors(Some(error), |&error| error.source()).take(MAX_SOURCES).find_map(|error| {
            #[cfg(feature = "process")]
            if let Some(error) = error.downcast_ref::<ProcessError>() {
                return Some(error.clone().into());
            }
            #[cfg(feature = "offload")]
            if let Some(error) = error.downcast_ref::<OffloadError>() {
                return Some(error.clone().into());
            }
            let from_guard = error.downcast_ref::<AcquireError>().map(|error| error.clone().into());
            let from_flight = || error.downcast_ref::<FlightError<Infallible>>().map(|error| error.clone().into());
            from_guard.or_else(from_flight).or_else(|| error.downcast_ref::<Self>().cloned())
        })
    }
}

/// Converts the refusal for hyper, tonic, and services without a framework.
#[cfg(feature = "tower")]
impl<B: From<Bytes>> From<Refusal> for http::Response<B> {
    fn from(refusal: Refusal) -> Self {
        refusal.into_http(B::from)
    }
}

impl Error for Refusal {
    /// Returns the error that led to the refusal, if there is one.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.reason() {
            RefusalReason::Guard(error) => Some(error),
            RefusalReason::Flight(error) => Some(error),
            #[cfg(feature = "offload")]
            RefusalReason::Offload(error) => Some(error),
            #[cfg(feature = "process")]
            RefusalReason::Process(error) => Some(error),
            _ => None,
        }
    }
}
