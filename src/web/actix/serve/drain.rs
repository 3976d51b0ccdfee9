//! [`Drain`], which creates HTTP servers that track their connections.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_http::{Extensions, Request, Response};
use actix_service::IntoServiceFactory;
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServerHandle, Service, ServiceFactory};
use actix_web::{Error, HttpServer};
use tokio::select;
use tokio::time::{Instant, timeout};

use super::body::ServedBody;
use super::service::ServedFactory;
use super::trace;
use super::workers::Workers;
use crate::background::HostHandle;
use crate::debug::impl_debug;
use crate::detached;
use crate::web::serve::{Connections, OpenConnection};

/// The longest first pause in which the server checks whether it may stop, if no handlers run. Each further pause may
/// take twice as long.
const PAUSE: Duration = Duration::from_millis(40);

/// Creates the `HttpServer` that drains with a host. Passed to the closure of [`serve`](super::serve()).
#[derive(Clone)]
pub struct Drain {
    connections: Arc<Connections>,
    workers: Arc<Workers>,
    has_warned: Arc<AtomicBool>,
}

/// The `HttpServer` that [`Drain::http_server`] creates. `A` creates the app of each worker.
pub type ServedHttpServer<A, S, B> = HttpServer<A, ServedFactory<S, B>, ServedFactory<S, B>, ServedBody<B>>;

/// The place of a connection among the open connections, stored in the data of the connection.
pub(crate) struct ServedConnection(pub(crate) OpenConnection);

impl Drain {
    pub(super) fn new(host: HostHandle, connections: Arc<Connections>) -> Self {
        Self { connections, workers: Workers::new(host), has_warned: Arc::default() }
    }

    /// Creates an `HttpServer` for an app, as `HttpServer::new` does. Set its options and bind its addresses as usual.
    ///
    /// The server's own signal handling and `shutdown_timeout` are disabled, because the host provides both.
    ///
    /// The server already uses `on_connect`. To set your own callback, wrap it in [`on_connect`](Self::on_connect).
    pub fn http_server<F, I, S, B>(
        &self,
        app: F,
    ) -> ServedHttpServer<impl Fn() -> ServedFactory<S, B> + Send + Clone + 'static + use<F, I, S, B>, S, B>
    where
        F: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<Request, Config = AppConfig> + 'static,
        S::Error: Into<Error> + 'static,
        S::InitError: fmt::Debug,
        S::Response: Into<Response<B>> + 'static,
        <S::Service as Service<Request>>::Future: 'static,
        S::Service: 'static,
        B: MessageBody + 'static,
    {
        let drain = self.clone();
        HttpServer::new(move || ServedFactory::new(app().into_factory(), drain.clone()))
            .on_connect(self.on_connect(|_, _| {}))
    }

    /// Returns a callback for `HttpServer::on_connect` that counts connections, and then calls `callback`. As always
    /// with actix-web, set the callback before you bind the addresses.
    ///
    /// A callback that is not wrapped replaces the one that counts connections. The server then logs a warning. When it
    /// drains, it still waits for its requests, but closes each connection as soon as it has no request, even if the
    /// last bytes of a response have not been written.
    ///
    /// ```no_run
    /// # use std::any::Any;
    /// use actix_web::App;
    /// use actix_web::dev::Extensions;
    /// use actix_web::rt::net::TcpStream;
    /// # use onelane::ServiceHost;
    /// use onelane::web::actix::serve;
    ///
    /// # async fn run(host: ServiceHost) -> Result<(), onelane::background::BoxError> {
    /// serve(host, move |drain| {
    ///     let note_address = |connection: &dyn Any, data: &mut Extensions| {
    ///         data.insert(connection.downcast_ref::<TcpStream>().map(|stream| stream.local_addr()));
    ///     };
    ///     drain.http_server(App::new).on_connect(drain.on_connect(note_address)).bind("127.0.0.1:3000")
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_connect(
        &self,
        callback: impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static,
    ) -> impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static {
        let connections = Arc::clone(&self.connections);
        move |connection, data| {
            data.insert(ServedConnection(connections.open()));
            callback(connection, data);
        }
    }

    pub(super) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// Adds a connection that the server has not reported.
    pub(super) fn open_unreported(&self) -> OpenConnection {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            trace::connections_unknown();
        }
        self.connections.open()
    }

    /// Waits until the host stops, and until the server may be dropped.
    ///
    /// A worker that stops drops the connections that it has not begun to serve. The worker ends as soon as it has no
    /// other connections, and with it ends the work on its thread that continues without a client. The server therefore
    /// stops once it has no such connections, no such work, and no handler that may become such work. Until then it
    /// accepts connections, and pauses only for the last check. Connections that arrive in the pause are left to other
    /// processes that share the listener. Without such processes, these connections are lost unless the server resumes,
    /// so the pause is kept as short as possible.
    pub(super) async fn drained(&self, host: &HostHandle, server: &ServerHandle) {
        let connections = &self.connections;
        connections.lingered(host).await;
        let (refusing, mut pause) = (host.refusing(), PAUSE);
        loop {
            let began = Instant::now();
            connections.note_handlers();
            select! {
                () = connections.until(|all| all.have_noted_ended() && detached::is_idle_on_servers()) => {}
                () = refusing.cancelled() => {}
            }
            // The call sends the command. The server does not report when it has paused.
            drop(server.pause());
            // Handlers that have begun in the meantime may take as long as the earlier ones. Shortly before the
            // deadline, the server stays paused, so that handlers that are still running are cut off, but no further
            // requests.
            let limit = if refusing.is_cancelled() { Duration::MAX } else { began.elapsed().max(pause) };
            if timeout(limit, self.is_unused(Instant::now())).await.is_ok() {
                break;
            }
            drop(server.resume());
            pause = pause.saturating_mul(2);
        }
        drop(server.stop(true));
        // The end of the server is not awaited, because the server checks its workers only once a second.
        connections.ended().await;
        connections.until(|_| detached::is_idle_on_servers()).await;
    }

    /// Waits until no handler and no work without a client is left, and until all connections that were accepted have
    /// reached a worker. The server is paused.
    async fn is_unused(&self, paused_at: Instant) {
        let Self { connections, workers, .. } = self;
        let is_unused = |all: &Connections| all.is_quiet(paused_at) && detached::is_idle_on_servers();
        loop {
            connections.until(is_unused).await;
            workers.take_turn(connections).await;
            if is_unused(connections) {
                return;
            }
        }
    }
}

impl_debug!(Drain |this| { connections: this.connections, workers: this.workers, .. });
