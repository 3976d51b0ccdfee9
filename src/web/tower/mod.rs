//! A guard in front of tower services: axum, tonic, hyper.
//!
//! | I want | use |
//! |---|---|
//! | to guard axum routes | [`web::axum::GuardLayer`](crate::web::axum::GuardLayer), made of this |
//! | to guard any other tower service | [`GuardLayer`] |
//! | `n` requests at once, in no other respect special | this, or `tower::limit::GlobalConcurrencyLimitLayer` |
//!
//! A request passes the files of this folder in this order: `layer` → `service` → `future`, with `read_ahead` while it
//! waits, and `held_body` on its way back.

mod bodies;
mod flight;
mod future;
mod held_body;
mod layer;
mod read_ahead;
mod service;

pub use self::bodies::{AnyBody, BodyKind, GuardBody, GuardRequestBody, RequestBody, ResponseBody};
pub use self::flight::{FlightFuture, FlightLayer, FlightLayerFor, FlightService};
pub use self::future::GuardFuture;
pub use self::held_body::HeldBody;
pub use self::layer::{GuardLayer, GuardLayerFor};
pub use self::read_ahead::Replay;
pub use self::service::GuardService;
