//! [`PoolHandler`] as a handler.

use std::pin::Pin;

use axum::extract::{FromRequest, Request};
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};

use super::body::link;
use crate::offload::{OffloadError, TaskHandle};
use crate::web::{ClientLink, HandlerFn, PoolHandler, Refusal};

/// The extractors run on the runtime, and answer for themselves if they fail. The function runs on the pool, and so does what
/// makes a response of its result. If the request carries a [`ClientLink`](crate::web::ClientLink), it stops waiting when its
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
                Ok(response) => unless_gone(response, link).await,
                Err(error) => Some(Err(error)),
            };
            match result {
                Some(Ok(response)) => response,
                Some(Err(error)) => self.refuse(error).into_response(),
                None => Refusal::client_gone().into_response(),
            }
        })
    }
}

/// Waits for the response, or until the client has gone. Then its task is dropped, as it is by a server that notices.
async fn unless_gone(
    response: TaskHandle<Response>,
    link: Option<ClientLink>,
) -> Option<Result<Response, OffloadError>> {
    let Some(link) = link else { return Some(response.await) };
    tokio::select! {
        biased;
        response = response => Some(response),
        () = link.gone() => None,
    }
}
