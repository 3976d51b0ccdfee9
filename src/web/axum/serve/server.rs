//! [`serve`] and [`Server`], which serve an app until a host has drained it.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::IntoFuture;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use tokio::runtime::Handle;
use tokio::{join, select};
use tokio_util::sync::CancellationToken;

use super::listener::ServedListener;
use super::service::MakeServed;
use crate::background::{HostError, HostHandle, ServiceHost, ShutdownReport};
use crate::debug::impl_debug;
use crate::web::ServeConfig;
use crate::web::axum::make_service::with_built_routes;
use crate::web::serve::{Connections, CutOnDrop};
use crate::web::tower::Service;

/// Serves an app together with the services of a host, until the host has stopped.
///
/// The services start first. On SIGTERM, on Ctrl-C and on [`shutdown`](HostHandle::shutdown), the server drains without
/// losing a request, and then the services stop. The order:
///
/// 1. `/readyz` fails, and responses over HTTP/1 ask their clients to close the connection.
/// 2. After the [`drain_delay`](ServeConfig::drain_delay), the server accepts all connections that have arrived, and
///    closes the listener.
/// 3. Connections that have been idle for [`linger`](ServeConfig::linger) are closed. HTTP/2 clients get a GOAWAY.
/// 4. Requests in progress and upgraded connections end. Anything that is left when the host's
///    [`drain_timeout`](crate::background::ServiceHostBuilder::drain_timeout) has passed is cut off. The
///    [report](ShutdownReport::unfinished) then names the `requests`, and is not clean.
/// 5. The host waits for work that continues without its client, and stops its services.
///
/// Each request carries a `ConnectInfo` with the client's address, and over plain TCP also a `ConnectInfo<ClientLink>`,
/// as with a [`WatchedListener`](crate::web::axum::WatchedListener).
///
/// `listener` may be any listener that axum accepts, including one that systemd has opened, which the crate `listenfd`
/// finds. `app` is a `Router`, or another service that axum can serve.
///
/// # TLS
///
/// A [`HandshakeListener`](crate::web::axum::HandshakeListener) adds TLS to a listener. A listener from another crate
/// must accept further clients while a handshake is in progress, and the limits of [`ServeConfig`] begin after the
/// handshake.
///
/// `axum-server` has its own serve call, which [`run_until`](ServiceHost::run_until) can run: call `graceful_shutdown`
/// on its `Handle` when [`draining`](HostHandle::draining) is cancelled. `BackgroundTasks` work only with `serve`.
///
/// # Examples
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use onelane::ServiceHost;
/// use onelane::background::{BoxError, ShutdownReport};
/// use onelane::web::axum::serve;
/// use tokio::net::TcpListener;
///
/// #[tokio::main]
/// async fn main() -> Result<ShutdownReport, BoxError> {
///     let host = ServiceHost::builder().build()?;
///     let app = Router::new().route("/", get(|| async { "hello" }));
///     let listener = TcpListener::bind("127.0.0.1:3000").await?;
///     Ok(serve(host, listener, app).await?)
/// }
/// ```
///
/// # Errors
///
/// Awaiting the returned value fails with the errors of [`ServiceHost::run_until`].
pub fn serve<L, S>(host: ServiceHost, listener: L, app: S) -> Serve<L, S> {
    let server = Server::new(&host.handle(), listener, app);
    Serve { host, server }
}

/// An app that is served together with a host. Created by [`serve`]. It does nothing unless it is awaited.
#[must_use = "nothing is served unless this is awaited"]
pub struct Serve<L, S> {
    host: ServiceHost,
    server: Server<L, S>,
}

/// A server that drains with a host, for programs that call [`run_until`](ServiceHost::run_until) themselves, for
/// instance with two servers.
///
/// Awaiting the server serves `app` until the host has drained it. If the server is dropped, all of its connections are
/// cut off.
///
/// ```no_run
/// # use axum::Router;
/// # use onelane::ServiceHost;
/// # use onelane::background::{BoxError, ShutdownReport};
/// use onelane::web::axum::Server;
/// use tokio::net::TcpListener;
/// use tokio::try_join;
///
/// # async fn run(host: ServiceHost, app: Router, admin: Router) -> Result<ShutdownReport, BoxError> {
/// let app = Server::new(&host.handle(), TcpListener::bind("0.0.0.0:3000").await?, app);
/// let admin = Server::new(&host.handle(), TcpListener::bind("127.0.0.1:3001").await?, admin);
/// let servers = async { try_join!(app.into_future(), admin.into_future()).map(drop) };
/// Ok(host.run_until(servers).await?)
/// # }
/// ```
#[must_use = "nothing is served unless this is awaited"]
pub struct Server<L, S> {
    host: HostHandle,
    listener: L,
    app: S,
    config: ServeConfig,
}

impl<L, S> Serve<L, S> {
    /// Sets the options.
    pub fn config(mut self, config: ServeConfig) -> Self {
        self.server.config = config;
        self
    }
}

impl<L, S> Server<L, S> {
    /// Creates a server that begins to drain when the host begins to stop.
    pub fn new(host: &HostHandle, listener: L, app: S) -> Self {
        Self { host: host.clone(), listener, app, config: ServeConfig::new() }
    }

    /// Sets the options.
    pub fn config(mut self, config: ServeConfig) -> Self {
        self.config = config;
        self
    }
}

impl<L, S> IntoFuture for Server<L, S>
where
    L: Listener<Addr: Clone + Debug + Sync + 'static>,
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let connections = Connections::new(self.config, Handle::current());
            let cut = CutOnDrop(Arc::clone(&connections));
            let listener = ServedListener::new(self.listener, Arc::clone(&connections));
            let may_end = CancellationToken::new();
            let server = axum::serve(listener, MakeServed(with_built_routes(self.app)))
                .with_graceful_shutdown(may_end.clone().cancelled_owned());
            let drain = async {
                connections.idle_closed(&self.host).await;
                may_end.cancel();
            };
            let served = async {
                join!(server.into_future(), drain).0?;
                // Upgraded connections run in their own tasks, which axum does not wait for.
                connections.all_closed().await;
                Ok(())
            };
            let result = select! {
                result = served => result,
                never = connections.limit_clients() => match never {},
            };
            drop(cut);
            result
        })
    }
}

impl<L, S> IntoFuture for Serve<L, S>
where
    Server<L, S>: IntoFuture<Output = io::Result<()>, IntoFuture: Send> + Send + 'static,
{
    type Output = Result<ShutdownReport, HostError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.host.run_until(self.server))
    }
}

impl_debug!([L, S] Serve<L, S> |this| { host: this.host, .. });

impl_debug!([L, S] Server<L, S> |this| { config: this.config, .. });
