//! Lets [`web::flight`](crate::web) read the heads of actix-web's requests and responses.

use std::any::Any;
use std::net::SocketAddr;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::http::{Method, Uri, Version};
use actix_web::test::TestRequest;

use crate::web::flight::{Caller, Fields, FlightHead, ResponseHead};
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
    version: Version,
    headers: HeaderMap,
    peer: Option<SocketAddr>,
}

impl HeadCopy {
    pub(super) fn new(request: &HttpRequest) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            peer: request.peer_addr(),
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns a request with this head, for the response to a request that was consumed: a response of actix-web
    /// contains its request. The returned request has neither the extensions nor the app data of the original.
    pub(super) fn to_request(&self) -> HttpRequest {
        // `TestRequest` is the only public way to construct an `HttpRequest`.
        let request = TestRequest::default().method(self.method.clone()).version(self.version);
        let request = request.uri(&self.uri.to_string());
        let request = self.headers.iter().fold(request, |request, field| request.append_header(field));
        match self.peer {
            Some(peer) => request.peer_addr(peer),
            None => request,
        }
        .to_http_request()
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

    fn fields(&self) -> &impl Fields {
        self.headers()
    }
}

impl Fields for HeaderMap {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.get_all(name).map(HeaderValue::as_bytes)
    }
}

impl Caller for ServiceRequest {
    fn fields(&self) -> &impl Fields {
        self.headers()
    }

    fn copy_head(&self) -> Box<dyn HeadView + Send + Sync> {
        Box::new(HeadCopy::new(self.request()))
    }
}

impl<B: MessageBody> ResponseHead for ServiceResponse<B> {
    fn status(&self) -> u16 {
        Self::status(self).as_u16()
    }

    fn fields(&self) -> &impl Fields {
        self.headers()
    }

    fn body_size(&self) -> Option<u64> {
        match self.response().body().size() {
            BodySize::None => Some(0),
            BodySize::Sized(size) => Some(size),
            BodySize::Stream => None,
        }
    }
}
