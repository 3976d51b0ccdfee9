//! [`GuardService`], a service behind a guard.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::bodies::{AnyBody, BodyKind, RequestBody, ResponseBody};
use super::future::GuardFuture;
use crate::debug::impl_debug;
use crate::web::layer_settings::LayerSettings;

/// A service behind a guard. Created by [`GuardLayer`](super::GuardLayer).
///
/// Always ready: a request needs the readiness of the inner service only once the request holds its permit. Each
/// request gets its own clone of the inner service, and polls that clone for readiness.
pub struct GuardService<S: Clone, K: BodyKind = AnyBody> {
    inner: K::Shared<S>,
    settings: Arc<LayerSettings<Parts>>,
}

impl<S: Clone, K: BodyKind> GuardService<S, K> {
    pub(super) fn new(inner: S, settings: Arc<LayerSettings<Parts>>) -> Self {
        Self { inner: K::share(inner), settings }
    }
}

impl<S, K, B, R> Service<Request<B>> for GuardService<S, K>
where
    K: RequestBody<B> + ResponseBody<R>,
    B: Body,
    S: Service<Request<K::Request>, Response = Response<R>> + Clone,
    S::Future: Send + 'static,
    R: Body + 'static,
{
    type Response = Response<<K as ResponseBody<R>>::Response>;
    type Error = S::Error;
    type Future = GuardFuture<S, K, B>;

    /// Always ready. Readiness must not reserve a permit, or the capacity of a service behind the guard, such as a
    /// concurrency limit: a request that waits for its permit would keep that capacity from requests that could use it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        GuardFuture::new(K::service(&self.inner), Arc::clone(&self.settings), request)
    }
}

impl<S: Clone, K: BodyKind> Clone for GuardService<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), settings: Arc::clone(&self.settings) }
    }
}

impl_debug!([S: Clone, K: BodyKind] GuardService<S, K> |this| { settings: this.settings, .. });
