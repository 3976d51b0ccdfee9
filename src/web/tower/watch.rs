//! [`WatchLayer`], which labels the requests of a service, for the reports of watches.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::debug::impl_debug;
use crate::watch::{Label, Watched, watch};

/// Labels the requests of a tower service. If the service blocks a worker while it handles a request, the report of a
/// [`Watch`](crate::watch::Watch) has the label.
///
/// The call of the service and each poll of its future have the label. `poll_ready`, the tasks that the service spawns,
/// and the body of its response have no label. Without a running watch, the layer has no effect.
///
/// In axum, use [`web::axum::WatchLayer`](crate::web::axum::WatchLayer), which uses the route as the label.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// use onelane::watch::Watch;
/// use onelane::web::tower::WatchLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let _watch = Watch::builder().start(&tokio::runtime::Handle::current())?;
/// let service = ServiceBuilder::new()
///     .layer(WatchLayer::new("thumbnails"))
///     .service(service_fn(async |width: u32| Ok::<_, Infallible>(width * 2)));
/// // A report names `thumbnails` if this blocks.
/// assert_eq!(service.oneshot(21).await?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WatchLayer {
    label: Label,
}

impl WatchLayer {
    /// Creates a layer. [`Label`] explains which texts are suitable.
    pub fn new(label: impl Into<Label>) -> Self {
        Self { label: label.into() }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = WatchService<S>;

    fn layer(&self, inner: S) -> WatchService<S> {
        WatchService { inner, label: self.label }
    }
}

/// A service whose requests have a label. Created by [`WatchLayer`].
#[derive(Clone)]
pub struct WatchService<S> {
    inner: S,
    label: Label,
}

impl<S: Service<R>, R> Service<R> for WatchService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Watched<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let _in_poll = self.label.enter();
        watch(self.label, self.inner.call(request))
    }
}

impl_debug!([S] WatchService<S> |this| { label: this.label, .. });
