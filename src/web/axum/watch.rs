//! [`WatchLayer`], which labels each request with its route, for the reports of watches.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll};

use axum::extract::{MatchedPath, Request};

use crate::debug::impl_debug;
use crate::watch::{Label, Watched, watch};
use crate::web::route_labels::RouteLabels;
use crate::web::tower::{Layer, Service};

/// Labels each request with its route, such as `GET /users/{id}`. If a handler, an extractor or an inner layer blocks a
/// worker, the report of a [`Watch`](crate::watch::Watch) names the route.
///
/// Add the layer to the app after the routes. Add guard and flight layers afterwards, so that they are outside of this
/// layer. A handler that continues without its client, and a run that several clients share, then keep their label.
///
/// The call of the route and each poll of its future have the label. The tasks that a handler spawns have no label, and
/// neither has the body of its response. A request that waits blocks nothing and is not reported. Without a running
/// watch, the layer has no effect.
///
/// A [`ServiceHost`](crate::ServiceHost) watches the workers of its server, so an app that [`serve`](super::serve())
/// runs needs only the layer. A program without a host starts a watch itself.
///
/// # Labels
///
/// The pattern is axum's [`MatchedPath`]. The label of a request that matches no route is `unmatched`. A method that
/// HTTP does not define appears as `OTHER`. So clients can't create labels.
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
        WatchService { inner }
    }
}

/// A service whose requests have the label of their route. Created by [`WatchLayer`].
#[derive(Clone)]
pub struct WatchService<S> {
    inner: S,
}

/// A label with its text.
type Recent = Option<(Label, &'static str)>;

thread_local! {
    /// The labels of recent requests. A request that finds its label here computes no hash.
    static RECENT: [Cell<Recent>; 16] = const { [const { Cell::new(None) }; 16] };
    /// The labels by pattern. They are not part of the service, because axum may call `layer` anew for each connection,
    /// or even for each request.
    static LABELS: RefCell<RouteLabels> = RefCell::default();
}

fn label_of(method: &str, pattern: Option<&str>) -> Label {
    let key = pattern.unwrap_or_default();
    RECENT.with(|recent| {
        let recent = &recent[(method.len() + key.len()) % recent.len()];
        // A method has no space, and a pattern begins with a slash, so the text belongs to this method and pattern.
        let is_label =
            |text: &str| text.len() == method.len() + 1 + key.len() && text.starts_with(method) && text.ends_with(key);
        if let Some((label, _)) = recent.get().filter(|(_, text)| is_label(text)) {
            return label;
        }
        let find = |labels: &mut RouteLabels| labels.find(method, key, || pattern.map(str::to_owned));
        let label = LABELS.with_borrow_mut(find);
        recent.set(Some((label, label.as_str())));
        label
    })
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
        let label = label_of(request.method().as_str(), pattern);
        let _in_poll = label.enter();
        watch(label, self.inner.call(request))
    }
}

impl_debug!([S] WatchService<S> |_this| { .. });
