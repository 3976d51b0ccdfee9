//! [`blocking_handler`], a function that blocks as a handler.

use std::sync::LazyLock;

use super::MAX_QUEUED;
use super::function::{HandlerFn, PoolArguments};
use super::pool_handler::PoolHandler;
use super::settings::AnyPool;
use crate::offload::BlockingPool;

static HANDLERS: LazyLock<BlockingPool> =
    LazyLock::new(|| BlockingPool::builder("handlers").max_queued(MAX_QUEUED).build());

/// Makes a handler of a function that blocks: a `def` endpoint of FastAPI. It is for axum's routes and for actix-web's.
///
/// Its extractors run on the runtime, the function and what makes a response of its result on the [`handler_pool`], and
/// other requests are answered meanwhile. See [`PoolHandler`] for limits of time, priorities and pools of your own, and for
/// what becomes of a request whose client leaves.
///
/// - In axum the function is what a handler is without its `async`: the last argument may be an extractor of the body, and
///   the result an [`IntoResponse`](https://docs.rs/axum/0.8/axum/response/trait.IntoResponse.html).
/// - In actix-web what it returns is an [`IntoPoolResponse`](crate::web::actix::IntoPoolResponse), which most of what
///   handlers return there is: a response of actix-web can't leave its thread, so it is taken apart on the pool.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn app() -> axum::Router {
/// use axum::{Json, Router, extract::Path, routing::get};
/// use onelane::web::blocking_handler;
///
/// fn user(Path(id): Path<u64>) -> Json<u64> {
///     std::thread::sleep(std::time::Duration::from_secs(1)); // a query with a driver that blocks
///     Json(id)
/// }
///
/// Router::new().route("/users/{id}", get(blocking_handler(user)))
/// # }
/// ```
///
/// An argument that can't be sent to another thread does not compile, and the message says which one it is:
///
/// ```compile_fail,E0277
/// use std::rc::Rc;
///
/// let handler = onelane::web::blocking_handler(|_: Rc<u8>| "hello");
/// ```
pub fn blocking_handler<F, Args>(function: F) -> PoolHandler<F, Args, BlockingPool>
where
    F: HandlerFn<Args>,
    Args: PoolArguments,
{
    PoolHandler::new(function, AnyPool::Blocking(HANDLERS.clone()))
}

/// The pool of [`blocking_handler`]s that were given no other one: 40 run at a time, 400 more may wait, and further ones are
/// answered with 503 and `Retry-After`.
///
/// What waits is counted for each runtime that it comes from: axum's server has one, actix-web's one for each worker. What
/// runs is counted for all of them.
///
/// Its limiter is not that of [`BlockingPool::global`], while FastAPI has one for both. There, 40 endpoints that each wait
/// for `run_in_threadpool` wait for ever, for each other. To have it that way, make a pool with
/// [that limiter](crate::offload::BlockingPoolBuilder::limiter), and put handlers [on](PoolHandler::on) it.
#[must_use]
pub fn handler_pool() -> &'static BlockingPool {
    &HANDLERS
}
