//! [`serve`] and [`Server`], which serve an app until a host has drained it.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use actix_http::{Request, Response};
use actix_service::IntoServiceFactory;
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Service, ServiceFactory};
use actix_web::{Error, HttpServer};
use tokio::runtime::Handle;
use tokio::select;

use super::drain::Drain;
use crate::background::{HostError, HostHandle, ServiceHost, ShutdownReport};
use crate::debug::impl_debug;
use crate::web::serve::{Connections, CutOnDrop};
use crate::web::{ServeConfig, TaskStart};

/// Longer than any server takes to stop, in seconds. The host sets the deadline.
const NO_TIMEOUT: u64 = 60 * 60 * 24 * 365;

/// Serves an app together with the services of a host, until the host has stopped.
///
/// `build` creates the `HttpServer` with [`Drain::http_server`], sets its options and binds its addresses, with or
/// without TLS: for example, `bind_rustls_0_23` binds an address with TLS, and `listen` takes a socket that systemd has
/// opened. `build` is called once the services have started. On SIGTERM, on Ctrl-C and on
/// [`shutdown`](HostHandle::shutdown), the server drains without losing a request, and then the services stop. The
/// order:
///
/// 1. `/readyz` fails, and responses over HTTP/1 ask their clients to close the connection.
/// 2. After the [`drain_delay`](ServeConfig::drain_delay), the server continues to accept connections until each
///    connection has been idle for [`linger`](ServeConfig::linger), but no longer than that.
/// 3. The server accepts connections until the running handlers have responded, WebSockets have ended, and no work that
///    [continues without its client](crate::detached) is left on the worker threads, which end with the server. It then
///    pauses, for about 20 milliseconds, or for up to 100 if clients connect without sending a request. If new handlers
///    are running by then, the server resumes after a while and tries again. Shortly before its time is up, it pauses
///    until the end.
/// 4. The server closes its listeners and idle HTTP/1 connections. Connections that have arrived in the last pause are
///    served by other processes that share the listener. If there are none, these connections are lost.
/// 5. Streams end, and all responses are written. Anything that is left when the host's
///    [`drain_timeout`](crate::background::ServiceHostBuilder::drain_timeout) has passed is cut off. The
///    [report](ShutdownReport::unfinished) then names the `requests`, and is not clean.
/// 6. The host waits for other work that continues without its client, and stops its services.
///
/// # HTTP/2
///
/// actix-web does not send a GOAWAY to HTTP/2 clients, so they do not know that the server stops. Their connections are
/// closed once they have had no requests for `linger`. When the listeners have been closed for that long, 20
/// milliseconds without a request are enough. A request that is on its way at that time is lost and not reported.
/// Clients that leave no such gap keep the server running until its time is up. A handler whose request arrives after
/// step 4 may be cut off if its client leaves. The report then names the guard of the handler.
///
/// # Limits
///
/// actix-web does not report what it has written. The server infers it from the connections that actix-web closes and,
/// over HTTP/2, from the parts of bodies that actix-web drops. Where neither is possible, the server waits for
/// `linger`, or for 20 milliseconds if that is longer. A client that does not read during that time can lose the
/// following bytes, and the report does not mention the loss:
///
/// - over HTTP/2, the heads of responses, parts of less than 256 bytes, and the last, empty frame of a body
/// - the last 32 KiB of a WebSocket, up to the close frame
/// - the last 32 KiB of a response, if the client sent another request before it knew that the response was the last
///   one on its connection. Such a request is not served.
/// - responses of up to 16 KiB to requests with a body, if the operating system has no room for them
///
/// Of the options of [`ServeConfig`], only `drain_delay`, `linger` and `background_tasks` apply. `HttpServer` has its
/// own limits for connections and their times: see its `max_connections`, `client_request_timeout` and `keep_alive`.
/// [`BackgroundTasks`](crate::web::BackgroundTasks) always start at the [end of the body](TaskStart::BodyEnd). The
/// tasks run on the runtime that awaits the server, not on the workers.
///
/// # Examples
///
/// ```no_run
/// use actix_web::{App, HttpResponse, web};
/// use onelane::ServiceHost;
/// use onelane::background::{BoxError, ShutdownReport};
/// use onelane::web::actix::{probes, serve};
/// use onelane::web::{BackgroundTasks, Refusal, ServeConfig};
///
/// async fn sign_up(tasks: BackgroundTasks) -> Result<HttpResponse, Refusal> {
///     tasks.add("welcome mail", async { /* send it, after the response */ })?;
///     Ok(HttpResponse::Created().finish())
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<ShutdownReport, BoxError> {
///     let host = ServiceHost::builder().build()?;
///     let handle = host.handle();
///     let app = move || App::new().service(probes(handle.clone())).route("/sign-up", web::post().to(sign_up));
///     let server = serve(host, move |drain| drain.http_server(app).workers(2).bind("127.0.0.1:3000"));
///     Ok(server.config(ServeConfig::new().kubernetes()).await?)
/// }
/// ```
///
/// # Errors
///
/// Awaiting the returned value fails with the errors of [`ServiceHost::run_until`]. An error of `build` counts as an
/// error of the server.
pub fn serve<F, R>(host: ServiceHost, build: F) -> Serve<F>
where
    F: FnOnce(Drain) -> io::Result<R>,
{
    let server = Server::new(&host.handle(), build);
    Serve { host, server }
}

/// An app that is served together with a host. Created by [`serve`]. It does nothing unless it is awaited.
#[must_use = "nothing is served unless this is awaited"]
pub struct Serve<F> {
    host: ServiceHost,
    server: Server<F>,
}

/// A server that drains with a host, for programs that call [`run_until`](ServiceHost::run_until) themselves, for
/// instance with two servers.
///
/// Awaiting the server serves the app until the host has drained it. If the server is dropped, all of its connections
/// are cut off.
///
/// ```no_run
/// # use actix_web::App;
/// # use onelane::ServiceHost;
/// # use onelane::background::{BoxError, ShutdownReport};
/// use onelane::web::actix::Server;
/// use tokio::try_join;
///
/// # async fn run(host: ServiceHost) -> Result<ShutdownReport, BoxError> {
/// let app = Server::new(&host.handle(), |drain| drain.http_server(App::new).bind("0.0.0.0:3000"));
/// let admin = Server::new(&host.handle(), |drain| drain.http_server(App::new).workers(1).bind("127.0.0.1:3001"));
/// let servers = async { try_join!(app.into_future(), admin.into_future()).map(drop) };
/// Ok(host.run_until(servers).await?)
/// # }
/// ```
#[must_use = "nothing is served unless this is awaited"]
pub struct Server<F> {
    host: HostHandle,
    build: F,
    config: ServeConfig,
}

impl<F> Serve<F> {
    /// Sets the options.
    pub fn config(mut self, config: ServeConfig) -> Self {
        self.server = self.server.config(config);
        self
    }
}

impl<F> Server<F> {
    /// Creates a server that begins to drain when the host begins to stop.
    pub fn new<R>(host: &HostHandle, build: F) -> Self
    where
        F: FnOnce(Drain) -> io::Result<R>,
    {
        Self { host: host.clone(), build, config: ServeConfig::new() }
    }

    /// Sets the options.
    pub fn config(mut self, config: ServeConfig) -> Self {
        self.config = config;
        self
    }
}

impl<F, A, I, S, B> IntoFuture for Server<F>
where
    F: FnOnce(Drain) -> io::Result<HttpServer<A, I, S, B>> + Send + 'static,
    A: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request> + 'static,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let connections = Connections::new(self.config.task_start(TaskStart::BodyEnd), Handle::current());
            let drain = Drain::new(self.host.clone(), Arc::clone(&connections));
            let server = (self.build)(drain.clone())?.disable_signals().shutdown_timeout(NO_TIMEOUT).run();
            let handle = server.handle();
            let mut server = pin!(server);
            // Dropped before the server, so that requests are counted before the server drops them.
            let _cut = CutOnDrop(connections);
            select! {
                biased;
                result = &mut server => result,
                () = drain.drained(&self.host, &handle) => Ok(()),
            }
        })
    }
}

impl<F> IntoFuture for Serve<F>
where
    Server<F>: IntoFuture<Output = io::Result<()>, IntoFuture: Send> + Send + 'static,
{
    type Output = Result<ShutdownReport, HostError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.host.run_until(self.server))
    }
}

impl_debug!([F] Serve<F> |this| { host: this.host, .. });

impl_debug!([F] Server<F> |this| { config: this.config, .. });
