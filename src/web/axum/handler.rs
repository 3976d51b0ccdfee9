//! [`blocking_handler`] and [`cpu_handler`], and [`PoolHandler`] as a handler.

use std::pin::Pin;

use axum::extract::{FromRequest, Request};
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};

use super::body::link;
#[cfg(feature = "cpu")]
use crate::offload::CpuPool;
use crate::offload::{BlockingPool, OffloadErrorKind, TaskHandle};
use crate::web::tower::copy_head;
use crate::web::{ClientLink, HandlerFn, PoolArguments, PoolHandler, Refusal, RequestHead};

/// Makes a handler from a function that blocks, like a `def` endpoint of FastAPI.
///
/// The extractors run on the runtime. The function runs on the [`handler_pool`](crate::web::handler_pool), where its
/// result also becomes a response. The runtime serves other requests meanwhile. See [`PoolHandler`] for time limits,
/// priorities and other pools, and for what happens when the client disconnects.
///
/// The function is like any handler of axum, but without `async`. It takes up to 16 extractors, the last of which may
/// read the body, and returns an [`IntoResponse`].
///
/// # Examples
///
/// ```
/// use axum::{Json, Router, extract::Path, routing::get};
/// use onelane::web::axum::blocking_handler;
///
/// fn user(Path(id): Path<u64>) -> Json<u64> {
///     std::thread::sleep(std::time::Duration::from_secs(1)); // a query with a blocking driver
///     Json(id)
/// }
///
/// let app: Router = Router::new().route("/users/{id}", get(blocking_handler(user)));
/// ```
///
/// An argument that can't be sent to another thread does not compile. The compiler names the argument:
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

/// Makes a handler from a function that computes. It is a [`blocking_handler`] on the
/// [`cpu_handler_pool`](crate::web::cpu_handler_pool), which runs as many functions at a time as the machine has
/// processors. A `par_iter` in the function runs on rayon's threads: see [`CpuPool`](crate::CpuPool).
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
#[cfg(feature = "cpu")]
pub fn cpu_handler<F, Args>(function: F) -> PoolHandler<F, Args, CpuPool>
where
    F: HandlerFn<Args>,
    F::Output: IntoResponse,
    Args: PoolArguments,
{
    PoolHandler::cpu(function)
}

/// The extractors run on the runtime. If one fails, its rejection is the response. The function runs on the pool, where
/// its result also becomes a response. If the request carries a [`ClientLink`](crate::web::ClientLink), its task is
/// cancelled when the client disconnects.
impl<F, Args, P, M, S> Handler<M, S> for PoolHandler<F, Args, P>
where
    F: HandlerFn<Args>,
    F::Output: IntoResponse,
    Args: FromRequest<S, M> + PoolArguments,
    P: 'static,
    S: Send + Sync + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, state: S) -> Self::Future {
        Box::pin(async move {
            let link = link(request.extensions());
            let hook = self.on_refusal_hook();
            // The extractors consume the request.
            let head = hook.is_set().then(|| copy_head(&request));
            let args = match Args::from_request(request, &state).await {
                Ok(args) => args,
                Err(rejection) => return rejection.into_response(),
            };
            let result = match self.start(args, IntoResponse::into_response, |response| response.status().as_u16()) {
                Ok(task) => match link.filter(|_| !self.is_shielded()) {
                    Some(link) => cancel_when_gone(task, TaskHandle::cancel, &link).await,
                    None => task.await,
                },
                Err(error) => Err(error),
            };
            result.unwrap_or_else(|error| {
                match error.kind() {
                    // Only `cancel_when_gone` cancels the task.
                    OffloadErrorKind::Cancelled => Refusal::client_gone(),
                    _ => match &head {
                        Some(head) => hook.apply(error.into(), &RequestHead::new(head)),
                        None => error.into(),
                    },
                }
                .into_response()
            })
        })
    }
}

/// Waits for the response, and cancels the task when the client disconnects. A function that has not started never
/// runs. Otherwise the context of the function reports the cancellation, or its worker process is killed.
///
/// If the function is already running, this waits for its end even after the cancellation. A guard around the handler
/// would otherwise release the permit and admit the next request while the function still runs.
pub(super) async fn cancel_when_gone<T: Future + Unpin>(mut task: T, cancel: fn(&T), link: &ClientLink) -> T::Output {
    tokio::select! {
        biased;
        result = &mut task => return result,
        () = link.gone() => cancel(&task),
    }
    task.await
}
