//! [`GuardMiddleware`], which puts a guard in front of actix-web services.

use std::future::{Ready, ready};
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};

use super::body::GuardBody;
use super::future::GuardFuture;
use crate::debug::impl_debug;
use crate::guard::{SharedGuard, SharedKeyedGuard};
use crate::web::layer_settings::LayerSettings;
use crate::web::{GuardOptions, RequestKey};

/// Puts a guard in front of an actix-web app, scope, resource or route.
///
/// Each request waits for a permit before it reaches the handler. A request that is refused gets a response from the
/// [tables of refusals](crate::web#refusals). All workers of the app share one guard, wherever the middleware is added.
///
/// ```
/// use actix_web::{App, web};
/// use onelane::EndpointGuard;
/// use onelane::web::actix::GuardMiddleware;
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// let app = App::new().service(
///     web::resource("/report")
///         .wrap(GuardMiddleware::new(&REPORT))
///         .route(web::post().to(|| async { "one request at a time here" })),
/// );
/// ```
#[derive(Clone, Debug)]
pub struct GuardMiddleware {
    settings: Arc<LayerSettings<ServiceRequest>>,
}

impl GuardMiddleware {
    /// Guards services with `guard`, a `&'static EndpointGuard` or an `Arc` of one.
    ///
    /// Create an `Arc` outside the closure that creates the app, because the closure runs once per worker.
    pub fn new(guard: impl Into<SharedGuard>) -> Self {
        Self { settings: LayerSettings::new(guard) }
    }

    /// Guards services separately for each key, which `key_of` reads from the request.
    ///
    /// `key_of` returns an `Option` of a key, or a [`RequestKey`]. Requests without a key are refused, let through, or
    /// share a key. A request that is refused because of its key gets status 429, or 409 if the
    /// [`key_kind`](GuardOptions::key_kind) is a resource.
    ///
    /// Clients must be authenticated before `key_of` reads their names. Otherwise a client can claim any number of
    /// keys, including those of other clients.
    ///
    /// ```
    /// use actix_web::dev::ServiceRequest;
    /// use onelane::KeyedGuard;
    /// use onelane::web::actix::GuardMiddleware;
    ///
    /// static PER_USER: KeyedGuard<String> = KeyedGuard::new("user");
    ///
    /// let middleware = GuardMiddleware::keyed(&PER_USER, |request: &ServiceRequest| {
    ///     let user = request.headers().get("x-user")?;
    ///     user.to_str().ok().map(str::to_owned)
    /// });
    /// ```
    pub fn keyed<Key, R>(
        guard: impl Into<SharedKeyedGuard<Key>>,
        key_of: impl Fn(&ServiceRequest) -> R + Send + Sync + 'static,
    ) -> Self
    where
        Key: Hash + Eq + Send + 'static,
        R: Into<RequestKey<Key>>,
    {
        Self { settings: LayerSettings::keyed(guard, key_of) }
    }

    /// Sets the [options](GuardOptions).
    #[must_use]
    pub fn options(mut self, options: GuardOptions) -> Self {
        self.settings = self.settings.with_options(options);
        self
    }
}

impl<S, B> Transform<S, ServiceRequest> for GuardMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<GuardBody<B>>;
    type Error = Error;
    type Transform = GuardService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(GuardService { inner: Rc::new(inner), settings: Arc::clone(&self.settings) }))
    }
}

/// A service behind a guard. Created by [`GuardMiddleware`].
pub struct GuardService<S> {
    inner: Rc<S>,
    settings: Arc<LayerSettings<ServiceRequest>>,
}

impl<S, B> Service<ServiceRequest> for GuardService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<GuardBody<B>>;
    type Error = Error;
    type Future = GuardFuture<S>;

    /// Ready when the inner service is ready. The permit is acquired in `call`. Unlike in tower, readiness is only a
    /// hint here and reserves nothing, so a queued request takes up no capacity behind the guard.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> GuardFuture<S> {
        let (inner, settings) = (Rc::clone(&self.inner), Arc::clone(&self.settings));
        GuardFuture::new(inner, settings, request, |response| response.status().as_u16())
    }
}

impl_debug!([S] GuardService<S> |this| { settings: this.settings, .. });
