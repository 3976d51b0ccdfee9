//! Admission: may this request run now, wait, or be refused?
//!
//! | I want | use |
//! |---|---|
//! | one caller at a time, or N, in order | [`EndpointGuard`] |
//! | a turn now, or an error at once | [`EndpointGuard::try_acquire`], or a guard with [`Queue::Reject`] |
//! | a turn from a plain thread or `spawn_blocking` | [`EndpointGuard::acquire_blocking`] |
//! | a turn for a piece of async work | [`EndpointGuard::run`] |
//! | the same, and the work must not be cut in half | [`EndpointGuard::run_to_completion`] |
//! | a turn for a whole handler | the layers of [`web`](crate::web) |
//! | exclusive access to data | not this: `tokio::sync::Mutex`, or `std::sync::Mutex` if nothing is awaited under it |
//! | so many calls *a second* | not this: a rate limiter |

mod acquire;
mod blocking;
mod builder;
mod endpoint_guard;
mod error;
pub(crate) mod inside;
mod lane;
mod permit;
mod retry;
mod run;
mod scope;
mod shared;
mod stats;
mod wait;

pub use self::acquire::{Acquire, AcquireOwned};
pub use self::builder::{EndpointGuardBuilder, Queue};
pub use self::endpoint_guard::EndpointGuard;
pub use self::error::AcquireError;
pub use self::lane::Order;
pub use self::permit::{OwnedPermit, Permit};
pub use self::retry::RetryEstimate;
pub use self::run::{Run, RunToCompletion};
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) use self::scope::Scope;
pub use self::shared::SharedGuard;
pub use self::stats::GuardStats;
