//! [`WatchLayer`], which gives requests the label of their route in the reports of watches.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::extract::{MatchedPath, Request};

use crate::debug::impl_debug;
use crate::watch::{Label, Watched, watch};
use crate::web::route_labels::{route_label, standard_method};
use crate::web::tower::{Layer, Service};

/// Gives requests the label of their route, such as `GET /users/{id}`: a [`Watch`](crate::watch::Watch) that reports a
/// worker as blocked names the route whose handler, extractor or inner layer runs on that worker.
///
/// Add the layer to the app after the routes, and before guard and flight layers: a handler that continues without its
/// client, and a run that several clients share, then keep their label. Layers that are added later are outside of it.
///
/// The call of the route and each poll of its future have the label. What the handler does elsewhere does not: in tasks
/// that it spawns, and while the body of its response is sent. A request that waits blocks nothing and is not reported.
/// Without a running watch, the layer has no effect.
///
/// A [`ServiceHost`](crate::ServiceHost) watches the workers of its server, so [`serve`](super::serve()) needs the layer
/// only. A program without a host starts a watch itself.
///
/// # Labels
///
/// The pattern is axum's [`MatchedPath`]. A request that matches no route has the label `unmatched`, and the method of a
/// request is `OTHER` if HTTP does not define it. So clients can't create labels.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use onelane::watch::Watch;
/// use onelane::web::axum::WatchLayer;
/// use tokio::runtime::Handle;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let _watch = Watch::builder().start(&Handle::current())?;
/// let app: Router = Router::new()
///     .route("/users/{id}", get(|| async { "reported as `GET /users/{id}` if this blocks" }))
///     .layer(WatchLayer::new());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchLayer(());

impl WatchLayer {
    /// Creates a layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = WatchService<S>;

    fn layer(&self, inner: S) -> WatchService<S> {
        WatchService { inner, labels: Arc::default() }
    }
}

/// A service whose requests have the label of their route. Created by [`WatchLayer`].
#[derive(Clone)]
pub struct WatchService<S> {
    inner: S,
    /// axum clones a service for each request, and calls `layer` for each route and method.
    labels: Arc<KnownLabels>,
}

/// The labels of the requests that a service has seen, as a linked list that only grows.
///
/// Almost always, a service has one pattern and one or two methods: the search takes a few nanoseconds, and no lock.
#[derive(Debug, Default)]
struct KnownLabels(OnceLock<Box<KnownLabel>>);

#[derive(Debug)]
struct KnownLabel {
    method: &'static str,
    pattern: Option<Box<str>>,
    label: Label,
    next: KnownLabels,
}

impl KnownLabels {
    fn find(&self, method: &'static str, pattern: Option<&str>) -> Label {
        let mut known = self.0.get_or_init(|| KnownLabel::new(method, pattern));
        while known.method != method || known.pattern.as_deref() != pattern {
            known = known.next.0.get_or_init(|| KnownLabel::new(method, pattern));
        }
        known.label
    }
}

impl KnownLabel {
    fn new(method: &'static str, pattern: Option<&str>) -> Box<Self> {
        let label = route_label(method, pattern);
        Box::new(Self { method, pattern: pattern.map(Into::into), label, next: KnownLabels::default() })
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for WatchService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Watched<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pattern = request.extensions().get().map(MatchedPath::as_str);
        let label = self.labels.find(standard_method(request.method().as_str()), pattern);
        let _in_poll = label.enter();
        watch(label, self.inner.call(request))
    }
}

impl_debug!([S] WatchService<S> |this| { labels: this.labels, .. });
