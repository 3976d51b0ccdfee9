//! Requests that share a response.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use actix_web::HttpResponse;
use actix_web::body::{BoxBody, SizedStream};
use actix_web::dev::ServiceRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{route, scope};
use futures::future::join_all;
use futures::stream;
use onelane::web::FlightOptions;
use reqwest::Method;

use super::{COLLAPSED, LED, Seen, Shared, header, numbered};
use support::actix::{Server, ask, assert_problem, chunk, lock};
use support::client::{eventually, web_client};

#[tokio::test]
async fn thousand_clients_across_workers_share_one_run() {
    let shared = Shared::new(FlightOptions::new());
    let arrivals: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
    let server = Server::start_with(3, false, {
        let (shared, arrivals) = (shared.clone(), Arc::clone(&arrivals));
        move |config| {
            let arrivals = Arc::clone(&arrivals);
            let arrive = move |request: ServiceRequest, next: Next<BoxBody>| {
                lock(&arrivals).insert(thread::current().id());
                next.call(request)
            };
            let respond = |run| HttpResponse::Ok().insert_header(("x-run", run)).body(format!("run {run}"));
            let flights = scope("").wrap(shared.flights.clone()).default_service(route().to(shared.handler(respond)));
            config.service(scope("").wrap(from_fn(arrive)).service(flights));
        }
    });
    let client = web_client();
    let calls: Vec<_> = (0..1000).map(|_| ask(client.get(server.url("/report")))).collect();
    eventually("all wait for one run", || shared.flights.stats().waiting == 1000).await;
    assert_eq!((shared.work.started(), shared.flights.stats().running), (1, 1));
    shared.work.let_finish(1000);

    let mut cache_status = HashMap::new();
    for response in join_all(calls).await {
        let response = response.expect("no panic");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-run"]),
            (200, &"1".parse().expect("the response is a number"))
        );
        *cache_status.entry(header(&response, "cache-status")).or_insert(0) += 1;
        assert_eq!(response.text().await.expect("the body is complete"), "run 1");
    }
    let count = |of: Option<&str>| cache_status.get(&of.map(str::to_owned)).copied();
    assert_eq!((count(LED), count(COLLAPSED)), (Some(1), Some(999)), "{cache_status:?}");
    assert_eq!(lock(&arrivals).len(), 3, "every worker served some of them");
    assert_eq!(shared.work.started(), 1);
    let stats = shared.flights.stats();
    assert_eq!((stats.runs, stats.shared, stats.running, stats.waiting), (1, 999, 0, 0));
}

#[tokio::test]
async fn request_after_the_end_of_a_run_starts_another() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(numbered));
    shared.work.let_finish(3);
    for run in ["1", "2", "3"] {
        let seen = Seen::of(server.get("/").await.expect("no panic")).await;
        assert_eq!(seen, Seen::new(200, LED, run));
    }
    assert_eq!((shared.flights.stats().runs, shared.flights.stats().shared), (3, 0));
}

#[tokio::test]
async fn status_headers_and_body_are_shared_unchanged() {
    for status in [200, 201, 301, 404, 500] {
        let respond = move |run: usize| {
            HttpResponse::build(StatusCode::from_u16(status).expect("the response is a number"))
                .insert_header(("x-run", run))
                .append_header(("link", "</a>"))
                .append_header(("link", "</b>"))
                .insert_header(("cache-status", "inner; hit"))
                .insert_header((CACHE_CONTROL, "max-age=60, public"))
                .body("text")
        };
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(respond));
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.build().expect("the response needs nothing else");
        let calls: Vec<_> = (0..3).map(|_| ask(client.get(server.url("/")))).collect();
        eventually("all requests wait", || shared.flights.stats().waiting == 3).await;
        shared.work.let_finish(3);
        let mut last_members = Vec::new();
        for response in calls {
            let response = response.await.expect("no panic");
            assert_eq!((response.status().as_u16(), header(&response, "x-run").as_deref()), (status, Some("1")));
            let all = |name: &str| -> Vec<_> {
                response.headers().get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
            };
            assert_eq!(all("link"), ["</a>", "</b>"]);
            assert_eq!(all("content-length"), ["4"]);
            assert_eq!(all("date").len(), 1);
            let caches = all("cache-status");
            assert_eq!((caches.len(), caches[0].as_str()), (2, "inner; hit"), "the hop nearest to the client is last");
            last_members.push(caches[1].clone());
            assert_eq!(response.text().await.expect("the body is complete"), "text");
        }
        last_members.sort();
        assert_eq!(last_members.iter().map(String::as_str).map(Some).collect::<Vec<_>>(), [LED, COLLAPSED, COLLAPSED]);
    }
}

#[tokio::test]
async fn reason_phrase_and_connection_close_are_shared_unchanged() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(|_| HttpResponse::Ok().reason("Fine").force_close().body("text")));
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    let (mut first, mut second) = shared.raw_pair(&server, &[request.clone(), request], true).await;
    for client in [&mut first, &mut second] {
        let head = client.read_until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 Fine\r\n"), "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");
    }
}

#[tokio::test]
async fn responses_without_a_body_are_shared() {
    for status in [200, 204] {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(move |run| {
            let status = StatusCode::from_u16(status).expect("the response is a number");
            HttpResponse::build(status).insert_header(("x-run", run)).finish()
        }));
        for method in [Method::GET, Method::HEAD] {
            let calls: Vec<_> = (0..2).map(|_| ask(web_client().request(method.clone(), server.url("/")))).collect();
            eventually("both requests wait", || shared.flights.stats().waiting == 2).await;
            shared.work.let_finish(1);
            let responses = join_all(calls).await.into_iter().map(|response| response.expect("no panic"));
            let runs: HashSet<_> =
                responses.map(|response| (response.status().as_u16(), header(&response, "x-run"))).collect();
            assert_eq!(runs.len(), 1, "{runs:?}");
            assert_eq!(runs.into_iter().next().map(|(seen, _)| seen), Some(status));
        }
        assert_eq!(shared.work.started(), 2, "one run for each method");
    }
}

/// The followers get the same headers about a body as the leader.
#[tokio::test]
async fn head_requests_share_the_length_without_the_body() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(|_| HttpResponse::Ok().body("nine byte")));
    let calls: Vec<_> = (0..2).map(|_| ask(web_client().head(server.url("/")))).collect();
    eventually("both requests wait", || shared.flights.stats().waiting == 2).await;
    shared.work.let_finish(1);
    for response in calls {
        let response = response.await.expect("no panic");
        assert_eq!(header(&response, "content-length").as_deref(), Some("9"));
    }
}

#[tokio::test]
async fn max_body_is_the_largest_body_that_is_shared() {
    for (length, runs) in [(100, 1), (101, 2)] {
        let shared = Shared::new(FlightOptions::new().max_body(100));
        let server = Server::start(shared.app(move |_| HttpResponse::Ok().body("x".repeat(length))));
        let (first, second) = shared.two(&server, "/", "/").await;
        assert_eq!((first.body.len(), second.body.len(), shared.work.started()), (length, length, runs));
    }
}

/// A stream of known length is read and shared.
#[tokio::test]
async fn stream_of_known_length_is_shared_if_it_is_small() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(|_| {
        let parts = stream::iter([chunk("in "), chunk("parts")]);
        HttpResponse::Ok().body(SizedStream::new(8, parts))
    }));
    let (first, second) = shared.two(&server, "/", "/").await;
    assert_eq!((first, second), (Seen::new(200, LED, "in parts"), Seen::new(200, COLLAPSED, "in parts")));
    assert_eq!(shared.work.started(), 1);
}

#[tokio::test]
async fn stream_that_breaks_off_is_an_error_for_the_leader_and_the_followers_join_the_next_run() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(|run| {
        if run > 1 {
            return HttpResponse::Ok().body("whole");
        }
        let parts = stream::iter([chunk("in "), Err(io::Error::other("broken"))]);
        HttpResponse::Ok().body(SizedStream::new(8, parts))
    }));
    let (first, second) = shared.two_calls(&server, "/", "/").await;
    assert_problem(first, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#answer-broken").await;
    assert_eq!(Seen::of(second).await, Seen::new(200, LED, "whole"));
    assert_eq!((shared.work.started(), shared.work.most_inside()), (2, 1));
}
