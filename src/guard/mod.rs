//! Admission: decides if a caller runs now, waits, or is refused.
//!
//! Guards work within one process, unless they are [distributed](GuardBuilder::distributed) over the processes of a host
//! or of a cluster. A service that runs as several processes otherwise admits one caller per process.
//!
//! | I want | use |
//! |---|---|
//! | one caller at a time, or N, in order | [`EndpointGuard`] |
//! | a permit now, or an error at once | [`EndpointGuard::try_acquire`], or [`Queue::Reject`] |
//! | a permit on a plain thread or in `spawn_blocking` | [`EndpointGuard::acquire_blocking`] |
//! | to run a piece of async work | [`EndpointGuard::run`] |
//! | the same, for work that must not be interrupted | [`EndpointGuard::run_to_completion`] |
//! | to guard a whole handler | the layers of [`web`](crate::web) |
//! | one caller at a time for each user, tenant, document | [`KeyedGuard`] |
//! | permits of several keys together | [`KeyedGuard::acquire_all`] |
//! | one caller at a time in all processes of a host or of a cluster | [`distributed`](GuardBuilder::distributed) |
//! | one run for all callers that ask for the same thing at once | [`SingleFlight`] |
//! | to reuse an earlier result | not this: a cache, such as moka |
//! | exclusive access to data | not this: `tokio::sync::Mutex`, or `std::sync::Mutex` |
//! | a number of calls *per second* | not this: a rate limiter |
//!
//! # Common mistakes
//!
//! | you wrote | what happens | write |
//! |---|---|---|
//! | `let _ = guard.acquire().await?;` | the permit is released at once | `let _permit = …`[^let] |
//! | a guard created in the handler | each request has its own | a `static`, or an `Arc` in the app's state |
//! | `const GUARD: EndpointGuard` | each use is another guard | `static` |
//! | `guard.run_to_completion(…)` on an `Arc` | "does not live long enough"[^arc] | `run_to_completion_owned(…)` |
//! | `GuardLayer::new(EndpointGuard::new(…))` for each of two routes | each route has its own guard | one layer, cloned |
//! | a timeout layer around a guard layer | the permit is kept | it [behind the guard layer](crate::web#time-limits) |
//! | `flight.run("page", …)` for a personal page | users get each other's page | a key that contains the user |
//! | a `KeyedGuard` with keys that clients make up | each made-up key has its own queue | authenticated keys |
//! | `acquire` while holding a [`Permit`] of the same guard | the caller waits for itself | `run`, or a `max_wait` |
//!
//! [^let]: Clippy's lint `let_underscore_must_use` detects this mistake.
//!
//! [^arc]: Or, if the `Arc` is borrowed: "borrowed data escapes outside of function".
//!
//! Where clients can choose arbitrary keys, set [`max_keys`](KeyedGuardBuilder::max_keys) as well.
//!
//! # Nested use
//!
//! Work inside [`run`](EndpointGuard::run), [`run_to_completion`](EndpointGuard::run_to_completion) or a web layer that
//! acquires the same guard, or the same key, while no permit is available would wait for itself. Such a call is refused
//! with [`WouldDeadlock`](AcquireErrorKind::WouldDeadlock) at once. The same applies to the work of a [`SingleFlight`]
//! that asks for its own key.
//!
//! | the call is made in | inside the guard |
//! |---|---|
//! | the same task: code that the work awaits, or an executor that it drives, such as a `LocalSet` | yes |
//! | a task of a pool: `run_blocking`, `run_cpu`, a `TaskHandle`, a handler on a pool, a blocking stream | yes |
//! | a task of a `Portal`, and a `from_thread::block_on` in any of these | yes |
//! | a run of a flight that the work leads, even after a driver task has taken over the run | yes |
//! | any of these nested in another, at any depth | yes |
//! | the same work, after its caller has left and the work continues in its own task | yes |
//! | a task whose handle was dropped or detached, an abandoned task, a run whose leader has left | no: not awaited |
//! | any of these, after the permit was released | no |
//! | a task of `tokio::spawn`, a thread, a part of a `par_iter` | no |
//!
//! A task in the last row is a separate caller: it waits until the permit is released. If the work waits for the task
//! while it holds the permit, both wait forever. Use `run_blocking`, `run_cpu` or a `Portal` there, or a `max_wait`.
//!
//! # Exclusive or shared runs
//!
//! | | [`EndpointGuard`] | [`KeyedGuard`] | [`SingleFlight`] |
//! |---|---|---|---|
//! | concurrent callers | run one after the other | the same, for each key | share one run for each key |
//! | the work runs | once per caller | once per caller | once for all of them |
//! | if its caller is cancelled | it is dropped[^detach] | it is dropped[^detach] | it continues for the others |
//! | for example | a device, a report | a user, a document | a page, a token, a price |
//!
//! [^detach]: With `run_to_completion` it continues without its caller.
//!
//! # Logs
//!
//! Guards and flights emit `tracing` events with the target `onelane` and the field `guard` or `flight`: callers that
//! were refused, timed out or left the queue, and detached and cancelled runs, at `debug`; expired grants, panics, and
//! runs that were cut off, at `warn`; bugs in the service ([`WouldDeadlock`](AcquireErrorKind::WouldDeadlock),
//! [`BlockingInAsync`](AcquireErrorKind::BlockingInAsync)) at `error`. See [all events](crate::docs::events).

#![expect(private_bounds, reason = "the bound of the generic futures and permits is sealed: users name their aliases")]

pub(crate) mod acquire;
mod blocking;
mod builder;
mod core;
mod endpoint_guard;
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) mod erased;
mod error;
mod error_kind;
mod flight;
pub(crate) mod guarded_work;
mod hold_time;
mod key_map;
mod keyed;
pub(crate) mod lease_loss;
mod managed;
pub(crate) mod permit;
mod remote;
mod retry;
mod run;
mod source;
mod stats;
mod trace;
mod wait;

pub use self::builder::{EndpointGuardBuilder, GuardBuilder, KeyedGuardBuilder, Queue};
pub use self::endpoint_guard::{EndpointGuard, SharedGuard};
pub use self::error::AcquireError;
pub use self::error_kind::AcquireErrorKind;
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) use self::flight::CallerWait;
pub use self::flight::{FlightError, FlightErrorKind, FlightStats, SingleFlight, SingleFlightBuilder};
pub use self::keyed::{KeyedGuard, KeyedPermit, KeyedPermits, OwnedKeyedPermit, SharedKeyedGuard};
pub use self::permit::{HeldPermit, OwnedPermit, Permit};
pub use self::stats::GuardStats;
pub use crate::semaphore::Order;
pub use crate::shared::Shared;

/// The named futures of the guards.
///
/// You need them only to store a future in a struct or to name it in a signature.
pub mod futures {
    pub use super::acquire::{Acquire, AcquireFuture, AcquireOwned};
    pub use super::flight::SharedRun;
    pub use super::keyed::{AcquireAll, AcquireKey, AcquireKeyOwned, KeyedSource, RunKeyed, RunKeyedToCompletion};
    pub use super::run::{Run, RunFuture, RunToCompletion, RunToCompletionFuture};
}
