//! [`HeadView`] for the head of an [`http`] request.

use std::any::Any;

use http::Request;
use http::request::Parts;

use crate::web::request_head::HeadView;

impl HeadView for Parts {
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
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }

    fn native(&self) -> &dyn Any {
        self
    }
}

/// Returns a copy of the head of a request that is about to be consumed.
pub(in crate::web) fn copy_head<B>(request: &Request<B>) -> Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy.into_parts().0
}
