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
//! | one at a time for each user, tenant, document | [`KeyedGuard`] |
//! | turns of several keys together | [`KeyedGuard::acquire_all`] |
//! | one run for all who ask for the same thing at the same time | [`SingleFlight`] |
//! | what was computed, again later | not this: a cache, such as moka |
//! | exclusive access to data | not this: `tokio::sync::Mutex`, or `std::sync::Mutex` if nothing is awaited under it |
//! | so many calls *a second* | not this: a rate limiter |
//!
//! # Common mistakes
//!
//! | you wrote | what happens | write |
//! |---|---|---|
//! | `let _ = guard.acquire().await?;` | the turn ends at once | `let _permit = …` |
//! | a guard made in the handler | each request has its own | one `static`, or one `Arc` in the app's state |
//! | `const GUARD: EndpointGuard` | each use is another guard | `static` |
//! | `guard.run_to_completion(…)` on an `Arc` | "does not live long enough" | `Arc::clone(&guard).run_to_completion_owned(…)` |
//! | `GuardLayer::new(guard)` with the guard itself | "`From<EndpointGuard>` is not implemented" | `&GUARD` of a `static`, or an `Arc` |
//! | `single_flight.run("page", …)` for a page that greets its user | one user gets another's page | the user in the key |
//! | a `KeyedGuard` with keys that any client may make up | each made-up key has a lane of its own | a key that was authenticated, and [`max_keys`](KeyedGuardBuilder::max_keys) |
//! | `acquire` while holding a permit of the same guard | waits for itself | [`EndpointGuard::run`], which refuses, or a `max_wait` |
//!
//! # WaitQueue or shares
//!
//! | | [`EndpointGuard`] | [`KeyedGuard`] | [`SingleFlight`] |
//! |---|---|---|---|
//! | callers at the same time | take turns | take turns for each key | share one run for each key |
//! | the work runs | once a caller | once a caller | once for all of them |
//! | when its caller leaves | it is dropped, or goes on with `run_to_completion` | the same | it goes on for the others |
//! | for | a device, a report | a user, a document | a page, a token, a price |
//!
//! # Logs
//!
//! Events of `tracing` with the target `onelane` and the field `guard`: callers refused and runs that go on without their
//! caller at `debug`, turns that expired and runs cut off at `warn`, mistakes of the service
//! ([`WouldDeadlock`](AcquireError::WouldDeadlock), [`BlockingInAsync`](AcquireError::BlockingInAsync)) at `error`.

pub(crate) mod acquire;
mod blocking;
mod builder;
pub(crate) mod core;
mod endpoint_guard;
mod error;
mod flight;
pub(crate) mod inside;
mod key_map;
mod keyed;
pub(crate) mod permit;
mod retry;
mod run;
pub(crate) mod scope;
mod shared;
mod stats;
mod trace;
mod wait;

pub use self::acquire::{Acquire, AcquireOwned};
pub use self::builder::{EndpointGuardBuilder, Queue};
pub use self::endpoint_guard::EndpointGuard;
pub use self::error::AcquireError;
pub use self::flight::{FlightError, FlightStats, SharedRun, SingleFlight, SingleFlightBuilder};
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) use self::keyed::KeyGate;
pub use self::keyed::{
    AcquireAll, AcquireKey, AcquireKeyOwned, KeyedGuard, KeyedGuardBuilder, KeyedPermit, KeyedPermits,
    OwnedKeyedPermit, RunKeyed, RunKeyedToCompletion,
};
pub use self::permit::{OwnedPermit, Permit};
pub use self::retry::RetryEstimate;
pub use self::run::{Run, RunToCompletion};
pub use self::shared::{Shared, SharedGuard, SharedKeyedGuard};
pub use self::stats::GuardStats;
pub use crate::semaphore::Order;
