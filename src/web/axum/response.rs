//! Errors of a guard as responses.

use axum::body::Body;
use axum::response::{IntoResponse, Response};

use crate::guard::AcquireError;
use crate::web::Refusal;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, headers, body) = self.into_parts();
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name.as_ref(), value.as_ref());
        }
        response.body(Body::from(body)).expect("a refusal checks its status and headers when they are set")
    }
}

/// As the [table of refusals](crate::web) says.
impl IntoResponse for AcquireError {
    fn into_response(self) -> Response {
        Refusal::from(self).into_response()
    }
}
