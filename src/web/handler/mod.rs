//! Handlers that run on a pool: the `def` endpoints of FastAPI, for axum and actix-web.
//!
//! A request's way: its extractors run on the runtime, in the adapter; then its function, and what makes a response of its
//! result, on a thread of the pool; then the response goes back to the runtime.

mod blocking;
#[cfg(feature = "rayon")]
mod cpu;
mod function;
mod pool_handler;
mod settings;

pub use self::blocking::{blocking_handler, handler_pool};
#[cfg(feature = "rayon")]
pub use self::cpu::{cpu_handler, cpu_handler_pool};
pub use self::function::{HandlerFn, PoolArgument, PoolArguments};
pub use self::pool_handler::PoolHandler;

/// How many requests may wait in the pools that handlers have if nothing else is said: with 40 at a time, ten rounds. A
/// client that came last and waits for ten rounds has waited long enough to be asked to come back later.
const MAX_QUEUED: usize = 400;
