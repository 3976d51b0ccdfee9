//! [`WatchMiddleware`], which labels each request with its route.

use std::cell::RefCell;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use tokio::runtime::Handle;

use crate::debug::impl_debug;
use crate::watch::{Label, Watch, Watched, watch};
use crate::web::route_labels::RouteLabels;

/// Labels each request with its route, such as `GET /users/{id}`. If a handler, an extractor or an inner middleware
/// blocks a worker, the report of the [`Watch`] names the route.
///
/// Wrap an app, a scope or a resource with this middleware. Add guard and flight middlewares afterwards, so that they
/// are outside of this one. A handler that continues without its client, and a run that several clients share, then
/// keep their label.
///
/// Each worker of actix-web has its own runtime. The host of [`serve`](super::serve()) watches all of these runtimes.
/// Without a host, pass a watch to [`watch`](Self::watch).
///
/// The call of the service and each poll of its future have the label. The tasks that a handler spawns have no label,
/// and neither has the body of its response. A request that waits blocks nothing and is not reported.
///
/// # Labels
///
/// The pattern is that of [`match_pattern`](ServiceRequest::match_pattern). The label of a request that matches no
/// resource is `unmatched`. A method that HTTP does not define appears as `OTHER`. So clients can't create labels.
///
/// # Examples
///
/// ```no_run
/// use actix_web::{App, HttpServer, web};
/// use onelane::watch::Watch;
/// use onelane::web::actix::WatchMiddleware;
///
/// #[actix_web::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let watch = Watch::builder().build()?;
///     let app = move || {
///         let handler = || async { "reported as `GET /users/{id}` if this blocks" };
///         App::new().wrap(WatchMiddleware::new().watch(&watch)).route("/users/{id}", web::get().to(handler))
///     };
///     HttpServer::new(app).bind("127.0.0.1:3000")?.run().await?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct WatchMiddleware {
    watch: Option<Watch>,
}

impl WatchMiddleware {
    /// Creates a middleware that labels requests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// [Adds](Watch::add) the runtime of each worker to `watch` when the worker starts. The middleware keeps the watch
    /// running.
    #[must_use]
    pub fn watch(mut self, watch: &Watch) -> Self {
        self.watch = Some(watch.clone());
        self
    }
}

impl<S, B> Transform<S, ServiceRequest> for WatchMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = WatchService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    /// Adds the worker's runtime to the watch. actix-web calls this on each worker.
    fn new_transform(&self, inner: S) -> Self::Future {
        if let (Some(watch), Ok(runtime)) = (&self.watch, Handle::try_current()) {
            watch.add(&runtime);
        }
        ready(Ok(WatchService { inner, labels: RefCell::default() }))
    }
}

/// A service whose requests have the label of their route. Created by [`WatchMiddleware`].
pub struct WatchService<S> {
    inner: S,
    /// The labels by path. They save the call of `match_pattern`, which compares the path with the patterns of the app
    /// one by one.
    labels: RefCell<RouteLabels>,
}

impl<S> WatchService<S> {
    fn label_of(&self, request: &ServiceRequest) -> Label {
        let mut labels = self.labels.borrow_mut();
        labels.find(request.method().as_str(), request.path(), || request.match_pattern())
    }
}

impl<S, B> Service<ServiceRequest> for WatchService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = Watched<S::Future>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let label = self.label_of(&request);
        let _in_poll = label.enter();
        watch(label, self.inner.call(request))
    }
}

impl_debug!([S] WatchService<S> |this| { labels: this.labels.borrow(), .. });
