//! [`blocking_handler`] and [`cpu_handler`], and [`PoolHandler`] as a handler.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::Handler;

use super::pool_response::{IntoPoolResponse, PoolResponse};
use crate::debug::impl_debug;
#[cfg(feature = "cpu")]
use crate::offload::CpuPool;
use crate::offload::{BlockingPool, OffloadError, TaskHandle};
use crate::web::{HandlerFn, PoolArguments, PoolHandler, Refusal};

/// Makes a handler from a function that blocks, like a `def` endpoint of FastAPI.
///
/// The extractors run on the request's worker. The function runs on the [`handler_pool`](crate::web::handler_pool),
/// where its result also becomes a response. The worker serves other requests meanwhile. See [`PoolHandler`] for time
/// limits, priorities and other pools, and for what happens when the client disconnects.
///
/// The function takes up to 16 extractors. They must be `Send`, so `HttpRequest` is not possible. Its result is an
/// [`IntoPoolResponse`], like most of what handlers return in actix-web.
///
/// # Examples
///
/// ```
/// use actix_web::{App, web};
/// use onelane::web::actix::blocking_handler;
///
/// fn user(id: web::Path<u64>) -> web::Json<u64> {
///     std::thread::sleep(std::time::Duration::from_secs(1)); // a query with a blocking driver
///     web::Json(*id)
/// }
///
/// let app = App::new().route("/users/{id}", web::get().to(blocking_handler(user)));
/// # drop(app);
/// ```
///
/// An argument that can't be sent to another thread does not compile. The compiler names the argument:
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

/// Makes a handler from a function that computes. It is a [`blocking_handler`] on the
/// [`cpu_handler_pool`](crate::web::cpu_handler_pool), which runs as many functions at a time as the machine has
/// processors. A `par_iter` in the function runs on rayon's threads: see [`CpuPool`](crate::CpuPool).
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
#[cfg(feature = "cpu")]
pub fn cpu_handler<F, Args>(function: F) -> PoolHandler<F, Args, CpuPool>
where
    F: HandlerFn<Args>,
    F::Output: IntoPoolResponse,
    Args: PoolArguments,
{
    PoolHandler::cpu(function)
}

/// The extractors run on the request's worker. The function runs on the pool, where its result also becomes a
/// [`PoolResponse`].
impl<F, Args, P> Handler<Args> for PoolHandler<F, Args, P>
where
    F: HandlerFn<Args>,
    F::Output: IntoPoolResponse,
    Args: PoolArguments,
    P: 'static,
{
    type Output = Result<PoolResponse, Refusal>;
    type Future = PoolHandlerFuture<F, Args, P>;

    fn call(&self, args: Args) -> Self::Future {
        let state = match self.start(args, IntoPoolResponse::into_pool_response, PoolResponse::status) {
            Ok(task) => PoolHandlerState::Started(task),
            Err(error) => PoolHandlerState::Refused(Some(error)),
        };
        PoolHandlerFuture { handler: self.clone(), state }
    }
}

/// A request whose function runs on the pool. Created by [`PoolHandler`].
///
/// If this future is dropped while it waits for a thread, the function never runs. If it is dropped while the function
/// runs, the function continues, and its [context](crate::offload::TaskContext) reports the cancellation.
pub struct PoolHandlerFuture<F, Args, P> {
    handler: PoolHandler<F, Args, P>,
    state: PoolHandlerState,
}

enum PoolHandlerState {
    Started(TaskHandle<PoolResponse>),
    /// `None` once the error has been returned.
    Refused(Option<OffloadError>),
}

impl<F, Args, P> Future for PoolHandlerFuture<F, Args, P> {
    type Output = Result<PoolResponse, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            PoolHandlerState::Started(task) => ready!(Pin::new(task).poll(cx)),
            PoolHandlerState::Refused(error) => {
                Err(error.take().expect("a future must not be polled after it completed"))
            }
        };
        let error = match result {
            Ok(response) => return Poll::Ready(Ok(response)),
            Err(error) => error,
        };
        let (refusal, hook) = (Refusal::from(error), self.handler.on_refusal_hook());
        // Only the responder of the result sees the request.
        let result = if hook.is_set() { Ok(PoolResponse::refused(refusal, hook.clone())) } else { Err(refusal) };
        Poll::Ready(result)
    }
}

impl_debug!([F, Args, P] PoolHandlerFuture<F, Args, P> |this| { handler: this.handler, .. });
