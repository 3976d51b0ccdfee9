//! Servers that drain with their host, over real sockets.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod actix;
mod background_tasks;
mod bad_input;
mod blocked_workers;
mod client_states;
mod limits;
mod many_connections;
mod readiness;
mod rolling_restart;
mod streams;
mod task_lifetimes;
mod task_start;
mod tls;
mod tunnels_and_uploads;
mod websocket_client;

use std::convert::Infallible;
use std::future::IntoFuture;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::App;
use actix_web::web::ServiceConfig;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use axum::{Router, http};
use futures::stream;
use onelane::ServiceHost;
use onelane::background::{HostError, HostHandle, ShutdownReport};
use onelane::web::actix::serve as actix_serve;
use onelane::web::axum::serve as axum_serve;
use onelane::web::{ClientLink, ServeConfig};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as TestMutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use support::http::eventually;
use support::waiting::PATIENCE;

const MS: Duration = Duration::from_millis(1);
/// How long the server may take to end.
const DRAIN: Duration = Duration::from_millis(600);
/// How long a server may take to end whose end must not wait for its deadline.
const LONG_DRAIN: Duration = Duration::from_secs(20);
/// How long `/slow` takes.
const SLOW: Duration = Duration::from_millis(200);

/// What handlers have noted.
type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

fn notes(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

fn unfinished(report: &ShutdownReport) -> Vec<(&str, usize)> {
    report.unfinished().iter().map(|work| (work.name(), work.count())).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framework {
    Axum,
    Actix,
}

const FRAMEWORKS: [Framework; 2] = [Framework::Axum, Framework::Actix];

/// A server in a task, with the requests that its handlers have begun and ended.
struct TestServer {
    address: SocketAddr,
    host: HostHandle,
    running: JoinHandle<ShutdownReport>,
    log: Log,
    _alone: MutexGuard<'static, ()>,
}

/// Held by the server of each test. Reports name the work of the whole process, and some tests leave work.
static ALONE: TestMutex<()> = TestMutex::const_new(());

impl TestServer {
    /// Serves an app with a route for each kind of request.
    async fn start(framework: Framework, config: ServeConfig) -> Self {
        let log = Log::default();
        let served = Arc::clone(&log);
        let server = match framework {
            Framework::Axum => Self::axum(app(&log), config).await,
            Framework::Actix => Self::actix(move |app| actix::routes(app, &served), config).await,
        };
        Self { log, ..server }
    }

    async fn axum(app: Router, config: ServeConfig) -> Self {
        Self::axum_with(|_| app, config).await
    }

    /// Serves an app that knows its host.
    async fn axum_with(app: impl FnOnce(HostHandle) -> Router, config: ServeConfig) -> Self {
        let serve = |host: ServiceHost, listener: StdListener| {
            let app = app(host.handle());
            listener.set_nonblocking(true).unwrap();
            axum_serve(host, TcpListener::from_std(listener).unwrap(), app).config(config).into_future()
        };
        Self::run(serve).await
    }

    /// Serves routes over HTTP/1 and over HTTP/2 with prior knowledge.
    async fn actix(routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static, config: ServeConfig) -> Self {
        Self::actix_with(move |app, _| routes(app), config).await
    }

    /// Serves routes that know their host.
    async fn actix_with(
        routes: impl Fn(&mut ServiceConfig, &HostHandle) + Clone + Send + 'static,
        config: ServeConfig,
    ) -> Self {
        Self::actix_for(DRAIN, routes, config).await
    }

    /// Serves routes with another time to drain.
    async fn actix_for(
        drain: Duration,
        routes: impl Fn(&mut ServiceConfig, &HostHandle) + Clone + Send + 'static,
        config: ServeConfig,
    ) -> Self {
        let serve = |host: ServiceHost, listener| {
            let handle = host.handle();
            let app = move || App::new().configure(|app| routes(app, &handle));
            let server = actix_serve(host, move |drain| drain.http_server(app).workers(2).listen_auto_h2c(listener));
            server.config(config).into_future()
        };
        Self::run_for(drain, serve).await
    }

    async fn run<F>(serve: impl FnOnce(ServiceHost, StdListener) -> F) -> Self
    where
        F: Future<Output = Result<ShutdownReport, HostError>> + Send + 'static,
    {
        Self::run_for(DRAIN, serve).await
    }

    /// Runs a server until it is ready.
    async fn run_for<F>(drain: Duration, serve: impl FnOnce(ServiceHost, StdListener) -> F) -> Self
    where
        F: Future<Output = Result<ShutdownReport, HostError>> + Send + 'static,
    {
        let alone = ALONE.lock().await;
        let host = ServiceHost::builder().drain_timeout(drain).without_signals().build().unwrap();
        let (handle, listener) = (host.handle(), StdListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let serving = serve(host, listener);
        let running = tokio::spawn(async { serving.await.unwrap() });
        while !handle.status().is_ready() {
            sleep(MS).await;
        }
        Self { address, host: handle, running, log: Log::default(), _alone: alone }
    }

    /// Stops the server. Returns the report, and how long the stop took.
    async fn stop(mut self) -> (ShutdownReport, Duration) {
        self.stopped().await
    }

    /// Stops the server, and waits for the work that it has left: the report of the next test must not name it. The
    /// workers of actix-web end after the report.
    async fn stop_and_leave_no_work(mut self, is_gone: impl Fn() -> bool) -> (ShutdownReport, Duration) {
        let stopped = self.stopped().await;
        eventually("the work ends", || is_gone() && onelane::detached::running().is_empty()).await;
        stopped
    }

    async fn stopped(&mut self) -> (ShutdownReport, Duration) {
        let start = Instant::now();
        self.host.request_shutdown();
        let report = timeout(PATIENCE, &mut self.running).await.expect("the server ends").unwrap();
        (report, start.elapsed())
    }

    fn logged(&self) -> Vec<String> {
        notes(&self.log)
    }
}

fn app(log: &Log) -> Router {
    let log = Arc::clone(log);
    let slow = move || {
        let log = Arc::clone(&log);
        async move {
            note(&log, "begins");
            sleep(SLOW).await;
            note(&log, "ends");
            "slow"
        }
    };
    let endless = || async {
        let chunks = stream::unfold((), |()| async {
            sleep(MS * 5).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b"data: x\n\n")), ()))
        });
        ([(http::header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(chunks))
    };
    let who = |ConnectInfo(peer): ConnectInfo<SocketAddr>, ConnectInfo(link): ConnectInfo<ClientLink>| async move {
        assert_eq!(link.peer_addr(), Some(peer));
        peer.to_string()
    };
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/slow", get(slow))
        .route("/endless", get(endless))
        .route("/big", get(|| async { vec![0_u8; 64 << 20] }))
        .route("/long", get(|| async { vec![0_u8; 16 << 20] }))
        .route("/who", get(who))
        .route("/body", post(|body: Bytes| async move { body.len().to_string() }))
}
