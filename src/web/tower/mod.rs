//! A guard in front of tower services: axum, tonic, hyper.
//!
//! | I want | use |
//! |---|---|
//! | to guard axum routes | [`web::axum::GuardLayer`](crate::web::axum::GuardLayer), which is built on this module |
//! | to guard any other tower service | [`GuardLayer`] |
//! | reports of blocked workers that name the service | [`WatchLayer`] |
//! | at most `n` requests at once and nothing else | [`GuardLayer`], or `tower::limit::GlobalConcurrencyLimitLayer` |
//!
//! A request passes through the files of this folder in this order: `layer` → `service` → `future`, then `waiting` and
//! `read_ahead` while the request waits for a permit, and `held_body` when its response is sent.

mod bodies;
mod flight;
mod future;
mod head;
mod held_body;
mod layer;
mod read_ahead;
mod service;
mod waiting;
#[cfg(feature = "watch")]
mod watch;

pub use self::bodies::{AnyBody, GuardBody, GuardRequestBody};
#[cfg(feature = "axum")]
pub(super) use self::bodies::{BodyKind, RequestBody, ResponseBody};
pub use self::flight::{FlightFuture, FlightLayer, FlightLayerFor, FlightService};
pub use self::future::GuardFuture;
#[cfg(feature = "axum")]
pub(super) use self::head::copy_head;
#[cfg(feature = "axum")]
pub(super) use self::held_body::HeldBody;
pub use self::layer::{GuardLayer, GuardLayerFor};
#[cfg(feature = "axum")]
pub(super) use self::read_ahead::ReplayBody;
pub use self::service::GuardService;
#[cfg(feature = "watch")]
pub use self::watch::{WatchLayer, WatchService};
// axum's services implement tower's traits, which only this folder names.
#[cfg(all(feature = "axum", any(feature = "watch", unix)))]
pub(super) use {tower_layer::Layer, tower_service::Service};
