//! Handlers that run on a pool: the `def` endpoints of FastAPI, for axum and actix-web.
//!
//! A request's way: its extractors run on the runtime, in the adapter; then its function, and what makes a response of its
//! result, on a thread of the pool; then the response goes back to the runtime.

mod function;
mod pool_handler;
mod pools;
mod settings;

pub use self::function::{HandlerFn, PoolArgument, PoolArguments};
pub use self::pool_handler::PoolHandler;
#[cfg(feature = "rayon")]
pub use self::pools::cpu_handler_pool;
pub use self::pools::handler_pool;
