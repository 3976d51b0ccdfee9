//! Work after the response.

use std::borrow::Cow;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use onelane::EndpointGuard;
use onelane::web::actix;
use onelane::web::axum::{FlightLayer, GuardLayer, blocking_handler};
use onelane::web::{
    BackgroundTask, BackgroundTasks, BackgroundTasksConfig, BackgroundTasksFull, FlightOptions, Refusal, RunOn,
    ServeConfig, WhenFull,
};
use support::http::{self, Client, Disconnect, eventually};
use support::inbox::Inbox;
use support::runtimes::multi_thread;
use support::waiting::Gate;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{DRAIN, FRAMEWORKS, Framework, Log, MS, TestServer, note, notes, unfinished};

/// A request to a handler of either framework.
struct Call {
    tasks: BackgroundTasks,
    log: Log,
    path: String,
}

/// The response to a [`Call`].
struct Reply {
    status: u16,
    body: Vec<u8>,
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self { status: 200, body: text.into() }
    }
}

impl From<Result<&str, BackgroundTasksFull>> for Reply {
    fn from(result: Result<&str, BackgroundTasksFull>) -> Self {
        result.map_or(Self { status: 503, body: Vec::new() }, Self::from)
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        (StatusCode::from_u16(self.status).unwrap(), self.body).into_response()
    }
}

impl Responder for Reply {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let status = actix_web::http::StatusCode::from_u16(self.status).unwrap();
        HttpResponse::build(status).body(self.body)
    }
}

/// Panics without a message on the standard error.
fn quiet_panic() {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// Returns a task that notes its name.
pub(super) fn noting(log: &Log, what: &'static str) -> BackgroundTask {
    let log = Arc::clone(log);
    BackgroundTask::new(what, async move { note(&log, what) })
}

pub(super) async fn server(app: Router, config: BackgroundTasksConfig) -> TestServer {
    TestServer::axum(app, ServeConfig::new().background_tasks(config)).await
}

/// Serves one handler with a framework.
async fn server_of<R>(
    framework: Framework,
    config: BackgroundTasksConfig,
    handler: impl Fn(Call) -> R + Send + Sync + 'static,
) -> TestServer
where
    R: Future<Output: Into<Reply>> + Send + 'static,
{
    let (log, config) = (Log::default(), ServeConfig::new().background_tasks(config));
    let noted = Arc::clone(&log);
    let handler = Arc::new(move |tasks, path: &str| -> BoxFuture<'static, Reply> {
        let call = Call { tasks, log: Arc::clone(&noted), path: path.to_owned() };
        handler(call).map(Into::into).boxed()
    });
    let server = match framework {
        Framework::Axum => {
            let app = any(move |tasks: BackgroundTasks, uri: Uri| handler(tasks, uri.path()));
            TestServer::axum(Router::new().fallback(app), config).await
        }
        Framework::Actix => {
            let routes = move |app: &mut web::ServiceConfig| {
                let handler = Arc::clone(&handler);
                let app_handler = move |tasks: BackgroundTasks, request: HttpRequest| handler(tasks, request.path());
                app.default_service(web::to(app_handler));
            };
            TestServer::actix(routes, config).await
        }
    };
    TestServer { log, ..server }
}

async fn status(server: &TestServer) -> u16 {
    Client::sending(server.address, http::get("/")).await.response().await.status
}

/// Lets tasks end that wait for this.
fn release(may_end: Arc<Notify>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            may_end.notify_one();
            sleep(MS).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_in_order_and_neither_a_failure_nor_a_panic_stops_the_next_one() {
    for framework in FRAMEWORKS {
        let server = server_of(framework, BackgroundTasksConfig::new(), |Call { tasks, log, .. }| async move {
            let first = Arc::clone(&log);
            tasks.add("first", async move {
                sleep(MS * 30).await;
                // Not on a worker of actix-web, which ends before the task.
                assert!(!thread::current().name().unwrap_or_default().starts_with("actix"));
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
            tasks.add_task(BackgroundTask::new("hangs", pending::<()>()).timeout(MS * 20))?;
            tasks.add_task(noting(&log, "last"))?;
            Ok::<_, BackgroundTasksFull>("response")
        })
        .await;
        let mut client = Client::sending(server.address, http::get("/")).await;
        assert_eq!(client.response().await.text(), "response");
        assert!(server.logged().is_empty(), "the client has its response first");
        // The connection serves its next request in the meantime.
        client.send(http::get("/")).await;
        assert_eq!(client.response().await.text(), "response");
        let log = Arc::clone(&server.log);
        let (report, _) = server.stop().await;
        assert!(report.is_clean(), "the stop waits for the tasks: {report:?}");
        let mut all = notes(&log);
        all.sort();
        assert_eq!(all, ["blocks", "blocks", "first", "first", "last", "last"], "{framework:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_decides_which_tasks_run() {
    for framework in FRAMEWORKS {
        let server = server_of(framework, BackgroundTasksConfig::new(), |Call { tasks, log, .. }| async move {
            for (name, run_on) in
                [("response", RunOn::Response), ("success", RunOn::Success), ("always", RunOn::Always)]
            {
                tasks.add_task(noting(&log, name).run_on(run_on)).unwrap();
            }
            Reply { status: 400, body: Vec::new() }
        })
        .await;
        assert_eq!(status(&server).await, 400);
        let log = Arc::clone(&server.log);
        assert!(server.stop().await.0.is_clean());
        assert_eq!(notes(&log), ["response", "always"], "{framework:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_panics_or_loses_its_client_leaves_the_tasks_that_always_run() {
    for framework in FRAMEWORKS {
        let server = server_of(framework, BackgroundTasksConfig::new(), |Call { tasks, log, path }| async move {
            tasks.add_task(noting(&log, "response")).unwrap();
            tasks.add_task(noting(&log, "always").run_on(RunOn::Always)).unwrap();
            note(&log, "begins");
            if path == "/panics" {
                quiet_panic();
            }
            pending::<&str>().await
        })
        .await;
        let mut client = Client::sending(server.address, http::get("/panics")).await;
        assert_eq!(client.rest().await, b"");
        eventually("the task runs", || server.logged() == ["begins", "always"]).await;
        let mut client = Client::sending(server.address, http::get("/waits")).await;
        eventually("the handler runs", || server.logged().len() == 3).await;
        client.disconnect(Disconnect::Rst).await;
        eventually("the task runs", || server.logged() == ["begins", "always", "begins", "always"]).await;
        assert!(server.stop().await.0.is_clean());
    }
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
    for framework in FRAMEWORKS {
        let (log, gate) = (Log::default(), Gate::default());
        let (noted, wait) = (Arc::clone(&log), gate.wait());
        let function = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&noted, "response")).unwrap();
            tasks.add_task(noting(&noted, "success").run_on(RunOn::Success)).unwrap();
            note(&noted, "begins");
            wait.block();
            (String::new(), StatusCode::BAD_REQUEST)
        };
        let server = match framework {
            Framework::Axum => {
                let function = move |tasks: BackgroundTasks| function(tasks).1;
                server(Router::new().route("/", get(blocking_handler(function))), BackgroundTasksConfig::new()).await
            }
            Framework::Actix => {
                let function = move |tasks: BackgroundTasks| {
                    let (body, status) = function(tasks);
                    (body, actix_web::http::StatusCode::from_u16(status.as_u16()).unwrap())
                };
                let routes = move |app: &mut web::ServiceConfig| {
                    app.route("/", web::get().to(actix::blocking_handler(function.clone())));
                };
                TestServer::actix(routes, ServeConfig::new()).await
            }
        };
        let mut client = Client::sending(server.address, http::get("/")).await;
        eventually("the function runs", || notes(&log) == ["begins"]).await;
        client.disconnect(Disconnect::Rst).await;
        eventually("it continues without its client", || !onelane::detached::running().is_empty()).await;
        gate.open();
        eventually("its task runs", || notes(&log) == ["begins", "response"]).await;
        assert!(server.stop().await.0.is_clean());
        assert_eq!(notes(&log).len(), 2, "{framework:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_though_the_client_disconnects_before_it_has_the_response() {
    for framework in FRAMEWORKS {
        let server = server_of(framework, BackgroundTasksConfig::new(), |Call { tasks, log, .. }| async move {
            tasks.add_task(noting(&log, "runs")).unwrap();
            Reply { status: 200, body: vec![0; 32 << 20] }
        })
        .await;
        let mut client = Client::sending(server.address, http::get("/")).await;
        client.until("HTTP/1.1 200").await;
        if framework == Framework::Axum {
            sleep(MS * 30).await;
            assert!(server.logged().is_empty(), "the client has not read the response");
        }
        client.disconnect(Disconnect::Rst).await;
        eventually("the task runs", || server.logged() == ["runs"]).await;
        assert!(server.stop().await.0.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_of_the_queue_is_exact_and_counts_tasks_that_have_not_begun() {
    for framework in FRAMEWORKS {
        let (may_end, ended) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (gate, counter) = (Arc::clone(&may_end), Arc::clone(&ended));
        let config = BackgroundTasksConfig::new().max_running(1).max_queued(3);
        let server = server_of(framework, config, move |Call { tasks, path, .. }| {
            let (gate, counter) = (Arc::clone(&gate), Arc::clone(&counter));
            async move {
                for _ in 0..path[1..].parse().unwrap() {
                    let (gate, counter) = (Arc::clone(&gate), Arc::clone(&counter));
                    tasks.add("waits", async move {
                        gate.notified().await;
                        counter.fetch_add(1, Ordering::SeqCst);
                    })?;
                }
                Ok::<_, BackgroundTasksFull>("added")
            }
        })
        .await;
        let statuses = async |counts: &[u8]| {
            let mut statuses = Vec::new();
            for count in counts {
                let mut client = Client::sending(server.address, http::get(&format!("/{count}"))).await;
                statuses.push(client.response().await.status);
                // A task has begun before the next request is sent.
                sleep(MS * 20).await;
            }
            statuses
        };
        // One task runs, and three wait: the third request has added one before it is refused the second.
        assert_eq!(statuses(&[1, 2, 2, 1]).await, [200, 200, 503, 503], "{framework:?}");
        may_end.notify_one();
        eventually("a task ends", || ended.load(Ordering::SeqCst) == 1).await;
        sleep(MS * 20).await;
        assert_eq!(statuses(&[1, 1]).await, [200, 503], "{framework:?}");
        let releasing = release(may_end);
        assert!(server.stop().await.0.is_clean());
        releasing.abort();
        assert_eq!(ended.load(Ordering::SeqCst), 5);
    }
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
    let releasing = release(may_end);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    releasing.abort();
    assert_eq!(notes(&log), ["a", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_do_not_end_in_time_are_reported_by_name() {
    for framework in FRAMEWORKS {
        let server = server_of(framework, BackgroundTasksConfig::new(), |Call { tasks, .. }| async move {
            tasks.add_task(BackgroundTask::new("never", pending::<()>()).timeout(DRAIN * 3)).unwrap();
            tasks.add("after never", async {}).unwrap();
            "response"
        })
        .await;
        assert_eq!(status(&server).await, 200);
        eventually("the process knows the tasks", || onelane::detached::running().len() == 2).await;
        let (report, took) = server.stop_and_leave_no_work(|| true).await;
        assert_eq!(unfinished(&report), [("after never", 1), ("never", 1)]);
        assert!(!report.is_clean() && took < Duration::from_secs(5), "{framework:?}: {took:?} {report:?}");
        assert!(!report.server_cut_off(), "the server itself has ended: {report:?}");
    }
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

#[test]
fn task_that_blocks_is_reported_by_its_name() {
    let (inbox, runtime, gate) = (Inbox::default(), multi_thread(2), Gate::default());
    let _watch = inbox.watch(runtime.handle());
    for (name, label) in [(Cow::Borrowed("mail"), "mail"), (Cow::Owned("mail to 7".to_owned()), "background task")] {
        gate.close();
        let wait = gate.wait();
        let handler = async move |tasks: BackgroundTasks| {
            let (name, wait) = (name.clone(), wait.clone());
            tasks.add(name, async move { wait.block() }).unwrap();
        };
        let server = runtime.block_on(server(Router::new().route("/", get(handler)), BackgroundTasksConfig::new()));
        let before = inbox.blocked().len();
        assert_eq!(runtime.block_on(status(&server)), 200);
        assert_eq!(inbox.wait_for(before + 1)[before].label(), Some(label));
        gate.open();
        inbox.wait_for_recovered(before + 1);
        assert!(runtime.block_on(server.stop()).0.is_clean());
    }
}
