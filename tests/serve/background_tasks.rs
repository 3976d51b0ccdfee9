//! Work after the response.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{any, get};
use futures::stream;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::EndpointGuard;
use onelane::web::axum::{FlightLayer, GuardLayer, blocking_handler};
use onelane::web::{
    BackgroundTask, BackgroundTasks, BackgroundTasksConfig, FlightOptions, Refusal, RunOn, ServeConfig, TaskStart,
    WhenFull,
};
use support::http::{self, Client, Disconnect, eventually};
use support::waiting::Gate;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{MS, TestServer};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

fn notes(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

/// Panics without a message on the standard error.
fn quiet_panic() {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// Returns a task that notes its name.
fn noting(log: &Log, what: &'static str) -> BackgroundTask {
    let log = Arc::clone(log);
    BackgroundTask::new(what, async move { note(&log, what) })
}

async fn server(app: Router, config: BackgroundTasksConfig) -> TestServer {
    TestServer::of(app, ServeConfig::new().background_tasks(config)).await
}

fn app_of<F, R>(log: &Log, handler: F) -> Router
where
    F: Fn(BackgroundTasks, Log) -> R + Clone + Send + Sync + 'static,
    R: axum::response::IntoResponse + 'static,
{
    let log = Arc::clone(log);
    Router::new().route("/", any(move |tasks: BackgroundTasks| async move { handler(tasks, log) }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_in_order_and_neither_a_failure_nor_a_panic_stops_the_next_one() {
    let log = Log::default();
    let app = app_of(&log, |tasks, log| {
        let first = Arc::clone(&log);
        tasks.add("first", async move {
            sleep(MS * 30).await;
            note(&first, "first");
        })?;
        tasks.add("fails", async { Err::<(), _>("on purpose") })?;
        tasks.add("panics", async { quiet_panic() })?;
        let blocking = Arc::clone(&log);
        tasks.add_blocking("blocks", move || {
            thread::sleep(MS * 20);
            note(&blocking, "blocks");
        })?;
        tasks.add_blocking("panics, too", quiet_panic)?;
        let hangs = BackgroundTask::new("hangs", std::future::pending::<()>()).timeout(MS * 20);
        tasks.add_task(hangs)?;
        tasks.add_task(noting(&log, "last"))?;
        Ok::<_, Refusal>("response")
    });
    let server = server(app, BackgroundTasksConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.text(), "response");
    assert!(notes(&log).is_empty(), "the client has its response first");
    // The connection serves its next request in the meantime.
    client.send(http::get("/")).await;
    assert_eq!(client.response().await.text(), "response");
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    let mut all = notes(&log);
    all.sort();
    assert_eq!(all, ["blocks", "blocks", "first", "first", "last", "last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_decides_which_tasks_run() {
    let log = Log::default();
    let app = app_of(&log, |tasks, log| {
        for (name, run_on) in [("response", RunOn::Response), ("success", RunOn::Success), ("always", RunOn::Always)] {
            tasks.add_task(noting(&log, name).run_on(run_on)).unwrap();
        }
        StatusCode::BAD_REQUEST
    });
    let server = server(app, BackgroundTasksConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.status, 400);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["response", "always"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_panics_or_loses_its_client_leaves_the_tasks_that_always_run() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let handler = move |tasks: BackgroundTasks, uri: axum::http::Uri| async move {
        tasks.add_task(noting(&noted, "response")).unwrap();
        tasks.add_task(noting(&noted, "always").run_on(RunOn::Always)).unwrap();
        note(&noted, "begins");
        if uri.path() == "/panics" {
            quiet_panic();
        }
        std::future::pending::<()>().await;
    };
    let server = server(Router::new().fallback(any(handler)), BackgroundTasksConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/panics")).await;
    assert_eq!(client.rest().await, b"");
    eventually("the task runs", || notes(&log) == ["begins", "always"]).await;
    let mut client = Client::sending(server.address, http::get("/waits")).await;
    eventually("the handler runs", || notes(&log).len() == 3).await;
    client.disconnect(Disconnect::Rst).await;
    eventually("the task runs", || notes(&log) == ["begins", "always", "begins", "always"]).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_handler_that_continues_without_its_client_run_after_it() {
    let guard = Arc::new(EndpointGuard::new("report"));
    let (log, entered) = (Log::default(), Arc::new(Notify::new()));
    let (noted, may_end) = (Arc::clone(&log), Arc::clone(&entered));
    let handler = move |tasks: BackgroundTasks| async move {
        tasks.add_task(noting(&noted, "before")).unwrap();
        note(&noted, "begins");
        may_end.notified().await;
        tasks.add_task(noting(&noted, "after")).unwrap();
        tasks.add_task(noting(&noted, "success").run_on(RunOn::Success)).unwrap();
        note(&noted, "ends");
        StatusCode::BAD_REQUEST
    };
    let layers: [fn(&Arc<EndpointGuard>, Router) -> Router; 2] = [
        |guard, app| app.layer(GuardLayer::new(guard)),
        |_, app| app.layer(FlightLayer::new("shared").options(FlightOptions::new().detached())),
    ];
    for (n, layer) in layers.into_iter().enumerate() {
        let app = layer(&guard, Router::new().route("/", get(handler.clone())));
        let server = server(app, BackgroundTasksConfig::new()).await;
        let mut client = Client::sending(server.address, http::get("/")).await;
        eventually("the handler runs", || notes(&log) == ["begins"]).await;
        client.disconnect(Disconnect::Rst).await;
        eventually("it continues without its client", || !onelane::detached::running().is_empty() || n == 1).await;
        sleep(MS * 20).await;
        entered.notify_one();
        eventually("its tasks run", || notes(&log).len() == 4).await;
        assert_eq!(notes(&log), ["begins", "ends", "before", "after"]);
        assert!(server.stop().await.0.is_clean());
        log.lock().unwrap().clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_function_on_a_pool_that_continues_without_its_client_run_after_it() {
    let (log, gate) = (Log::default(), Gate::default());
    let (noted, wait) = (Arc::clone(&log), gate.wait());
    let function = move |tasks: BackgroundTasks| {
        tasks.add_task(noting(&noted, "response")).unwrap();
        tasks.add_task(noting(&noted, "success").run_on(RunOn::Success)).unwrap();
        note(&noted, "begins");
        wait.block();
        StatusCode::BAD_REQUEST
    };
    let server = server(Router::new().route("/", get(blocking_handler(function))), BackgroundTasksConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    eventually("the function runs", || notes(&log) == ["begins"]).await;
    client.disconnect(Disconnect::Rst).await;
    eventually("it continues without its client", || !onelane::detached::running().is_empty()).await;
    gate.open();
    eventually("its task runs", || notes(&log) == ["begins", "response"]).await;
    assert!(server.stop().await.0.is_clean());
    assert_eq!(notes(&log).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_though_the_client_disconnects_before_it_has_the_response() {
    let log = Log::default();
    let app = app_of(&log, |tasks, log| {
        tasks.add_task(noting(&log, "runs")).unwrap();
        vec![0_u8; 32 << 20]
    });
    let server = server(app, BackgroundTasksConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    client.until("HTTP/1.1 200").await;
    sleep(MS * 30).await;
    assert!(notes(&log).is_empty(), "the client has not read the response");
    client.disconnect(Disconnect::Rst).await;
    eventually("the task runs", || notes(&log) == ["runs"]).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

/// The kinds of responses, whose ends servers write in different ways.
fn responses(log: &Log) -> Router {
    let add = |tasks: &BackgroundTasks, log: &Log| tasks.add_task(noting(log, "runs")).unwrap();
    let [a, b, c, d] = [log, log, log, log].map(Arc::clone);
    Router::new()
        .route(
            "/no-content",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &a);
                StatusCode::NO_CONTENT
            }),
        )
        .route(
            "/short",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &b);
                "short"
            }),
        )
        .route(
            "/chunked",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &c);
                let chunks = stream::unfold(0, |n| async move {
                    sleep(MS * 5).await;
                    (n < 3).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"chunk")), n + 1))
                });
                Body::from_stream(chunks)
            }),
        )
        .route(
            "/long",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &d);
                vec![b'x'; 8 << 20]
            }),
        )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_start_after_each_kind_of_response() {
    let log = Log::default();
    let server = server(responses(&log), BackgroundTasksConfig::new()).await;
    let requests = ["/no-content", "/short", "/chunked", "/long"].map(http::get);
    let head = [http::request("HEAD", "/short"), http::request("HEAD", "/long")].map(|head| head + "\r\n");
    for (n, request) in requests.into_iter().chain(head).enumerate() {
        let mut client = Client::sending(server.address, &request).await;
        eventually(&format!("the task after {request:?} runs"), || {
            // Reading takes place in the kernel for all but the long response.
            notes(&log).len() > n || request.contains("/long")
        })
        .await;
        if request.starts_with("GET /long") {
            assert_eq!(notes(&log).len(), n, "8 MiB do not fit into the kernel's buffers");
            assert_eq!(client.response().await.body.len(), 8 << 20);
            eventually("the task runs", || notes(&log).len() > n).await;
        }
        eventually("the task runs", || notes(&log).len() == n + 1).await;
    }
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_http2_start_when_the_client_has_made_room_for_the_whole_response() {
    let log = Log::default();
    let server = server(responses(&log), BackgroundTasksConfig::new()).await;
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    for (n, path) in ["/no-content", "/short", "/chunked", "/long"].into_iter().enumerate() {
        let request = hyper::Request::get(format!("http://test{path}")).body(Empty::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        if path == "/long" {
            sleep(MS * 50).await;
            assert_eq!(notes(&log).len(), n, "the window of the stream is smaller than the response");
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len() == 8 << 20, path == "/long");
        eventually(&format!("the task after {path} runs"), || notes(&log).len() == n + 1).await;
    }
    drop(sender);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_of_the_body_tasks_start_before_a_slow_client_has_read_it() {
    let log = Log::default();
    let server = server(responses(&log), BackgroundTasksConfig::new().start(TaskStart::BodyEnd)).await;
    let client = Client::sending(server.address, http::get("/long")).await;
    eventually("the task runs", || notes(&log) == ["runs"]).await;
    drop(client);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

/// Adds as many tasks as the body of the request says. Each waits for the permission to end.
fn many(may_end: &Arc<Notify>, ended: &Arc<AtomicUsize>) -> Router {
    let (may_end, ended) = (Arc::clone(may_end), Arc::clone(ended));
    let handler = move |tasks: BackgroundTasks, count: String| async move {
        for _ in 0..count.parse().unwrap() {
            let (may_end, ended) = (Arc::clone(&may_end), Arc::clone(&ended));
            tasks.add("waits", async move {
                may_end.notified().await;
                ended.fetch_add(1, Ordering::SeqCst);
            })?;
        }
        Ok::<_, Refusal>(())
    };
    Router::new().route("/", any(handler))
}

async fn statuses(server: &TestServer, counts: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for count in counts {
        let mut client = Client::sending(server.address, http::post("/", count.to_string().as_bytes())).await;
        statuses.push(client.response().await.status);
        // A task has begun before the next request is sent.
        sleep(MS * 20).await;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_of_the_queue_is_exact_and_counts_tasks_that_have_not_begun() {
    let (may_end, ended) = (Arc::new(Notify::new()), Arc::default());
    let config = BackgroundTasksConfig::new().max_running(1).max_queued(3);
    let server = server(many(&may_end, &ended), config).await;
    // One task runs, and three wait: the third request has added one before it is refused the second.
    assert_eq!(statuses(&server, &[1, 2, 2, 1]).await, [200, 200, 503, 503]);
    may_end.notify_one();
    eventually("a task ends", || ended.load(Ordering::SeqCst) == 1).await;
    sleep(MS * 20).await;
    assert_eq!(statuses(&server, &[1, 1]).await, [200, 503]);
    let releasing = tokio::spawn(async move {
        loop {
            may_end.notify_one();
            sleep(MS).await;
        }
    });
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    releasing.abort();
    assert_eq!(ended.load(Ordering::SeqCst), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oldest_task_gives_way_to_a_new_one() {
    let log = Log::default();
    let may_end = Arc::new(Notify::new());
    let (noted, gate) = (Arc::clone(&log), Arc::clone(&may_end));
    let handler = move |tasks: BackgroundTasks, name: String| async move {
        tasks
            .add(name.clone(), async move {
                gate.notified().await;
                note(&noted, name);
            })
            .map_err(Refusal::from)
    };
    let config = BackgroundTasksConfig::new().max_running(1).max_queued(2).when_full(WhenFull::DropOldest);
    let server = server(Router::new().route("/", any(handler)), config).await;
    for name in ["a", "b", "c", "d"] {
        let mut client = Client::sending(server.address, http::post("/", name.as_bytes())).await;
        assert_eq!(client.response().await.status, 200);
        sleep(MS * 20).await;
    }
    let releasing = tokio::spawn(async move {
        loop {
            may_end.notify_one();
            sleep(MS).await;
        }
    });
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    releasing.abort();
    assert_eq!(notes(&log), ["a", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_do_not_end_in_time_are_reported_by_name() {
    let log = Log::default();
    let app = app_of(&log, |tasks, _| {
        let never = BackgroundTask::new("never", std::future::pending::<()>());
        tasks.add_task(never.timeout(super::DRAIN * 3)).unwrap();
        tasks.add("after never", async {}).unwrap();
    });
    let server = server(app, BackgroundTasksConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.status, 200);
    eventually("the process knows the tasks", || onelane::detached::running().len() == 2).await;
    let (report, took) = server.stop_and_leave_no_work().await;
    let unfinished: Vec<_> = report.unfinished().iter().map(|work| (work.name(), work.count())).collect();
    assert_eq!(unfinished, [("after never", 1), ("never", 1)]);
    assert!(!report.is_clean() && took < Duration::from_secs(5), "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_without_the_server_says_what_is_missing() {
    let app = Router::new().route("/", get(|_: BackgroundTasks| async {}));
    let response = tower::ServiceExt::oneshot(app, axum::http::Request::get("/").body(Body::empty()).unwrap());
    let response = pin!(response).await.unwrap();
    assert_eq!(response.status(), 500);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("serve the app with the serve function"), "{body:?}");
}
