//! [`blocking_handler`] and [`cpu_handler`], and [`PoolHandler`] as a handler.

use std::pin::Pin;

use axum::extract::{FromRequest, Request};
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};

use super::body::link;
#[cfg(feature = "rayon")]
use crate::offload::CpuPool;
use crate::offload::{BlockingPool, OffloadError, TaskHandle};
use crate::web::{ClientLink, HandlerFn, PoolArguments, PoolHandler, Refusal};

/// Makes a handler of a function that blocks: a `def` endpoint of FastAPI.
///
/// Its extractors run on the runtime, the function and what makes a response of its result on the
/// [`handler_pool`](crate::web::handler_pool), and other requests are answered meanwhile. See [`PoolHandler`] for limits of
/// time, priorities and pools of your own, and for what becomes of a request whose client leaves.
///
/// The function is what a handler is without its `async`: up to 16 extractors, of which the last one may read the body, and an
/// [`IntoResponse`] that it returns.
///
/// # Examples
///
/// ```
/// use axum::{Json, Router, extract::Path, routing::get};
/// use onelane::web::axum::blocking_handler;
///
/// fn user(Path(id): Path<u64>) -> Json<u64> {
///     std::thread::sleep(std::time::Duration::from_secs(1)); // a query with a driver that blocks
///     Json(id)
/// }
///
/// let app: Router = Router::new().route("/users/{id}", get(blocking_handler(user)));
/// ```
///
/// An argument that can't be sent to another thread does not compile, and the compiler says which one it is:
///
/// ```compile_fail,E0277
/// let handler = onelane::web::axum::blocking_handler(|_: std::rc::Rc<u8>| "hello");
/// ```
pub fn blocking_handler<F, Args>(function: F) -> PoolHandler<F, Args, BlockingPool>
where
    F: HandlerFn<Args>,
    F::Output: IntoResponse,
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
/// use axum::{Router, body::Bytes, routing::post};
/// use onelane::web::axum::cpu_handler;
///
/// fn checksum(body: Bytes) -> String {
///     body.iter().fold(0_u32, |sum, byte| sum.rotate_left(1) ^ u32::from(*byte)).to_string()
/// }
///
/// let app: Router = Router::new().route("/checksum", post(cpu_handler(checksum)));
/// ```
#[cfg(feature = "rayon")]
pub fn cpu_handler<F, Args>(function: F) -> PoolHandler<F, Args, CpuPool>
where
    F: HandlerFn<Args>,
    F::Output: IntoResponse,
    Args: PoolArguments,
{
    PoolHandler::cpu(function)
}

/// The extractors run on the runtime, and answer for themselves if they fail. The function runs on the pool, and so does what
/// makes a response of its result. If the request carries a [`ClientLink`](crate::web::ClientLink), its task is cancelled when its
/// client has gone.
impl<F, Args, P, M, S> Handler<M, S> for PoolHandler<F, Args, P>
where
    F: HandlerFn<Args>,
    F::Output: IntoResponse,
    Args: FromRequest<S, M> + Send + 'static,
    P: 'static,
    S: Send + Sync + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, state: S) -> Self::Future {
        Box::pin(async move {
            let link = link(request.extensions());
            let args = match Args::from_request(request, &state).await {
                Ok(args) => args,
                Err(rejection) => return rejection.into_response(),
            };
            let result = match self.start(args, IntoResponse::into_response) {
                Ok(task) => match link.filter(|_| !self.is_shielded()) {
                    Some(link) => watched(task, &link).await,
                    None => task.await,
                },
                Err(error) => Err(error),
            };
            result.unwrap_or_else(|error| {
                match error {
                    // Nothing but the watching cancels it.
                    OffloadError::Cancelled => Refusal::client_gone(),
                    error => self.refuse(error),
                }
                .into_response()
            })
        })
    }
}

/// Waits for the response, and cancels the task when the client has gone: it never runs, or is told that nobody waits.
///
/// What runs is waited for all the same. A guard around the handler would take it for ended otherwise, and let the next one in
/// beside it.
async fn watched(mut task: TaskHandle<Response>, link: &ClientLink) -> Result<Response, OffloadError> {
    tokio::select! {
        biased;
        result = &mut task => return result,
        () = link.gone() => task.cancel(),
    }
    task.await
}
