//! [`GuardLayer`], which puts a guard in front of a service.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tower_layer::Layer;

use super::bodies::AnyBody;
use super::service::GuardService;
use crate::guard::SharedGuard;
use crate::web::GuardOptions;
use crate::web::options::Settings;

/// Puts a guard in front of a tower service, such as an axum route, a tonic server or a hyper service.
///
/// Each request waits for its turn before the service sees it. Requests that are not let in are answered as the [table
/// of refusals](crate::web) says; they are never errors. However often the layer is cloned and wherever it is added,
/// one guard is one guard.
///
/// In axum, use [`web::axum::GuardLayer`](crate::web::axum::GuardLayer), which is the same for axum's body type.
///
/// # Panics
///
/// A panic in the service gives the permit back and goes on through the layer.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// use http::{Request, Response};
/// use onelane::EndpointGuard;
/// use onelane::web::tower::GuardLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Infallible> {
/// let service = ServiceBuilder::new()
///     .layer(GuardLayer::new(&REPORT))
///     .service(service_fn(|_request| async {
///         Ok::<_, Infallible>(Response::new("one request at a time here".to_owned()))
///     }));
///
/// let response = service.oneshot(Request::new(String::new())).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
pub type GuardLayer = GuardLayerFor<AnyBody>;

/// [`GuardLayer`], for one kind of bodies.
pub struct GuardLayerFor<K> {
    settings: Arc<Settings>,
    kind: PhantomData<fn() -> K>,
}

impl<K> GuardLayerFor<K> {
    /// Guards services with `guard`, a `&'static EndpointGuard` or an `Arc` of one.
    pub fn new(guard: impl Into<SharedGuard>) -> Self {
        Self::with_options(guard, GuardOptions::new())
    }

    /// Guards services with `guard`, with other [options](GuardOptions).
    pub fn with_options(guard: impl Into<SharedGuard>, options: GuardOptions) -> Self {
        Self { settings: Arc::new(Settings { guard: guard.into(), options }), kind: PhantomData }
    }
}

impl<S: Clone, K> Layer<S> for GuardLayerFor<K> {
    type Service = GuardService<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService::new(inner, Arc::clone(&self.settings))
    }
}

impl<K> Clone for GuardLayerFor<K> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings), kind: PhantomData }
    }
}

impl<K> fmt::Debug for GuardLayerFor<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardLayer").field("settings", &self.settings).finish()
    }
}
