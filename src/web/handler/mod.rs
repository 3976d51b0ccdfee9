//! Handlers that run on a pool, like the `def` endpoints of FastAPI, for axum and actix-web.
//!
//! The adapter runs a request's extractors on the runtime. The pool then runs the function on one of its threads, and
//! converts the function's result to a response there. The response returns to the runtime. With a process pool, the
//! values of the extractors are sent to a worker process, and the response is sent back.

mod function;
mod pool_handler;
mod pools;
#[cfg(feature = "process")]
mod process_argument;
#[cfg(feature = "process")]
mod process_handler;
#[cfg(feature = "process")]
mod sent_response;
mod settings;
#[cfg(feature = "process")]
mod trace;

pub use self::function::{HandlerFn, PoolArgument, PoolArguments};
pub use self::pool_handler::PoolHandler;
#[cfg(feature = "cpu")]
pub use self::pools::cpu_handler_pool;
pub use self::pools::handler_pool;
#[cfg(feature = "process")]
pub use self::process_argument::ProcessArgument;
#[cfg(feature = "process")]
pub(super) use self::process_argument::sent_as_content;
#[cfg(feature = "process")]
pub use self::process_handler::ProcessHandler;
#[cfg(feature = "process")]
pub(super) use self::sent_response::SentResponse;
#[cfg(feature = "process")]
pub(super) use self::trace::not_sendable;
