//! Servers that drain with their host, over real sockets.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod actix;
mod background_tasks;
mod bad_input;
mod client_states;
mod limits;
mod many_connections;
mod readiness;
mod rolling_restart;
mod streams;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use axum::{Router, http};
use futures::stream;
use onelane::ServiceHost;
use onelane::background::{HostHandle, ShutdownReport};
use onelane::web::axum::serve;
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
/// How long `/slow` takes.
const SLOW: Duration = Duration::from_millis(200);

/// A server in a task, with the requests that its handlers have begun and ended.
struct TestServer {
    address: SocketAddr,
    host: HostHandle,
    running: JoinHandle<ShutdownReport>,
    log: Arc<Mutex<Vec<&'static str>>>,
    _alone: MutexGuard<'static, ()>,
}

/// Held by the server of each test. Reports name the work of the whole process, and some tests leave work.
static ALONE: TestMutex<()> = TestMutex::const_new(());

impl TestServer {
    async fn start(config: ServeConfig) -> Self {
        let log = Arc::default();
        Self { log: Arc::clone(&log), ..Self::of(app(&log), config).await }
    }

    /// Serves another app.
    async fn of(app: Router, config: ServeConfig) -> Self {
        Self::with(|_| app, config).await
    }

    /// Serves an app that knows its host.
    async fn with(app: impl FnOnce(HostHandle) -> Router, config: ServeConfig) -> Self {
        let alone = ALONE.lock().await;
        let host = ServiceHost::builder().drain_timeout(DRAIN).without_signals().build().unwrap();
        let handle = host.handle();
        let app = app(handle.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = tokio::spawn(async move { serve(host, listener, app).config(config).await.unwrap() });
        while !handle.status().is_ready() {
            sleep(MS).await;
        }
        Self { address, host: handle, running, log: Arc::default(), _alone: alone }
    }

    /// Stops the server. Returns the report, and how long the stop took.
    async fn stop(self) -> (ShutdownReport, Duration) {
        let start = Instant::now();
        self.host.request_shutdown();
        let report = timeout(PATIENCE, self.running).await.expect("the server ends").unwrap();
        (report, start.elapsed())
    }

    /// Stops the server, and waits for the work that it has left: the report of the next test must not name it.
    async fn stop_and_leave_no_work(mut self) -> (ShutdownReport, Duration) {
        let start = Instant::now();
        self.host.request_shutdown();
        let report = timeout(PATIENCE, &mut self.running).await.expect("the server ends").unwrap();
        let took = start.elapsed();
        eventually("the work ends", || onelane::detached::running().is_empty()).await;
        (report, took)
    }

    fn logged(&self) -> Vec<&'static str> {
        self.log.lock().unwrap().clone()
    }
}

fn app(log: &Arc<Mutex<Vec<&'static str>>>) -> Router {
    let log = Arc::clone(log);
    let slow = move || {
        let log = Arc::clone(&log);
        async move {
            log.lock().unwrap().push("begins");
            sleep(SLOW).await;
            log.lock().unwrap().push("ends");
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
    let big = || async { vec![0_u8; 64 << 20] };
    let who = |ConnectInfo(peer): ConnectInfo<SocketAddr>, ConnectInfo(link): ConnectInfo<ClientLink>| async move {
        assert_eq!(link.peer_addr(), Some(peer));
        peer.to_string()
    };
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/slow", get(slow))
        .route("/endless", get(endless))
        .route("/big", get(big))
        .route("/who", get(who))
        .route("/body", post(|body: Bytes| async move { body.len().to_string() }))
}
