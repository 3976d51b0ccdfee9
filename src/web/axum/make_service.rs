//! [`MakeLinkedService`], which adds the link to the client and the client's address to the requests of an app.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::mem;
use std::task::{Context, Poll};

use axum::extract::ConnectInfo;
use axum::middleware::AddExtension;
use axum::serve::{IncomingStream, Listener};
use axum::{Extension, Router};

use super::listener::WatchedStream;
use crate::web::ClientLink;
use crate::web::tower::{Layer, Service};

/// Serves an app whose requests carry both `ConnectInfo<ClientLink>` and the `ConnectInfo` of the client's address.
///
/// axum's `into_make_service_with_connect_info` adds only one of the two. Use `MakeLinkedService` instead if a layer or
/// a handler needs `ConnectInfo<SocketAddr>`. `MakeLinkedService` works with every listener whose connections are
/// [`WatchedStream`]s, even if the listener is wrapped in other listeners. Unix only.
///
/// ```no_run
/// use axum::serve::ListenerExt;
/// use axum::{Router, routing::get};
/// use onelane::web::axum::{MakeLinkedService, WatchedListener};
/// use std::net::SocketAddr;
/// use axum::extract::ConnectInfo;
/// use tokio::net::TcpListener;
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let app = Router::new()
///     .route("/", get(|ConnectInfo(client): ConnectInfo<SocketAddr>| async move { client.to_string() }));
/// let listener = WatchedListener::from(TcpListener::bind("127.0.0.1:3000").await?);
/// let listener = listener.tap_io(|stream| {
///     let _ = stream.as_ref().set_nodelay(true);
/// });
/// axum::serve(listener, MakeLinkedService::new(app)).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MakeLinkedService<S>(S);

impl<S> MakeLinkedService<S> {
    /// Serves each connection with a clone of `app`, such as a `Router`.
    pub fn new(app: S) -> Self
    where
        S: 'static,
    {
        Self(with_built_routes(app))
    }
}

/// Builds the routes of a `Router` and their layers now. Otherwise axum would build them anew for each request.
pub(super) fn with_built_routes<S: 'static>(mut app: S) -> S {
    if let Some(router) = (&mut app as &mut dyn Any).downcast_mut::<Router>() {
        *router = mem::take(router).with_state(());
    }
    app
}

impl<S, L> Service<IncomingStream<'_, L>> for MakeLinkedService<S>
where
    S: Clone,
    L: Listener<Io = WatchedStream, Addr: Clone + Sync + 'static>,
{
    type Response = AddExtension<AddExtension<S, ConnectInfo<ClientLink>>, ConnectInfo<L::Addr>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, stream: IncomingStream<'_, L>) -> Self::Future {
        let link = Extension(ConnectInfo(stream.io().link()));
        let addr = Extension(ConnectInfo(stream.remote_addr().clone()));
        ready(Ok(addr.layer(link.layer(self.0.clone()))))
    }
}
