//! Errors of guards, single flights and pools as responses.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};

use crate::guard::{AcquireError, FlightError};
#[cfg(feature = "offload")]
use crate::offload::{Cancelled, OffloadError};
use crate::web::Refusal;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.into_http(Body::from)
    }
}

/// As the [table of refusals](crate::web) says.
impl IntoResponse for AcquireError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// As the [table of refusals](crate::web) says.
#[cfg(feature = "offload")]
impl IntoResponse for OffloadError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// As the [table of refusals](crate::web) says.
#[cfg(feature = "offload")]
impl IntoResponse for Cancelled {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}

/// [`Failed`](FlightError::Failed) as the work's error, the others as the [table of refusals](crate::web) says.
///
/// An error that axum answers with 200, such as a `String`, is answered so here too.
impl<E: IntoResponse + Clone> IntoResponse for FlightError<E> {
    fn into_response(self) -> Response {
        match self.try_into_failure() {
            Ok(error) => Arc::unwrap_or_clone(error).into_response(),
            Err(error) => Refusal::from(error).into_response(),
        }
    }
}
