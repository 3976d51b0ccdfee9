//! Lets [`web::flight`](crate::web) read the heads of actix-web's requests and responses.

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderValue;

use crate::web::flight::{RequestHead, ResponseHead};

impl RequestHead for ServiceRequest {
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
