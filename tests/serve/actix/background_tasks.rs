//! Work after the response.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::error::ErrorImATeapot;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, test};
use onelane::web::actix::blocking_handler;
use onelane::web::{BackgroundTask, BackgroundTasks, BackgroundTasksConfig, Refusal, RunOn, ServeConfig};
use support::http::{self, Client, Disconnect, eventually};
use support::waiting::Gate;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::{DRAIN, MS};
use super::{ActixServer, Log, note, notes, unfinished};

/// Panics without a message on the standard error.
fn quiet_panic() {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// Returns a task that notes its name.
fn noting(log: &Log, what: &'static str) -> BackgroundTask {
    let log = Arc::clone(log);
    BackgroundTask::new(what, async move { note(&log, what) })
}

async fn server<F, R>(log: &Log, config: BackgroundTasksConfig, handler: F) -> ActixServer
where
    F: Fn(BackgroundTasks, Log) -> R + Clone + Send + 'static,
    R: actix_web::Responder + 'static,
{
    let log = Arc::clone(log);
    let routes = move |app: &mut ServiceConfig| {
        let (log, handler) = (Arc::clone(&log), handler.clone());
        app.default_service(web::to(move |tasks: BackgroundTasks| {
            let response = handler(tasks, Arc::clone(&log));
            async move { response }
        }));
    };
    ActixServer::of(routes, ServeConfig::new().background_tasks(config)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_in_order_and_neither_a_failure_nor_a_panic_stops_the_next_one() {
    let log = Log::default();
    let server = server(&log, BackgroundTasksConfig::new(), |tasks, log| {
        let first = Arc::clone(&log);
        tasks.add("first", async move {
            sleep(MS * 30).await;
            // Not on the worker, which ends before the task.
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
        tasks.add_task(BackgroundTask::new("hangs", std::future::pending::<()>()).timeout(MS * 20))?;
        tasks.add_task(noting(&log, "last"))?;
        Ok::<_, Refusal>("response")
    })
    .await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.text(), "response");
    assert!(notes(&log).is_empty(), "the client has its response first");
    // The connection serves its next request in the meantime.
    client.send(http::get("/")).await;
    assert_eq!(client.response().await.text(), "response");
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "the stop waits for the tasks: {report:?}");
    let mut all = notes(&log);
    all.sort();
    assert_eq!(all, ["blocks", "blocks", "first", "first", "last", "last"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_decides_which_tasks_run() {
    let log = Log::default();
    let server = server(&log, BackgroundTasksConfig::new(), |tasks, log| {
        for (name, run_on) in [("response", RunOn::Response), ("success", RunOn::Success), ("always", RunOn::Always)] {
            tasks.add_task(noting(&log, name).run_on(run_on)).unwrap();
        }
        HttpResponse::BadRequest()
    })
    .await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.status, 400);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["response", "always"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_after_the_response_to_an_error_of_a_handler_or_a_middleware() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let routes = move |app: &mut ServiceConfig| {
        let log = Arc::clone(&noted);
        let handler = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&log, "response")).unwrap();
            async { Err::<&str, _>(io::Error::other("on purpose")) }
        };
        let fails = from_fn(|request, next: Next<BoxBody>| async move {
            next.call(request).await?;
            Err::<ServiceResponse, _>(ErrorImATeapot("on purpose"))
        });
        app.route("/handler", web::to(handler.clone()));
        app.service(web::resource("/middleware").wrap(fails).route(web::to(handler)));
    };
    let server = ActixServer::of(routes, ServeConfig::new()).await;
    for (path, status) in [("/handler", 500), ("/middleware", 418)] {
        let mut client = Client::sending(server.address, http::get(path)).await;
        assert_eq!(client.response().await.status, status);
    }
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["response", "response"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_panics_or_loses_its_client_leaves_the_tasks_that_always_run() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let routes = move |app: &mut ServiceConfig| {
        let log = Arc::clone(&noted);
        app.default_service(web::to(move |tasks: BackgroundTasks, request: HttpRequest| {
            let log = Arc::clone(&log);
            async move {
                tasks.add_task(noting(&log, "response")).unwrap();
                tasks.add_task(noting(&log, "always").run_on(RunOn::Always)).unwrap();
                note(&log, "begins");
                if request.path() == "/panics" {
                    quiet_panic();
                }
                std::future::pending::<&str>().await
            }
        }));
    };
    let server = ActixServer::of(routes, ServeConfig::new()).await;
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
async fn tasks_of_a_function_on_a_pool_that_continues_without_its_client_run_after_it() {
    let (log, gate) = (Log::default(), Gate::default());
    let (noted, wait) = (Arc::clone(&log), gate.wait());
    let routes = move |app: &mut ServiceConfig| {
        let (log, wait) = (Arc::clone(&noted), wait.clone());
        let function = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&log, "response")).unwrap();
            tasks.add_task(noting(&log, "success").run_on(RunOn::Success)).unwrap();
            note(&log, "begins");
            wait.block();
            HttpResponse::BadRequest()
        };
        app.route("/", web::get().to(blocking_handler(function)));
    };
    let server = ActixServer::of(routes, ServeConfig::new()).await;
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
    let server = server(&log, BackgroundTasksConfig::new(), |tasks, log| {
        tasks.add_task(noting(&log, "runs")).unwrap();
        vec![0_u8; 32 << 20]
    })
    .await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    client.until("HTTP/1.1 200").await;
    client.disconnect(Disconnect::Rst).await;
    eventually("the task runs", || notes(&log) == ["runs"]).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_start_after_a_response_without_a_body_and_after_a_stream() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let routes = move |app: &mut ServiceConfig| {
        let [a, b] = [&noted, &noted].map(Arc::clone);
        let no_content = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&a, "no content")).unwrap();
            async { HttpResponse::NoContent().finish() }
        };
        let stream = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&b, "stream")).unwrap();
            let log = Arc::clone(&b);
            async move {
                let chunks = futures::stream::unfold(0, move |n| {
                    let log = Arc::clone(&log);
                    async move {
                        sleep(MS * 5).await;
                        note(&log, format!("chunk {n}"));
                        (n < 2).then(|| (Ok::<_, io::Error>(web::Bytes::from_static(b"chunk")), n + 1))
                    }
                });
                HttpResponse::Ok().streaming(chunks)
            }
        };
        app.route("/no-content", web::to(no_content)).route("/stream", web::to(stream));
    };
    let server = ActixServer::of(routes, ServeConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/no-content")).await;
    assert_eq!(client.head().await.lines().next(), Some("HTTP/1.1 204 No Content"));
    eventually("the task runs", || notes(&log) == ["no content"]).await;
    let mut client = Client::sending(server.address, http::get("/stream")).await;
    client.until("0\r\n\r\n").await;
    let expected = ["no content", "chunk 0", "chunk 1", "chunk 2", "stream"];
    eventually("the task runs", || notes(&log) == expected).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_of_the_queue_is_exact_and_counts_tasks_that_have_not_begun() {
    let (may_end, ended) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, counter) = (Arc::clone(&may_end), Arc::clone(&ended));
    let config = BackgroundTasksConfig::new().max_running(1).max_queued(3);
    let server = server(&Log::default(), config, move |tasks, _| {
        let (gate, counter) = (Arc::clone(&gate), Arc::clone(&counter));
        let waits = async move {
            gate.notified().await;
            counter.fetch_add(1, Ordering::SeqCst);
        };
        tasks.add("waits", waits).map(|()| "added").map_err(Refusal::from)
    })
    .await;
    let mut statuses = Vec::new();
    // One task runs, and three wait.
    for _ in 0..6 {
        let mut client = Client::sending(server.address, http::get("/")).await;
        statuses.push(client.response().await.status);
        // A task has begun before the next request is sent.
        sleep(MS * 20).await;
    }
    assert_eq!(statuses, [200, 200, 200, 200, 503, 503]);
    let releasing = tokio::spawn(async move {
        loop {
            may_end.notify_one();
            sleep(MS).await;
        }
    });
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    releasing.abort();
    assert_eq!(ended.load(Ordering::SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_do_not_end_in_time_are_reported_by_name() {
    let server = server(&Log::default(), BackgroundTasksConfig::new(), |tasks, _| {
        let never = BackgroundTask::new("never", std::future::pending::<()>());
        tasks.add_task(never.timeout(DRAIN * 3)).unwrap();
        tasks.add("after never", async {}).unwrap();
        "response"
    })
    .await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.status, 200);
    eventually("the process knows the tasks", || onelane::detached::running().len() == 2).await;
    let (report, took) = server.stop_and_leave_no_work(|| true).await;
    assert_eq!(unfinished(&report), [("after never", 1), ("never", 1)]);
    assert!(!report.is_clean() && took < Duration::from_secs(5), "{took:?} {report:?}");
    assert!(!report.server_cut_off(), "the server itself has ended: {report:?}");
}

#[actix_web::test]
async fn app_without_the_server_says_what_is_missing() {
    let app = App::new().route("/", web::get().to(|_: BackgroundTasks| async { "response" }));
    let app = test::init_service(app).await;
    let response = test::call_service(&app, test::TestRequest::get().to_request()).await;
    assert_eq!(response.status(), 500);
    let body = String::from_utf8(test::read_body(response).await.to_vec()).unwrap();
    assert!(body.contains("no-background-tasks") && body.contains("serve the app with the serve function"), "{body}");
}
