//! [`cpu_handler`], a function that computes as a handler.

use std::sync::LazyLock;

use super::MAX_QUEUED;
use super::function::{HandlerFn, PoolArguments};
use super::pool_handler::PoolHandler;
use super::settings::AnyPool;
use crate::offload::CpuPool;

static HANDLERS: LazyLock<CpuPool> = LazyLock::new(|| CpuPool::global().sharing_threads("cpu-handlers", MAX_QUEUED));

/// Makes a handler of a function that computes: [`blocking_handler`](super::blocking_handler), but on the
/// [`cpu_handler_pool`], as many at a time as the machine has processors. `par_iter` inside of it stays there.
///
/// # Panics
///
/// If it is the first one, and the threads of [`CpuPool::global`] can't be started.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn app() -> axum::Router {
/// use axum::{Router, body::Bytes, routing::post};
/// use onelane::web::cpu_handler;
///
/// fn checksum(body: Bytes) -> String {
///     body.iter().fold(0_u32, |sum, byte| sum.rotate_left(1) ^ u32::from(*byte)).to_string()
/// }
///
/// Router::new().route("/checksum", post(cpu_handler(checksum)))
/// # }
/// ```
pub fn cpu_handler<F, Args>(function: F) -> PoolHandler<F, Args, CpuPool>
where
    F: HandlerFn<Args>,
    Args: PoolArguments,
{
    PoolHandler::new(function, AnyPool::Cpu(HANDLERS.clone()))
}

/// The pool of [`cpu_handler`]s that were given no other one: 400 may wait, and further ones are answered with 503 and
/// `Retry-After`.
///
/// Its threads are those of [`CpuPool::global`], and so is its limiter: together they run as many tasks at a time as the
/// machine has processors. What it has of its own is the queue, and its end.
///
/// # Panics
///
/// If it is the first use, and the threads can't be started.
#[must_use]
pub fn cpu_handler_pool() -> &'static CpuPool {
    &HANDLERS
}
