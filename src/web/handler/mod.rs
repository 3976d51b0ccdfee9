//! Handlers that run on a pool, like the `def` endpoints of FastAPI, for axum and actix-web.
//!
//! The adapter runs a request's extractors on the runtime. The pool then runs the function on one of its threads, and
//! converts the function's result to a response there. The response returns to the runtime.

mod function;
mod pool_handler;
mod pools;
mod settings;

pub use self::function::{HandlerFn, PoolArgument, PoolArguments};
pub use self::pool_handler::PoolHandler;
#[cfg(feature = "cpu")]
pub use self::pools::cpu_handler_pool;
pub use self::pools::handler_pool;
