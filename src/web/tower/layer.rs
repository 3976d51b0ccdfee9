//! [`GuardLayer`], which puts a guard in front of a service.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::bodies::AnyBody;
use super::service::GuardService;
use crate::guard::{SharedGuard, SharedKeyedGuard};
use crate::web::admission::Admission;
use crate::web::options::Settings;
use crate::web::{GuardOptions, RequestKey};

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
    settings: Arc<Settings<Parts>>,
    kind: PhantomData<fn() -> K>,
}

impl<K> GuardLayerFor<K> {
    /// Guards services with `guard`, a `&'static EndpointGuard` or an `Arc` of one.
    pub fn new(guard: impl Into<SharedGuard>) -> Self {
        Self::with_options(guard, GuardOptions::new())
    }

    /// Guards services with `guard`, with other [options](GuardOptions).
    pub fn with_options(guard: impl Into<SharedGuard>, options: GuardOptions) -> Self {
        Self::of(Admission::One(guard.into()), options)
    }

    /// Guards services with a lane for each key, which `key_of` reads from the request's head.
    ///
    /// It returns an `Option` of a key, or a [`RequestKey`](crate::web::RequestKey): requests without a key are refused, let
    /// through, or share one. A request that its key's lane does not let in is answered 429, or 409 where
    /// [`key_kind`](GuardOptions::key_kind) says so.
    ///
    /// What names the client must have been authenticated: a header that anyone can set gives everyone as many lanes as
    /// they like, and lets them into the lanes of others.
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
    pub fn keyed<Key, L>(
        guard: impl Into<SharedKeyedGuard<Key>>,
        key_of: impl Fn(&Parts) -> L + Send + Sync + 'static,
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
        key_of: impl Fn(&Parts) -> L + Send + Sync + 'static,
        options: GuardOptions,
    ) -> Self
    where
        Key: Hash + Eq + Send + 'static,
        L: Into<RequestKey<Key>>,
    {
        Self::of(Admission::per_key(guard.into(), key_of), options)
    }

    fn of(admission: Admission<Parts>, options: GuardOptions) -> Self {
        Self { settings: Arc::new(Settings { admission, options }), kind: PhantomData }
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
