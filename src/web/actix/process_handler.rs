//! [`process_handler`], and the implementation of `Handler` for [`ProcessHandler`].

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::web::{Form, Json, Path, Query};
use actix_web::{FromRequest, Handler};

use super::pool_response::{IntoPoolResponse, PoolResponse};
use crate::debug::impl_debug;
use crate::offload::process::{Conversion, ProcessError, ProcessHandle, ProcessPool};
use crate::web::handler::{SentResponse, not_sendable, sent_as_content};
use crate::web::refusal::RefusalHook;
use crate::web::{ProcessArgument, ProcessHandler, Refusal};

/// Makes a handler from a function that may crash, hang or take all memory. The function runs in a worker process of
/// `pool`.
///
/// The extractors run on the request's worker thread, in the server. The function runs in the worker process, which
/// also converts the result to a response. See [`ProcessHandler`] for time limits and priorities, and for what happens
/// when the client disconnects. There is no default pool, because each function needs its own limits.
///
/// The argument of the function is a [`ProcessArgument`]: an extractor, or a tuple of extractors. The function is a
/// named function, or a closure that captures nothing. Its result is an [`IntoPoolResponse`] that does not need the
/// request, because the request stays in the server: neither `Html`, nor `Redirect`, nor [`OnWorker`](super::OnWorker).
///
/// # Examples
///
/// ```
/// # #[cfg(target_os = "linux")]
/// # {
/// use actix_web::{App, web};
/// use onelane::ProcessPool;
/// use onelane::web::actix::process_handler;
///
/// fn factor(number: web::Path<u64>) -> web::Json<Vec<u64>> {
///     web::Json((2..*number).filter(|divisor| *number % divisor == 0).collect())
/// }
///
/// let pool = ProcessPool::builder("factors").max_queued(100).build();
/// let app = App::new().route("/factors/{number}", web::get().to(process_handler(&pool, factor)));
/// # drop(app);
/// # }
/// ```
///
/// An argument that can't be sent to another process does not compile. The compiler names the argument:
///
/// ```compile_fail,E0277
/// let pool = onelane::ProcessPool::new("requests");
/// let handler = onelane::web::actix::process_handler(&pool, |_: actix_web::HttpRequest| "hello");
/// ```
pub fn process_handler<A, R>(pool: &ProcessPool, function: fn(A) -> R) -> ProcessHandler<A, R>
where
    A: ProcessArgument,
    R: IntoPoolResponse,
{
    ProcessHandler::new(pool, function)
}

/// The extractors run on the request's worker thread. The function runs in a worker process, which also converts the
/// result to a [`PoolResponse`].
impl<A, R> Handler<A> for ProcessHandler<A, R>
where
    A: FromRequest + ProcessArgument + 'static,
    R: IntoPoolResponse + 'static,
{
    type Output = Result<PoolResponse, Refusal>;
    type Future = ProcessHandlerFuture;

    fn call(&self, argument: A) -> ProcessHandlerFuture {
        let state = match self.start::<InWorker>(argument) {
            Ok(task) => ProcessHandlerState::Started(task),
            Err(error) => ProcessHandlerState::Refused(Some(error)),
        };
        ProcessHandlerFuture { state, hook: self.on_refusal_hook().clone() }
    }
}

/// A request whose function runs in a worker process. Created by [`ProcessHandler`].
///
/// If this future is dropped while it waits for a worker, the function never runs. If the future is dropped while the
/// function runs, the worker is killed. Neither holds for a handler that is [shielded](ProcessHandler::shield).
pub struct ProcessHandlerFuture {
    state: ProcessHandlerState,
    hook: RefusalHook,
}

enum ProcessHandlerState {
    Started(ProcessHandle<Option<SentResponse>>),
    /// `None` once the error has been returned.
    Refused(Option<ProcessError>),
}

impl Future for ProcessHandlerFuture {
    type Output = Result<PoolResponse, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            ProcessHandlerState::Started(task) => ready!(Pin::new(task).poll(cx)),
            ProcessHandlerState::Refused(error) => {
                Err(error.take().expect("a future must not be polled after it completed"))
            }
        };
        let refusal = match result {
            Ok(sent) => match sent.and_then(PoolResponse::received) {
                Some(response) => return Poll::Ready(Ok(response)),
                None => {
                    not_sendable();
                    Refusal::answer_broken()
                }
            },
            Err(error) => error.into(),
        };
        // The hook needs the request, which only the responder of the result gets.
        let is_set = self.hook.is_set();
        Poll::Ready(if is_set { Ok(PoolResponse::refused(refusal, self.hook.clone())) } else { Err(refusal) })
    }
}

impl_debug!(ProcessHandlerFuture |this| {
    started: matches!(this.state, ProcessHandlerState::Started(_)), ..
});

/// Sends the values of the extractors to the worker, and the response back.
struct InWorker;

impl<A: ProcessArgument, R: IntoPoolResponse> Conversion<A, R> for InWorker {
    type Arguments = A::Sent;
    /// `None` if the response can't be sent.
    type Result = Option<SentResponse>;

    fn send_arguments(arguments: A) -> A::Sent {
        arguments.into_sent()
    }

    fn receive_arguments(sent: A::Sent) -> A {
        A::from_sent(sent)
    }

    fn send_result(result: R) -> Option<SentResponse> {
        result.into_pool_response().into_sent()
    }
}

sent_as_content! {
    Form: |form| form.into_inner(), Form;
    Json: |json| json.into_inner(), Json;
    Path: |path| path.into_inner(), |value| Path::from(value);
    Query: |query| query.into_inner(), Query;
}
