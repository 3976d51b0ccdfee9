//! [`process_handler`], and the implementation of `Handler` for [`ProcessHandler`].

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form, Json};
use http_body::Body as _;

use super::body::link;
use super::handler::cancel_when_gone;
use crate::offload::OffloadErrorKind;
use crate::offload::process::{Conversion, ProcessError, ProcessHandle, ProcessPool};
use crate::web::handler::{SentResponse, not_sendable, sent_as_content};
use crate::web::tower::copy_head;
use crate::web::{ProcessArgument, ProcessHandler, Refusal, RequestHead};

/// Makes a handler from a function that may crash, hang or take all memory. The function runs in a worker process of
/// `pool`.
///
/// The extractors run in the server. The function runs in the worker, which also converts the result to a response. See
/// [`ProcessHandler`] for time limits and priorities, and for what happens when the client disconnects. There is no
/// default pool, because each function needs its own limits.
///
/// The argument of the function is a [`ProcessArgument`]: an extractor, or a tuple of extractors, the last of which may
/// read the body. The function is a named function, or a closure that captures nothing. It returns an [`IntoResponse`]
/// whose body is in memory.
///
/// # Examples
///
/// ```
/// # #[cfg(target_os = "linux")]
/// # {
/// use axum::{Json, Router, extract::Path, routing::get};
/// use onelane::ProcessPool;
/// use onelane::web::axum::process_handler;
///
/// fn factor(Path(number): Path<u64>) -> Json<Vec<u64>> {
///     Json((2..number).filter(|divisor| number % divisor == 0).collect())
/// }
///
/// let pool = ProcessPool::builder("factors").max_queued(100).build();
/// let app: Router = Router::new().route("/factors/{number}", get(process_handler(&pool, factor)));
/// # }
/// ```
///
/// An argument that can't be sent to another process does not compile. The compiler names the argument:
///
/// ```compile_fail,E0277
/// let pool = onelane::ProcessPool::new("requests");
/// let handler = onelane::web::axum::process_handler(&pool, |_: axum::extract::Request| "hello");
/// ```
pub fn process_handler<A, R>(pool: &ProcessPool, function: fn(A) -> R) -> ProcessHandler<A, R>
where
    A: ProcessArgument,
    R: IntoResponse,
{
    ProcessHandler::new(pool, function)
}

/// The extractors run in the server. If one fails, its rejection is the response. The function runs in a worker, which
/// also converts the result to a response. If the request carries a [`ClientLink`](crate::web::ClientLink), its worker
/// is killed when the client disconnects.
impl<A, R, M, S> Handler<M, S> for ProcessHandler<A, R>
where
    A: FromRequest<S, M> + ProcessArgument + 'static,
    R: IntoResponse + 'static,
    S: Send + Sync + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Response> + Send>>;

    fn call(self, request: Request, state: S) -> Self::Future {
        Box::pin(async move {
            let link = link(request.extensions());
            let hook = self.on_refusal_hook();
            // The extractors consume the request.
            let head = hook.is_set().then(|| copy_head(&request));
            let task = match A::from_request(request, &state).await {
                Ok(argument) => self.start::<InWorker>(argument),
                Err(rejection) => return rejection.into_response(),
            };
            let result = match task {
                Ok(task) => match link.filter(|_| !self.is_shielded()) {
                    Some(link) => cancel_when_gone(task, ProcessHandle::cancel, &link).await,
                    None => task.await,
                },
                Err(error) => Err(error),
            };
            let refusal = match result {
                Ok(sent) => match sent.and_then(received) {
                    Some(response) => return response,
                    None => {
                        not_sendable();
                        Refusal::answer_broken()
                    }
                },
                // Only `cancel_when_gone` cancels the task.
                Err(error) if is_cancelled(&error) => return Refusal::client_gone().into_response(),
                Err(error) => error.into(),
            };
            match &head {
                Some(head) => hook.apply(refusal, &RequestHead::new(head)),
                None => refusal,
            }
            .into_response()
        })
    }
}

fn is_cancelled(error: &ProcessError) -> bool {
    match error {
        ProcessError::Cancelled(_) => true,
        ProcessError::NotStarted(error) => error.kind() == OffloadErrorKind::Cancelled,
        _ => false,
    }
}

/// Sends the values of the extractors to the worker, and the response back.
struct InWorker;

impl<A: ProcessArgument, R: IntoResponse> Conversion<A, R> for InWorker {
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
        let (head, body) = result.into_response().into_parts();
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Some(SentResponse::new(head.status.as_u16(), headers, Some(bytes_in_memory(body)?)))
    }
}

/// Returns the bytes of a body that is in memory, and `None` for a stream, because the worker has no runtime to poll
/// it.
fn bytes_in_memory(mut body: Body) -> Option<Bytes> {
    let length = body.size_hint().exact()?;
    let mut bytes = Bytes::new();
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut cx) {
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if bytes.is_empty() => bytes = data,
                Ok(data) => bytes = [bytes, data].concat().into(),
                // Trailers are not sent.
                Err(_) => {}
            },
            Some(Err(_)) => return None,
            None => return (bytes.len() as u64 == length).then_some(bytes),
        }
    }
    None
}

/// Creates the response that a worker has sent. Returns `None` if a part of it is malformed.
fn received(sent: SentResponse) -> Option<Response> {
    let mut headers = HeaderMap::new();
    for (name, value) in sent.headers {
        headers.try_append(HeaderName::try_from(name).ok()?, HeaderValue::from_maybe_shared(value).ok()?).ok()?;
    }
    let mut response = Response::new(sent.body.map_or_else(Body::empty, |body| Body::from(body.0)));
    *response.status_mut() = StatusCode::from_u16(sent.status).ok()?;
    *response.headers_mut() = headers;
    Some(response)
}

sent_as_content! {
    Extension: |extension| extension.0, Extension;
    Form: |form| form.0, Form;
    Json: |json| json.0, Json;
    Path: |path| path.0, Path;
    Query: |query| query.0, Query;
    State: |state| state.0, State;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(status: u16, name: &str, value: &'static [u8]) -> SentResponse {
        SentResponse { status, headers: vec![(name.to_owned(), Bytes::from_static(value))], body: None }
    }

    #[test]
    fn damaged_response_of_a_worker_is_no_response() {
        assert!(received(sent(200, "x-width", b"128")).is_some());
        for damaged in [sent(7, "x-width", b"128"), sent(200, "x width", b"128"), sent(200, "x-width", b"1\n2")] {
            assert!(received(damaged).is_none());
        }
        let mut damaged = sent(200, "a", b"");
        damaged.headers = (0..40_000).map(|number| (format!("a{number}"), Bytes::new())).collect();
        assert!(received(damaged).is_none(), "more than a map of headers holds");
    }
}
