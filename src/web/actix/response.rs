//! Errors of guards, single flights and pools as responses.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};

use crate::guard::{AcquireError, FlightError};
#[cfg(feature = "process")]
use crate::offload::process::ProcessError;
#[cfg(feature = "offload")]
use crate::offload::{Cancelled, OffloadError};
use crate::web::Refusal;

pub(super) fn response(refusal: Refusal) -> HttpResponse {
    let status = StatusCode::from_u16(refusal.sent_status()).expect("the status is checked when it is set");
    let mut response = HttpResponse::build(status);
    let body = refusal.write(|name, value| {
        response.append_header((name, value));
    });
    response.body(body)
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status()).expect("the status of a refusal is checked when it is set")
    }

    fn error_response(&self) -> HttpResponse {
        response(self.clone())
    }
}

/// The response is in the [tables of refusals](crate::web#refusals).
impl ResponseError for AcquireError {
    fn status_code(&self) -> StatusCode {
        Refusal::from(self.clone()).status_code()
    }

    fn error_response(&self) -> HttpResponse {
        response(Refusal::from(self.clone()))
    }
}

/// The response is in the [tables of refusals](crate::web#refusals).
#[cfg(feature = "offload")]
impl ResponseError for OffloadError {
    fn status_code(&self) -> StatusCode {
        Refusal::from(self.clone()).status_code()
    }

    fn error_response(&self) -> HttpResponse {
        response(Refusal::from(self.clone()))
    }
}

/// The response is in the [tables of refusals](crate::web#refusals). It contains nothing that the worker wrote.
#[cfg(feature = "process")]
impl ResponseError for ProcessError {
    fn status_code(&self) -> StatusCode {
        Refusal::from(self.clone()).status_code()
    }

    fn error_response(&self) -> HttpResponse {
        response(Refusal::from(self.clone()))
    }
}

/// The response is in the [tables of refusals](crate::web#refusals).
#[cfg(feature = "offload")]
impl ResponseError for Cancelled {
    fn status_code(&self) -> StatusCode {
        Refusal::from(*self).status_code()
    }

    fn error_response(&self) -> HttpResponse {
        response(Refusal::from(*self))
    }
}

/// [`Failed`](crate::guard::FlightErrorKind::Failed) becomes the response of the work's error. The other responses are
/// in the [tables of refusals](crate::web#refusals).
impl<E: ResponseError> ResponseError for FlightError<E> {
    fn status_code(&self) -> StatusCode {
        match self.clone().try_into_failure() {
            Ok(error) => error.status_code(),
            Err(error) => Refusal::from(error).status_code(),
        }
    }

    fn error_response(&self) -> HttpResponse {
        match self.clone().try_into_failure() {
            Ok(error) => error.error_response(),
            Err(error) => response(Refusal::from(error)),
        }
    }
}
