//! Errors of guards, single flights and pools as responses.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};

use crate::guard::{AcquireError, FlightError};
#[cfg(feature = "process")]
use crate::offload::process::ProcessError;
#[cfg(feature = "offload")]
use crate::offload::{Cancelled, OffloadError};
use crate::web::Refusal;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.into_http(Body::from)
    }
}

/// The response is in the [tables of refusals](crate::web#refusals).
impl IntoResponse for AcquireError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// The response is in the [tables of refusals](crate::web#refusals).
#[cfg(feature = "offload")]
impl IntoResponse for OffloadError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// The response is in the [tables of refusals](crate::web#refusals). It contains nothing that the worker wrote.
#[cfg(feature = "process")]
impl IntoResponse for ProcessError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// The response is in the [tables of refusals](crate::web#refusals).
#[cfg(feature = "offload")]
impl IntoResponse for Cancelled {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// [`Failed`](crate::guard::FlightErrorKind::Failed) becomes the response of the work's error. The other responses are
/// in the [tables of refusals](crate::web#refusals).
///
/// An error whose response in axum has status 200, such as a `String`, has it here too.
impl<E: IntoResponse + Clone> IntoResponse for FlightError<E> {
    fn into_response(self) -> Response {
        match self.try_into_failure() {
            Ok(error) => Arc::unwrap_or_clone(error).into_response(),
            Err(error) => Refusal::from(error).into_response(),
        }
    }
}
