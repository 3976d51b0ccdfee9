//! [`ServedFactory`], which creates the app of each worker, and [`ServedApp`], that app.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_http::{ConnectionType, HttpMessage, Request, Response};
use actix_web::body::{BoxBody, EitherBody};
use actix_web::dev::{AppConfig, Service, ServiceFactory};
use actix_web::http::{StatusCode, Version};
use actix_web::{Error, HttpResponse};
use pin_project_lite::pin_project;

use super::body::ServedBody;
use super::drain::{Drain, ServedConnection};
use crate::debug::impl_debug;
use crate::web::response_note::ResponseNote;
use crate::web::serve::{OpenConnection, RequestGuard};

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

/// A request in progress.
#[derive(Debug)]
pub(super) struct RequestInProgress {
    request: RequestGuard,
    /// The connection, if the server did not report it when it was opened.
    _unreported: Option<OpenConnection>,
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
    B: 'static,
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
{
    type Response = Response<ServedBody<B>>;
    type Error = Error;
    type Future = ServedFuture<S::Future, B>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.app.poll_ready(cx).map_err(Into::into)
    }

    fn call(&self, request: Request) -> Self::Future {
        let is_http2 = request.head().version >= Version::HTTP_2;
        let reported = request.conn_data::<ServedConnection>();
        let unreported = reported.is_none().then(|| self.drain.open_unreported());
        let open = reported.map(|ServedConnection(open)| open).or(unreported.as_ref());
        let guard = open.expect("a connection is one or the other").connection().begin_request(is_http2);
        request.extensions_mut().insert(ResponseNote::new(guard.tasks()));
        let progress = RequestInProgress { request: guard, _unreported: unreported };
        ServedFuture { response: self.app.call(request), request: Some(progress), is_http2, body: PhantomData }
    }
}

pin_project! {
    /// The response future of a [`ServedApp`].
    pub struct ServedFuture<F, B> {
        #[pin]
        response: F,
        request: Option<RequestInProgress>,
        is_http2: bool,
        body: PhantomData<fn() -> B>,
    }
}

impl<F, R, E, B> Future for ServedFuture<F, B>
where
    F: Future<Output = Result<R, E>>,
    R: Into<Response<B>>,
    E: Into<Error>,
{
    type Output = Result<Response<ServedBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.response.poll(cx)) {
            Ok(response) => response.into().map_body(|_, body| EitherBody::left(body)),
            // An error of a middleware becomes a response here, because tasks run after that response, too.
            Err(error) => {
                Response::<BoxBody>::from(HttpResponse::from_error(error)).map_body(|_, body| EitherBody::right(body))
            }
        };
        let mut progress = this.request.take().expect("a future is not polled after it completed");
        progress.request.respond(response.status().as_u16());
        let is_draining = progress.request.connection().connections().is_draining();
        if is_draining && !*this.is_http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        Poll::Ready(Ok(response.map_body(|_, body| ServedBody::new(body, progress))))
    }
}

impl_debug!([S, B] ServedFactory<S, B> |this| { drain: this.drain, .. });

impl_debug!([S, B] ServedApp<S, B> |this| { drain: this.drain, .. });

impl_debug!([F, B] ServedFuture<F, B> |this| { request: this.request, .. });
