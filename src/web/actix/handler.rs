//! [`PoolHandler`] as a handler.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::Handler;

use super::pool_response::{IntoPoolResponse, PoolResponse};
use crate::offload::{OffloadError, TaskHandle};
use crate::web::{HandlerFn, PoolHandler, Refusal};

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
