//! [`MakeServed`], which creates the app of each connection, and [`ServedApp`], that app.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use pin_project_lite::pin_project;

use super::body::{ServedBody, UploadedBody};
use super::listener::{ServedListener, WatchedIo};
use crate::web::ClientLink;
use crate::web::layer_settings::is_tunnel;
use crate::web::response_note::ResponseNote;
use crate::web::serve::{Connection, RequestGuard};
use crate::web::tower::Service;

/// Creates the app of each connection.
#[derive(Clone, Debug)]
pub(super) struct MakeServed<S>(pub(super) S);

/// The app of one connection.
#[derive(Clone, Debug)]
pub(super) struct ServedApp<S, A> {
    app: S,
    connection: Arc<Connection>,
    link: Option<ClientLink>,
    address: A,
}

impl<S, L> Service<IncomingStream<'_, ServedListener<L>>> for MakeServed<S>
where
    S: Clone,
    L: Listener<Addr: Clone + Sync + 'static>,
{
    type Response = ServedApp<S, L::Addr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, stream: IncomingStream<'_, ServedListener<L>>) -> Self::Future {
        let (io, address) = (stream.io(), stream.remote_addr().clone());
        let (connection, link) = (Arc::clone(io.connection()), WatchedIo::link(io.get_ref()));
        ready(Ok(ServedApp { app: self.0.clone(), connection, link, address }))
    }
}

impl<S, A> Service<Request> for ServedApp<S, A>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    A: Clone + Send + Sync + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ServedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.app.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (is_http2, is_connect) = (request.version() >= Version::HTTP_2, request.method() == Method::CONNECT);
        let guard = self.connection.begin_request(is_http2);
        request = request.map(|body| UploadedBody::wrap(body, &self.connection));
        let extensions = request.extensions_mut();
        extensions.insert(ResponseNote::new(guard.tasks()));
        extensions.insert(ConnectInfo(self.address.clone()));
        if let Some(link) = &self.link {
            extensions.insert(ConnectInfo(link.clone()));
        }
        ServedFuture { response: self.app.call(request), request: Some(guard), is_http2, is_connect }
    }
}

pin_project! {
    /// The response future of a [`ServedApp`].
    pub(super) struct ServedFuture<F> {
        #[pin]
        response: F,
        request: Option<RequestGuard>,
        is_http2: bool,
        is_connect: bool,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for ServedFuture<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Poll::Ready(Ok(mut response)) = this.response.poll(cx) else {
            let connection = this.request.as_ref().expect("a future is not polled after it completed").connection();
            if !*this.is_http2 {
                // While an earlier part of the request is unread, hyper does not read, and would let the handler
                // continue.
                connection.wake_when_cut(cx.waker());
            }
            return if connection.is_cut() { Poll::Ready(Ok(cut_off())) } else { Poll::Pending };
        };
        let mut request = this.request.take().expect("a future is not polled after it completed");
        request.respond(response.status().as_u16());
        if is_tunnel(*this.is_connect, response.status().as_u16()) {
            request.upgrade();
        } else if !*this.is_http2 && request.connection().connections().is_draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response.map(|body| ServedBody::wrap(body, request))))
    }
}

/// The response to a request that the server no longer waits for. It can't be written, because its connection is cut
/// off, too.
#[cold]
fn cut_off() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
