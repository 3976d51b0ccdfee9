//! Errors of a guard as responses.

use axum::body::Body;
use axum::response::{IntoResponse, Response};

use crate::guard::AcquireError;
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
