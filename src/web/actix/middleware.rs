//! [`GuardMiddleware`], which puts a guard in front of actix-web services.

use std::fmt;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};

use super::body::GuardBody;
use super::future::GuardFuture;
use crate::guard::SharedGuard;
use crate::web::GuardOptions;
use crate::web::options::Settings;

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
    settings: Arc<Settings>,
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
        Self { settings: Arc::new(Settings { guard: guard.into(), options }) }
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
    settings: Arc<Settings>,
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
