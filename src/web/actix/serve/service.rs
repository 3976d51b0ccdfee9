//! [`ServedFactory`], which creates the app of each worker, and [`ServedApp`], that app.

use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_http::{ConnectionType, HttpMessage, Payload, Request, Response};
use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{AppConfig, Service, ServiceFactory};
use actix_web::http::{StatusCode, Version};
use actix_web::{Error, HttpResponse};
use pin_project_lite::pin_project;

use super::body::ServedBody;
use super::drain::{Drain, ServedConnection};
use crate::debug::impl_debug;
use crate::web::response_note::ResponseNote;
use crate::web::serve::{Connection, OpenConnection, RequestGuard};

/// Creates the app of each worker of a server that drains with its host. Created by [`Drain::http_server`].
pub struct ServedFactory<S, B> {
    app: S,
    drain: Drain,
    body: PhantomData<fn() -> B>,
}

/// The app of one worker.
pub struct ServedApp<S, B> {
    app: S,
    drain: Drain,
    body: PhantomData<fn() -> B>,
}

/// The size up to which a response is assumed to be written at once, because the operating system has room for it.
const SMALL: u64 = 16 * 1024;

/// A request in progress.
#[derive(Debug)]
pub(super) struct RequestInProgress {
    request: RequestGuard,
    is_http2: bool,
    has_body: bool,
    /// The handler has not responded, or serves a WebSocket.
    has_handler: bool,
    /// The connection, if the server did not report it when it was opened.
    _unreported: Option<OpenConnection>,
}

impl RequestInProgress {
    fn new(request: RequestGuard, is_http2: bool, has_body: bool, unreported: Option<OpenConnection>) -> Self {
        request.connection().begin_handler();
        Self { request, is_http2, has_body, has_handler: true, _unreported: unreported }
    }

    /// Returns the connection if it uses HTTP/2.
    pub(super) fn http2_connection(&self) -> Option<&Arc<Connection>> {
        self.is_http2.then(|| self.request.connection())
    }

    /// Records the response, and asks the client to close the connection if the server drains.
    fn respond<B: MessageBody>(&mut self, response: &mut Response<B>) {
        let status = response.status();
        self.request.respond(status.as_u16());
        let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
        if !is_upgrade {
            self.end_handler();
        }
        if self.is_http2 {
            return;
        }
        let connection = self.request.connection();
        let is_small = matches!(response.body().size(), BodySize::None | BodySize::Sized(0..=SMALL));
        connection.set_waits_for_client(is_upgrade || self.has_body && is_small);
        if connection.connections().is_draining() && !is_upgrade {
            response.head_mut().set_connection_type(ConnectionType::Close);
            connection.begin_last_response();
        }
    }

    fn end_handler(&mut self) {
        if mem::take(&mut self.has_handler) {
            self.request.connection().end_handler();
        }
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.end_handler();
    }
}

impl<S, B> ServedFactory<S, B> {
    pub(super) fn new(app: S, drain: Drain) -> Self {
        Self { app, drain, body: PhantomData }
    }
}

impl<S, B> ServiceFactory<Request> for ServedFactory<S, B>
where
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Response: Into<Response<B>>,
    S::Error: Into<Error>,
    B: MessageBody + 'static,
{
    type Response = Response<ServedBody<B>>;
    type Error = Error;
    type Config = AppConfig;
    type Service = ServedApp<S::Service, B>;
    type InitError = S::InitError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Service, S::InitError>>>>;

    fn new_service(&self, config: AppConfig) -> Self::Future {
        self.drain.workers().add();
        let (app, drain) = (self.app.new_service(config), self.drain.clone());
        Box::pin(async move { Ok(ServedApp { app: app.await?, drain, body: PhantomData }) })
    }
}

impl<S, B> Service<Request> for ServedApp<S, B>
where
    S: Service<Request>,
    S::Response: Into<Response<B>>,
    S::Error: Into<Error>,
    B: MessageBody + 'static,
{
    type Response = Response<ServedBody<B>>;
    type Error = Error;
    type Future = ServedFuture<S::Future, B>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.app.poll_ready(cx).map_err(Into::into)
    }

    fn call(&self, mut request: Request) -> Self::Future {
        let has_body = !matches!(request.payload(), Payload::None);
        let is_http2 = request.head().version >= Version::HTTP_2;
        let reported = request.conn_data::<ServedConnection>();
        let unreported = reported.is_none().then(|| self.drain.open_unreported());
        let open = reported.map(|ServedConnection(open)| open).or(unreported.as_ref());
        let connection = open.expect("a connection is one or the other").connection();
        if connection.leaves_request() {
            return ServedFuture { response: None, request: None, body: PhantomData };
        }
        let guard = connection.begin_request(is_http2);
        request.extensions_mut().insert(ResponseNote::new(guard.tasks()));
        let progress = RequestInProgress::new(guard, is_http2, has_body, unreported);
        ServedFuture { response: Some(self.app.call(request)), request: Some(progress), body: PhantomData }
    }
}

pin_project! {
    /// The response future of a [`ServedApp`].
    pub struct ServedFuture<F, B> {
        // Dropped before the request, because the handler may continue without its client.
        #[pin]
        response: Option<F>,
        request: Option<RequestInProgress>,
        body: PhantomData<fn() -> B>,
    }
}

impl<F, R, E, B> Future for ServedFuture<F, B>
where
    F: Future<Output = Result<R, E>>,
    R: Into<Response<B>>,
    E: Into<Error>,
    B: MessageBody + 'static,
{
    type Output = Result<Response<ServedBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The client sent this request before it knew that an earlier response was the last one (RFC 9112, section
        // 9.6). actix-web can only respond to it, or wait.
        let Some(response) = this.response.as_pin_mut() else { return Poll::Pending };
        let mut response = match ready!(response.poll(cx)) {
            Ok(response) => response.into().map_body(|_, body| EitherBody::left(body)),
            // An error of a middleware becomes a response here, because tasks run after such a response, too.
            Err(error) => {
                Response::<BoxBody>::from(HttpResponse::from_error(error)).map_body(|_, body| EitherBody::right(body))
            }
        };
        let mut progress = this.request.take().expect("a future is not polled after it completed");
        progress.respond(&mut response);
        Poll::Ready(Ok(response.map_body(|_, body| ServedBody::new(body, progress))))
    }
}

impl_debug!([S, B] ServedFactory<S, B> |this| { drain: this.drain, .. });

impl_debug!([S, B] ServedApp<S, B> |this| { drain: this.drain, .. });

impl_debug!([F, B] ServedFuture<F, B> |this| { request: this.request, .. });
