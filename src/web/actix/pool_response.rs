//! [`PoolResponse`], a response on its way from a pool's thread to the worker that sends it.

use std::borrow::Cow;
use std::fmt;

use actix_web::body::{self, BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, ContentType, HeaderMap, HeaderName, HeaderValue, TryIntoHeaderValue};
use actix_web::web::{Bytes, BytesMut, Html, Json, Redirect};
use actix_web::{Either, Error, HttpRequest, HttpResponse, HttpResponseBuilder, Responder};
use serde::Serialize;

use super::response::response;
use super::trace;
#[cfg(feature = "process")]
use crate::web::handler::SentResponse;
use crate::web::refusal::RefusalHook;
use crate::web::{Refusal, RequestHead};

/// A value that a handler on a pool may return in actix-web. It becomes a response on the pool's thread.
///
/// [`Responder`] does not fit: it takes the request, which can't leave its worker, and makes an [`HttpResponse`], which
/// can't leave its thread. This trait makes a [`PoolResponse`] instead, which can.
///
/// | result of the handler | what happens on the pool |
/// |---|---|
/// | [`Json<T>`](Json) | the value is serialized |
/// | strings, bytes, `()` (204) | – |
/// | [`HttpResponse`] and its builder | it is taken apart: status, headers and body |
/// | `Result<T, E>`, with any error that actix-web accepts | the error becomes its response |
/// | `Option<T>` (404), [`Either<L, R>`](Either), `(T, StatusCode)` | the same as for `T`, `L` or `R` |
/// | [`Html`], [`Redirect`], [`OnWorker(responder)`](OnWorker) | nothing: the responder is called on the worker |
///
/// An [`HttpResponse`] whose body is a stream can't be taken apart, and becomes a response with status 500. Any other
/// [`Responder`] that is `Send` can be returned in [`OnWorker`].
///
/// # Examples
///
/// ```
/// use actix_web::{App, HttpResponse, web};
/// use onelane::web::actix::{IntoPoolResponse, PoolResponse, blocking_handler};
///
/// struct Report(String);
///
/// impl IntoPoolResponse for Report {
///     fn into_pool_response(self) -> PoolResponse {
///         HttpResponse::Ok().content_type("text/csv").body(self.0).into_pool_response()
///     }
/// }
///
/// fn report(day: web::Path<String>) -> actix_web::Result<Report> {
///     Ok(Report(format!("day,sold\n{day},7\n")))
/// }
///
/// let app = App::new().route("/reports/{day}", web::get().to(blocking_handler(report)));
/// # drop(app);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be returned by a handler that runs on a pool",
    note = "if it is a `Responder` and `Send`, return it in `OnWorker(…)`; otherwise implement `IntoPoolResponse` for it",
    note = "an `async fn` needs no pool: pass it to the route unchanged"
)]
pub trait IntoPoolResponse {
    /// Makes the response. Called on the pool's thread.
    fn into_pool_response(self) -> PoolResponse;
}

/// A response that was made on a pool's thread and has not been sent. Created by [`IntoPoolResponse`].
#[derive(Debug)]
#[must_use = "a response does nothing unless it is sent"]
pub struct PoolResponse(PoolResponseInner);

/// A [`Responder`] that a handler on a pool returns. It is called on the worker that sends the response, where it can
/// access the request. It must be `Send`.
#[derive(Clone, Copy, Debug)]
pub struct OnWorker<R>(
    /// The responder.
    pub R,
);

enum PoolResponseInner {
    /// A complete response. `None` means no body at all, not an empty one.
    Whole {
        status: StatusCode,
        headers: HeaderMap,
        body: Option<Bytes>,
    },
    OnWorker(Box<dyn FnOnce(&HttpRequest) -> HttpResponse + Send>),
    Refused(Box<Refusal>),
}

impl PoolResponse {
    /// Takes a response apart, because it can't be sent to another thread.
    fn whole<B: MessageBody>(mut response: HttpResponse<B>) -> Self {
        let headers = std::mem::take(response.headers_mut());
        let status = response.status();
        let body = response.into_body();
        if matches!(body.size(), BodySize::None) {
            return Self(PoolResponseInner::Whole { status, headers, body: None });
        }
        match body.try_into_bytes() {
            Ok(body) => Self(PoolResponseInner::Whole { status, headers, body: Some(body) }),
            Err(_) => {
                trace::stream_on_pool();
                Self(PoolResponseInner::Refused(Box::new(Refusal::answer_broken())))
            }
        }
    }

    fn with_type(content_type: ContentType, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        if let Ok(value) = content_type.try_into_value() {
            headers.insert(header::CONTENT_TYPE, value);
        }
        Self(PoolResponseInner::Whole { status: StatusCode::OK, headers, body: Some(body.into()) })
    }

    fn with_status(self, status: StatusCode) -> Self {
        Self(match self.0 {
            PoolResponseInner::Whole { headers, body, .. } => PoolResponseInner::Whole { status, headers, body },
            PoolResponseInner::OnWorker(respond) => PoolResponseInner::OnWorker(Box::new(move |request| {
                let mut response = respond(request);
                *response.status_mut() = status;
                response
            })),
            refused @ PoolResponseInner::Refused(_) => refused,
        })
    }
}

impl PoolResponse {
    /// Returns the status, or 200 if only the worker knows it.
    pub(super) fn status(&self) -> u16 {
        match &self.0 {
            PoolResponseInner::Whole { status, .. } => status.as_u16(),
            PoolResponseInner::OnWorker(_) => 200,
            PoolResponseInner::Refused(refusal) => refusal.status(),
        }
    }

    /// Converts the response to a form that a worker process can send. Returns `None` if the responder needs the
    /// request, or if the body is a stream.
    #[cfg(feature = "process")]
    pub(super) fn into_sent(self) -> Option<SentResponse> {
        let PoolResponseInner::Whole { status, headers, body } = self.0 else { return None };
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Some(SentResponse::new(status.as_u16(), headers, body))
    }

    /// Creates the response that a worker process has sent. Returns `None` if a part of it is malformed.
    #[cfg(feature = "process")]
    pub(super) fn received(sent: SentResponse) -> Option<Self> {
        let mut headers = HeaderMap::with_capacity(sent.headers.len());
        for (name, value) in sent.headers {
            headers.append(HeaderName::try_from(name).ok()?, HeaderValue::from_maybe_shared(value).ok()?);
        }
        let status = StatusCode::from_u16(sent.status).ok()?;
        Some(Self(PoolResponseInner::Whole { status, headers, body: sent.body.map(|body| body.0) }))
    }

    /// Makes the response to a request without a result, which `hook` may change.
    pub(super) fn refused(refusal: Refusal, hook: RefusalHook) -> Self {
        let respond = move |request: &HttpRequest| {
            HttpResponse::from_error(hook.apply(refusal, &RequestHead::new(request))).map_into_boxed_body()
        };
        Self(PoolResponseInner::OnWorker(Box::new(respond)))
    }
}

impl Responder for PoolResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self.0 {
            PoolResponseInner::Whole { status, headers, body } => {
                let body = body.map_or_else(|| BoxBody::new(body::None::new()), BoxBody::new);
                let mut response = HttpResponse::with_body(status, body);
                *response.headers_mut() = headers;
                response
            }
            PoolResponseInner::OnWorker(respond) => respond(request),
            PoolResponseInner::Refused(refusal) => response(*refusal),
        }
    }
}

impl IntoPoolResponse for PoolResponse {
    fn into_pool_response(self) -> Self {
        self
    }
}

impl<R: Responder + Send + 'static> IntoPoolResponse for OnWorker<R> {
    fn into_pool_response(self) -> PoolResponse {
        let respond = |request: &HttpRequest| self.0.respond_to(request).map_into_boxed_body();
        PoolResponse(PoolResponseInner::OnWorker(Box::new(respond)))
    }
}

impl IntoPoolResponse for Redirect {
    fn into_pool_response(self) -> PoolResponse {
        OnWorker(self).into_pool_response()
    }
}

impl<B: MessageBody> IntoPoolResponse for HttpResponse<B> {
    fn into_pool_response(self) -> PoolResponse {
        PoolResponse::whole(self)
    }
}

impl IntoPoolResponse for HttpResponseBuilder {
    fn into_pool_response(mut self) -> PoolResponse {
        PoolResponse::whole(self.finish())
    }
}

impl<T: Serialize> IntoPoolResponse for Json<T> {
    fn into_pool_response(self) -> PoolResponse {
        match serde_json::to_vec(&self.0) {
            Ok(json) => PoolResponse::with_type(ContentType::json(), json),
            // This is the response that actix-web makes from the error.
            Err(error) => {
                let error = actix_web::error::JsonPayloadError::Serialize(error);
                PoolResponse::whole(HttpResponse::from_error(error))
            }
        }
    }
}

impl<T: IntoPoolResponse, E: Into<Error>> IntoPoolResponse for Result<T, E> {
    fn into_pool_response(self) -> PoolResponse {
        match self {
            Ok(value) => value.into_pool_response(),
            Err(error) => PoolResponse::whole(HttpResponse::from_error(error)),
        }
    }
}

impl<T: IntoPoolResponse> IntoPoolResponse for Option<T> {
    fn into_pool_response(self) -> PoolResponse {
        match self {
            Some(value) => value.into_pool_response(),
            None => PoolResponse::whole(HttpResponse::new(StatusCode::NOT_FOUND)),
        }
    }
}

impl<L: IntoPoolResponse, R: IntoPoolResponse> IntoPoolResponse for Either<L, R> {
    fn into_pool_response(self) -> PoolResponse {
        match self {
            Self::Left(value) => value.into_pool_response(),
            Self::Right(value) => value.into_pool_response(),
        }
    }
}

impl<T: IntoPoolResponse> IntoPoolResponse for (T, StatusCode) {
    fn into_pool_response(self) -> PoolResponse {
        self.0.into_pool_response().with_status(self.1)
    }
}

impl IntoPoolResponse for () {
    fn into_pool_response(self) -> PoolResponse {
        PoolResponse::whole(HttpResponse::new(StatusCode::NO_CONTENT))
    }
}

impl IntoPoolResponse for Html {
    fn into_pool_response(self) -> PoolResponse {
        OnWorker(self).into_pool_response()
    }
}

impl IntoPoolResponse for Cow<'static, str> {
    fn into_pool_response(self) -> PoolResponse {
        self.into_owned().into_pool_response()
    }
}

macro_rules! impl_with_content_type {
    ($($kind:ident: $($type:ty),*;)*) => {
        $($(impl IntoPoolResponse for $type {
            fn into_pool_response(self) -> PoolResponse {
                PoolResponse::with_type(ContentType::$kind(), self)
            }
        })*)*
    };
}

impl_with_content_type! {
    plaintext: String, &'static str;
    octet_stream: Vec<u8>, &'static [u8], Bytes, BytesMut;
}

impl fmt::Debug for PoolResponseInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { status, .. } => f.debug_tuple("Whole").field(status).finish(),
            Self::OnWorker(_) => f.write_str("OnWorker"),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
        }
    }
}
