//! [`GuardService`], a service behind a guard.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::bodies::{AnyBody, RequestBody, ResponseBody};
use super::future::GuardFuture;
use super::layer::Settings;

/// A service behind a guard. Made by [`GuardLayer`](super::GuardLayer).
pub struct GuardService<S, K = AnyBody> {
    inner: S,
    settings: Arc<Settings>,
    kind: PhantomData<fn() -> K>,
}

impl<S, K> GuardService<S, K> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings, kind: PhantomData }
    }
}

impl<S, K, B, R> Service<Request<B>> for GuardService<S, K>
where
    K: RequestBody<B> + ResponseBody<R>,
    B: Body,
    S: Service<Request<K::Request>, Response = Response<R>> + Clone,
    S::Future: Send + 'static,
    R: Body,
{
    type Response = Response<<K as ResponseBody<R>>::Response>;
    type Error = S::Error;
    type Future = GuardFuture<S, K, B>;

    /// Ready when the inner service is. The turn is waited for in `call`: a service that is ready must not sit on a
    /// permit that no request uses.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.inner.clone();
        // The one that was polled ready serves this request.
        let inner = mem::replace(&mut self.inner, next);
        GuardFuture::new(inner, Arc::clone(&self.settings), request)
    }
}

impl<S: Clone, K> Clone for GuardService<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), settings: Arc::clone(&self.settings), kind: PhantomData }
    }
}

impl<S: fmt::Debug, K> fmt::Debug for GuardService<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardService").field("inner", &self.inner).field("settings", &self.settings).finish()
    }
}
