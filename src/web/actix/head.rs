//! Lets [`web::flight`](crate::web) read the heads of actix-web's requests and responses.

use std::any::Any;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::http::{Method, Uri};

use crate::web::flight::{FlightHead, ResponseHead};
use crate::web::request_head::HeadView;

impl HeadView for HttpRequest {
    fn method(&self) -> &str {
        Self::method(self).as_str()
    }

    fn path(&self) -> &str {
        Self::path(self)
    }

    fn query(&self) -> Option<&str> {
        self.uri().query()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().get(name).map(HeaderValue::as_bytes)
    }

    fn native(&self) -> &dyn Any {
        self
    }
}

/// A copy of the parts of a head, for a request that a flight has consumed. Sharing the request itself would keep the
/// handler from changing it.
pub(super) struct HeadCopy {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl HeadCopy {
    pub(super) fn new(request: &HttpRequest) -> Self {
        Self { method: request.method().clone(), uri: request.uri().clone(), headers: request.headers().clone() }
    }
}

impl HeadView for HeadCopy {
    fn method(&self) -> &str {
        self.method.as_str()
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn native(&self) -> &dyn Any {
        self
    }
}

impl FlightHead for ServiceRequest {
    fn method(&self) -> &str {
        Self::method(self).as_str()
    }

    fn authority(&self) -> Option<&[u8]> {
        self.uri().authority().map(|authority| authority.as_str().as_bytes())
    }

    fn targets(&self) -> impl Iterator<Item = &[u8]> {
        let scheme = if self.app_config().secure() { "https" } else { "http" };
        let uri = self.uri();
        let targets = [uri.scheme_str().unwrap_or(scheme), uri.path(), uri.query().unwrap_or_default()];
        targets.into_iter().map(str::as_bytes)
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).map(HeaderValue::as_bytes)
    }
}

impl<B: MessageBody> ResponseHead for ServiceResponse<B> {
    fn status(&self) -> u16 {
        Self::status(self).as_u16()
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).map(HeaderValue::as_bytes)
    }

    fn body_size(&self) -> Option<u64> {
        match self.response().body().size() {
            BodySize::None => Some(0),
            BodySize::Sized(size) => Some(size),
            BodySize::Stream => None,
        }
    }
}
