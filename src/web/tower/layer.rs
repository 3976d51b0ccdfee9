//! [`GuardLayer`], which puts a guard in front of a service.

use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::bodies::{AnyBody, BodyKind};
use super::service::GuardService;
use crate::debug::impl_debug;
use crate::guard::{SharedGuard, SharedKeyedGuard};
use crate::web::layer_settings::LayerSettings;
use crate::web::{GuardOptions, RequestKey};

/// Puts a guard in front of a tower service, such as an axum route, a tonic server or a hyper service.
///
/// Each request waits for a permit before it reaches the service. A request that is refused gets a response from the
/// [tables of refusals](crate::web#refusals), and never an error. All clones of the layer share one guard, wherever
/// they are added.
///
/// In axum, use [`web::axum::GuardLayer`](crate::web::axum::GuardLayer), which is this layer for axum's body type.
///
/// # Panics
///
/// A panic in the service releases the permit and propagates through the layer.
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

/// [`GuardLayer`] for one kind of body.
pub struct GuardLayerFor<K> {
    settings: Arc<LayerSettings<Parts>>,
    body_kind: PhantomData<fn() -> K>,
}

impl<K> GuardLayerFor<K> {
    /// Guards services with `guard`, a `&'static EndpointGuard` or an `Arc` of one.
    pub fn new(guard: impl Into<SharedGuard>) -> Self {
        Self { settings: LayerSettings::new(guard), body_kind: PhantomData }
    }

    /// Guards services separately for each key, which `key_of` reads from the head of the request.
    ///
    /// `key_of` returns an `Option` of a key, or a [`RequestKey`]. Requests without a key are refused, let through, or
    /// share a key. A request that is refused because of its key gets status 429, or 409 if the
    /// [`key_kind`](GuardOptions::key_kind) is a resource.
    ///
    /// Clients must be authenticated before `key_of` reads their names. Otherwise a client can claim any number of
    /// keys, including those of other clients.
    ///
    /// ```
    /// use http::request::Parts;
    /// use onelane::KeyedGuard;
    /// use onelane::web::tower::GuardLayer;
    ///
    /// static PER_USER: KeyedGuard<String> = KeyedGuard::new("user");
    ///
    /// let layer = GuardLayer::keyed(&PER_USER, |head: &Parts| {
    ///     let user = head.headers.get("x-user")?;
    ///     user.to_str().ok().map(str::to_owned)
    /// });
    /// ```
    pub fn keyed<Key, R>(
        guard: impl Into<SharedKeyedGuard<Key>>,
        key_of: impl Fn(&Parts) -> R + Send + Sync + 'static,
    ) -> Self
    where
        Key: Hash + Eq + Send + 'static,
        R: Into<RequestKey<Key>>,
    {
        Self { settings: LayerSettings::keyed(guard, key_of), body_kind: PhantomData }
    }

    /// Sets the [options](GuardOptions).
    #[must_use]
    pub fn options(mut self, options: GuardOptions) -> Self {
        self.settings = self.settings.with_options(options);
        self
    }
}

impl<S: Clone, K: BodyKind> Layer<S> for GuardLayerFor<K> {
    type Service = GuardService<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService::new(inner, Arc::clone(&self.settings))
    }
}

impl<K> Clone for GuardLayerFor<K> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings), body_kind: PhantomData }
    }
}

impl_debug!([K] GuardLayerFor<K> |this| { settings: this.settings });
