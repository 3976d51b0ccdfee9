//! Requests that wait or work elsewhere when the server drains.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix_web::web::{self, ServiceConfig};
use onelane::EndpointGuard;
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use onelane::web::actix::{GuardMiddleware, blocking_handler};
use support::http::{self, Client, Disconnect, eventually};
use tokio::time::sleep;

use crate::{DRAIN, LONG_DRAIN, Log, MS, SLOW, TestServer, note, notes, unfinished};

/// Serves a handler behind a guard that notes when it begins and ends.
async fn guarded(log: &Log, takes: Duration) -> (TestServer, Arc<EndpointGuard>) {
    guarded_for(DRAIN, log, takes).await
}

async fn guarded_for(drain: Duration, log: &Log, takes: Duration) -> (TestServer, Arc<EndpointGuard>) {
    let guard = Arc::new(EndpointGuard::new("guarded"));
    let (noted, shared) = (Arc::clone(log), Arc::clone(&guard));
    let routes = move |app: &mut ServiceConfig, _: &HostHandle| {
        let log = Arc::clone(&noted);
        let handler = move || {
            let log = Arc::clone(&log);
            async move {
                note(&log, "begins");
                sleep(takes).await;
                note(&log, "ends");
                "done"
            }
        };
        let guarded = web::resource("/").wrap(GuardMiddleware::new(Arc::clone(&shared))).route(web::get().to(handler));
        app.service(guarded);
    };
    (TestServer::actix_for(drain, routes, ServeConfig::new()).await, guard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_in_the_queue_of_a_guard_is_served() {
    let log = Log::default();
    let (server, guard) = guarded(&log, MS * 100).await;
    let mut first = Client::sending(server.address, http::get("/")).await;
    eventually("the handler runs", || notes(&log) == ["begins"]).await;
    let mut second = Client::sending(server.address, http::get("/")).await;
    eventually("the request waits", || guard.stats().waiting == 1).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["begins", "ends", "begins", "ends"]);
    for client in [&mut first, &mut second] {
        let response = client.response().await;
        assert_eq!((response.text(), response.header("connection")), ("done", Some("close")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_that_waits_for_too_long_is_cut_off_and_reported() {
    let log = Log::default();
    let (server, guard) = guarded(&log, MS * 60_000).await;
    let _first = Client::sending(server.address, http::get("/")).await;
    eventually("the handler runs", || notes(&log) == ["begins"]).await;
    let _second = Client::sending(server.address, http::get("/")).await;
    eventually("the request waits", || guard.stats().waiting == 1).await;
    let (report, _) = server.stop_and_leave_no_work(|| guard.stats().held == 0).await;
    assert!(unfinished(&report).contains(&("requests", 2)) && report.exit_code() == 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_continues_without_its_client_ends_before_its_worker() {
    let log = Log::default();
    // Longer than its connection lingers.
    let (server, _guard) = guarded(&log, SLOW * 2).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    eventually("the handler runs", || notes(&log) == ["begins"]).await;
    client.disconnect(Disconnect::Rst).await;
    eventually("the handler runs without its client", || !onelane::detached::running().is_empty()).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["begins", "ends"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_whose_client_leaves_during_the_drain_ends_before_its_worker() {
    let log = Log::default();
    // A worker without connections ends within a second once its server stops.
    let (server, _guard) = guarded_for(LONG_DRAIN, &log, Duration::from_millis(2500)).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    eventually("the handler runs", || notes(&log) == ["begins"]).await;
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 400).await;
    client.disconnect(Disconnect::Rst).await;
    let (report, _) = stopping.await.unwrap();
    assert_eq!(notes(&log), ["begins", "ends"]);
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_never_ends_without_its_client_is_reported_by_name() {
    let log = Log::default();
    let (server, guard) = guarded(&log, MS * 60_000).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    eventually("the handler runs", || notes(&log) == ["begins"]).await;
    client.disconnect(Disconnect::Rst).await;
    eventually("the handler runs without its client", || !onelane::detached::running().is_empty()).await;
    let (report, _) = server.stop_and_leave_no_work(|| guard.stats().held == 0).await;
    assert_eq!(unfinished(&report), [("guarded", 1)], "{report:?}");
    assert!(!report.is_clean() && report.exit_code() == 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_handler_in_flight_ends() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let routes = move |app: &mut ServiceConfig| {
        let log = Arc::clone(&noted);
        let handler = move || {
            note(&log, "begins");
            thread::sleep(SLOW);
            note(&log, "ends");
            "blocking"
        };
        app.route("/", web::get().to(blocking_handler(handler)));
    };
    let server = TestServer::actix(routes, ServeConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    eventually("the handler runs", || notes(&log) == ["begins"]).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["begins", "ends"]);
    let response = client.response().await;
    assert_eq!((response.text(), response.header("connection")), ("blocking", Some("close")));
}
