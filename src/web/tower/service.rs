//! [`GuardService`], a service behind a guard.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::bodies::{AnyBody, RequestBody, ResponseBody};
use super::future::GuardFuture;
use crate::sync::{Mutex, lock};
use crate::web::options::Settings;

/// A service behind a guard. Made by [`GuardLayer`](super::GuardLayer).
pub struct GuardService<S, K = AnyBody> {
    /// Serves the next request. `None` once it has gone with a request.
    inner: Option<S>,
    shared: Arc<Shared<S>>,
    kind: PhantomData<fn() -> K>,
}

/// What the clones of one service share.
struct Shared<S> {
    settings: Arc<Settings<Parts>>,
    /// Where an `inner` comes from after the first has gone. Cloned under the lock, which only happens where a caller
    /// that was said to call once calls again.
    spare: Mutex<S>,
}

impl<S: Clone, K> GuardService<S, K> {
    pub(super) fn new(inner: S, settings: Arc<Settings<Parts>>) -> Self {
        let spare = Mutex::new(inner.clone());
        Self { inner: Some(inner), shared: Arc::new(Shared { settings, spare }), kind: PhantomData }
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
        self.inner.get_or_insert_with(|| lock(&self.shared.spare).clone()).poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was polled ready serves this request.
        let inner = self.inner.take().unwrap_or_else(|| lock(&self.shared.spare).clone());
        if !K::CALLED_ONCE {
            self.inner = Some(inner.clone());
        }
        GuardFuture::new(inner, Arc::clone(&self.shared.settings), request)
    }
}

impl<S: Clone, K> Clone for GuardService<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared), kind: PhantomData }
    }
}

impl<S: fmt::Debug, K> fmt::Debug for GuardService<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardService").field("inner", &self.inner).field("settings", &self.shared.settings).finish()
    }
}
