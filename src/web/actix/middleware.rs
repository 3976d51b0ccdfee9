//! [`GuardMiddleware`], which puts a guard in front of actix-web services.

use std::fmt;
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
use crate::guard::{SharedGuard, SharedKeyedGuard};
use crate::web::admission::Admission;
use crate::web::options::Settings;
use crate::web::{GuardOptions, RequestKey};

/// Puts a guard in front of an actix-web app, scope, resource or route.
///
/// Each request waits for its turn before the handler sees it. Requests that are not let in are answered as the [table
/// of refusals](crate::web) says. However many workers run the app and wherever the middleware is added, one guard is
/// one guard.
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
    settings: Arc<Settings<ServiceRequest>>,
}

impl GuardMiddleware {
    /// Guards services with `guard`, a `&'static EndpointGuard` or an `Arc` of one.
    ///
    /// An `Arc` is made outside of the closure that makes the app: the closure runs once a worker.
    pub fn new(guard: impl Into<SharedGuard>) -> Self {
        Self::with_options(guard, GuardOptions::new())
    }

    /// Guards services with `guard`, with other [options](GuardOptions).
    pub fn with_options(guard: impl Into<SharedGuard>, options: GuardOptions) -> Self {
        Self::of(Admission::One(guard.into()), options)
    }

    /// Guards services with a lane for each key, which `key_of` reads from the request.
    ///
    /// It returns an `Option` of a key, or a [`RequestKey`](crate::web::RequestKey): requests without a key are refused, let
    /// through, or share one. A request that its key's lane does not let in is answered 429, or 409 where
    /// [`key_kind`](GuardOptions::key_kind) says so.
    ///
    /// What names the client must have been authenticated: a header that anyone can set gives everyone as many lanes as
    /// they like, and lets them into the lanes of others.
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
    pub fn keyed<Key, L>(
        guard: impl Into<SharedKeyedGuard<Key>>,
        key_of: impl Fn(&ServiceRequest) -> L + Send + Sync + 'static,
    ) -> Self
    where
        Key: Hash + Eq + Send + 'static,
        L: Into<RequestKey<Key>>,
    {
        Self::keyed_with_options(guard, key_of, GuardOptions::new())
    }

    /// Guards services with a lane for each key, with other [options](GuardOptions).
    pub fn keyed_with_options<Key, L>(
        guard: impl Into<SharedKeyedGuard<Key>>,
        key_of: impl Fn(&ServiceRequest) -> L + Send + Sync + 'static,
        options: GuardOptions,
    ) -> Self
    where
        Key: Hash + Eq + Send + 'static,
        L: Into<RequestKey<Key>>,
    {
        Self::of(Admission::per_key(guard.into(), key_of), options)
    }

    fn of(admission: Admission<ServiceRequest>, options: GuardOptions) -> Self {
        Self { settings: Arc::new(Settings { admission, options }) }
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

/// A service behind a guard. Made by [`GuardMiddleware`].
pub struct GuardService<S> {
    inner: Rc<S>,
    settings: Arc<Settings<ServiceRequest>>,
}

impl<S, B> Service<ServiceRequest> for GuardService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<GuardBody<B>>;
    type Error = Error;
    type Future = GuardFuture<S>;

    /// Ready when the inner service is. The turn is waited for in `call`.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> GuardFuture<S> {
        GuardFuture::new(Rc::clone(&self.inner), Arc::clone(&self.settings), request)
    }
}

impl<S> fmt::Debug for GuardService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardService").field("settings", &self.settings).finish_non_exhaustive()
    }
}
