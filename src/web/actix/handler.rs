//! [`blocking_handler`] and [`cpu_handler`], and [`PoolHandler`] as a handler.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::Handler;

use super::pool_response::{IntoPoolResponse, PoolResponse};
#[cfg(feature = "rayon")]
use crate::offload::CpuPool;
use crate::offload::{BlockingPool, OffloadError, TaskHandle};
use crate::web::{HandlerFn, PoolArguments, PoolHandler, Refusal};

/// Makes a handler of a function that blocks: a `def` endpoint of FastAPI.
///
/// Its extractors run on the worker that has the request, the function and what makes a response of its result on the
/// [`handler_pool`](crate::web::handler_pool), and other requests are answered meanwhile. See [`PoolHandler`] for limits of
/// time, priorities and pools of your own, and for what becomes of a request whose client leaves.
///
/// The function takes up to 16 extractors, which are `Send`: not an `HttpRequest`. What it returns is an
/// [`IntoPoolResponse`], as most of what handlers return in actix-web is.
///
/// # Examples
///
/// ```
/// use actix_web::{App, web};
/// use onelane::web::actix::blocking_handler;
///
/// fn user(id: web::Path<u64>) -> web::Json<u64> {
///     std::thread::sleep(std::time::Duration::from_secs(1)); // a query with a driver that blocks
///     web::Json(*id)
/// }
///
/// let app = App::new().route("/users/{id}", web::get().to(blocking_handler(user)));
/// # drop(app);
/// ```
///
/// An argument that can't be sent to another thread does not compile, and the compiler says which one it is:
///
/// ```compile_fail,E0277
/// let handler = onelane::web::actix::blocking_handler(|_: actix_web::HttpRequest| "hello");
/// ```
pub fn blocking_handler<F, Args>(function: F) -> PoolHandler<F, Args, BlockingPool>
where
    F: HandlerFn<Args>,
    F::Output: IntoPoolResponse,
    Args: PoolArguments,
{
    PoolHandler::blocking(function)
}

/// Makes a handler of a function that computes: [`blocking_handler`], but on the
/// [`cpu_handler_pool`](crate::web::cpu_handler_pool), as many at a time as the machine has processors. `par_iter` inside of it
/// stays there.
///
/// # Panics
///
/// If it is the first one, and the threads of [`CpuPool::global`] can't be started.
///
/// # Examples
///
/// ```
/// use actix_web::{App, web};
/// use onelane::web::actix::cpu_handler;
///
/// fn checksum(body: web::Bytes) -> String {
///     body.iter().fold(0_u32, |sum, byte| sum.rotate_left(1) ^ u32::from(*byte)).to_string()
/// }
///
/// let app = App::new().route("/checksum", web::post().to(cpu_handler(checksum)));
/// # drop(app);
/// ```
#[cfg(feature = "rayon")]
pub fn cpu_handler<F, Args>(function: F) -> PoolHandler<F, Args, CpuPool>
where
    F: HandlerFn<Args>,
    F::Output: IntoPoolResponse,
    Args: PoolArguments,
{
    PoolHandler::cpu(function)
}

/// The extractors run on the worker that has the request. The function runs on the pool, and so does what makes a
/// [`PoolResponse`] of its result.
impl<F, Args, P> Handler<Args> for PoolHandler<F, Args, P>
where
    F: HandlerFn<Args>,
    F::Output: IntoPoolResponse,
    Args: Send + 'static,
    P: 'static,
{
    type Output = Result<PoolResponse, Refusal>;
    type Future = PoolHandlerFuture<F, Args, P>;

    fn call(&self, args: Args) -> Self::Future {
        let response = match self.start(args, IntoPoolResponse::into_pool_response) {
            Ok(response) => Stage::Handed(response),
            Err(error) => Stage::Refused(Some(error)),
        };
        PoolHandlerFuture { handler: self.clone(), response }
    }
}

/// A request whose function is on the pool. Made by [`PoolHandler`].
///
/// Dropped while it waits for a thread, the function never runs. Dropped while it runs, it runs on, and its
/// [context](crate::offload::TaskContext) tells it so.
pub struct PoolHandlerFuture<F, Args, P> {
    handler: PoolHandler<F, Args, P>,
    response: Stage,
}

enum Stage {
    Handed(TaskHandle<PoolResponse>),
    /// `None` once it was told.
    Refused(Option<OffloadError>),
}

impl<F, Args, P> Future for PoolHandlerFuture<F, Args, P> {
    type Output = Result<PoolResponse, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.response {
            Stage::Handed(response) => ready!(Pin::new(response).poll(cx)),
            Stage::Refused(error) => Err(error.take().expect("a future is not polled after its end")),
        };
        Poll::Ready(result.map_err(|error| self.handler.refuse(error)))
    }
}

impl<F, Args, P> fmt::Debug for PoolHandlerFuture<F, Args, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolHandlerFuture").field("handler", &self.handler).finish_non_exhaustive()
    }
}
