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
use crate::debug::impl_debug;
use crate::sync::{Mutex, lock};
use crate::web::layer_settings::LayerSettings;

/// A service behind a guard. Created by [`GuardLayer`](super::GuardLayer).
pub struct GuardService<S, K = AnyBody> {
    /// Serves the next request. `None` once a request has taken the service.
    inner: Option<S>,
    shared: Arc<GuardServiceShared<S>>,
    body_kind: PhantomData<fn() -> K>,
}

/// The state that all clones of one service share.
struct GuardServiceShared<S> {
    settings: Arc<LayerSettings<Parts>>,
    /// Replaces `inner` after a request has taken it. It is cloned with the mutex held, but only if a caller that
    /// promised to call once ([`BodyKind::CALLED_ONCE`](super::bodies::BodyKind::CALLED_ONCE)) calls again.
    spare: Mutex<S>,
}

impl<S: Clone, K> GuardService<S, K> {
    pub(super) fn new(inner: S, settings: Arc<LayerSettings<Parts>>) -> Self {
        let spare = Mutex::new(inner.clone());
        let shared = Arc::new(GuardServiceShared { settings, spare });
        Self { inner: Some(inner), shared, body_kind: PhantomData }
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

    /// Ready when the inner service is ready. The permit is acquired in `call`, because a service that is ready must
    /// not hold a permit that no request uses.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.get_or_insert_with(|| lock(&self.shared.spare).clone()).poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was polled ready serves this request.
        let inner = self.inner.take().unwrap_or_else(|| lock(&self.shared.spare).clone());
        if !K::CALLED_ONCE {
            self.inner = Some(inner.clone());
        }
        GuardFuture::new(inner, Arc::clone(&self.shared.settings), request)
    }
}

impl<S: Clone, K> Clone for GuardService<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared), body_kind: PhantomData }
    }
}

impl_debug!([S: fmt::Debug, K] GuardService<S, K> |this| { inner: this.inner, settings: this.shared.settings });
