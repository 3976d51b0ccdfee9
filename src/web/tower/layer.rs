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
/// In axum, use [`web::axum::GuardLayer`](crate::web::axum::GuardLayer), which is this for axum's body type.
///
/// # Panics
///
/// A panic in the service gives the permit back and goes on through the layer.
pub struct GuardLayer<K = AnyBody> {
    settings: Arc<Settings>,
    kind: PhantomData<fn() -> K>,
}

impl<K> GuardLayer<K> {
    /// Guards services with `guard`, a `&'static EndpointGuard` or an `Arc` of one.
    pub fn new(guard: impl Into<SharedGuard>) -> Self {
        Self::with_options(guard, GuardOptions::new())
    }

    /// Guards services with `guard`, with other [options](GuardOptions).
    pub fn with_options(guard: impl Into<SharedGuard>, options: GuardOptions) -> Self {
        Self { settings: Arc::new(Settings { guard: guard.into(), options }), kind: PhantomData }
    }
}

impl<S: Clone, K> Layer<S> for GuardLayer<K> {
    type Service = GuardService<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService::new(inner, Arc::clone(&self.settings))
    }
}

impl<K> Clone for GuardLayer<K> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings), kind: PhantomData }
    }
}

impl<K> fmt::Debug for GuardLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardLayer").field("settings", &self.settings).finish()
    }
}
