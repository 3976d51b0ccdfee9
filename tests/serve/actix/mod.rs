//! actix-web servers.

mod background_tasks;
mod client_states;
mod restarts;
mod waiting;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, ServiceConfig};
use actix_web::{App, HttpResponse, web};
use futures::stream;
use onelane::ServiceHost;
use onelane::background::{HostHandle, ShutdownReport};
use onelane::web::ServeConfig;
use onelane::web::actix::serve;
use tokio::sync::MutexGuard;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use support::http::eventually;
use support::waiting::PATIENCE;

use super::{ALONE, DRAIN, MS, SLOW};

pub(super) type Log = Arc<Mutex<Vec<String>>>;

pub(super) fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

/// A server in a task, with the requests that its handlers have begun and ended.
pub(super) struct ActixServer {
    pub(super) address: SocketAddr,
    host: HostHandle,
    running: JoinHandle<ShutdownReport>,
    log: Log,
    _alone: MutexGuard<'static, ()>,
}

impl ActixServer {
    pub(super) async fn start(config: ServeConfig) -> Self {
        let log = Log::default();
        let served = Arc::clone(&log);
        Self { log, ..Self::of(move |app| routes(app, &served), config).await }
    }

    /// Serves other routes, over HTTP/1 and over HTTP/2 with prior knowledge.
    pub(super) async fn of(routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static, config: ServeConfig) -> Self {
        let alone = ALONE.lock().await;
        let host = ServiceHost::builder().drain_timeout(DRAIN).without_signals().build().unwrap();
        let handle = host.handle();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let app = move || App::new().configure(routes.clone());
        let server = serve(host, move |drain| drain.http_server(app).workers(2).listen_auto_h2c(listener));
        let running = tokio::spawn(async move { server.config(config).await.unwrap() });
        while !handle.status().is_ready() {
            sleep(MS).await;
        }
        Self { address, host: handle, running, log: Log::default(), _alone: alone }
    }

    /// Stops the server. Returns the report, and how long the stop took.
    pub(super) async fn stop(self) -> (ShutdownReport, Duration) {
        let start = Instant::now();
        self.host.request_shutdown();
        let report = timeout(PATIENCE, self.running).await.expect("the server ends").unwrap();
        (report, start.elapsed())
    }

    /// Stops the server, and waits for the work that it has left: the report of the next test must not name it. Workers
    /// end after the report.
    async fn stop_and_leave_no_work(mut self, is_gone: impl Fn() -> bool) -> (ShutdownReport, Duration) {
        let start = Instant::now();
        self.host.request_shutdown();
        let report = timeout(PATIENCE, &mut self.running).await.expect("the server ends").unwrap();
        let took = start.elapsed();
        eventually("the work ends", || is_gone() && onelane::detached::running().is_empty()).await;
        (report, took)
    }

    fn logged(&self) -> Vec<String> {
        notes(&self.log)
    }
}

pub(super) fn notes(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

fn unfinished(report: &ShutdownReport) -> Vec<(&str, usize)> {
    report.unfinished().iter().map(|work| (work.name(), work.count())).collect()
}

fn routes(app: &mut ServiceConfig, log: &Log) {
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
        HttpResponse::Ok().content_type("text/event-stream").streaming(chunks)
    };
    app.route("/", web::get().to(|| async { "hello" }))
        .route("/slow", web::get().to(slow))
        .route("/endless", web::get().to(endless))
        .route("/big", web::get().to(|| async { vec![0_u8; 64 << 20] }))
        .route("/long", web::get().to(|| async { vec![0_u8; 16 << 20] }))
        .route("/body", web::post().to(|body: Bytes| async move { body.len().to_string() }));
}
