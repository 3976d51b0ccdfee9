//! Panics, errors and refusals.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{DefaultHeaders, Next, from_fn};
use actix_web::web::{get, resource, scope};
use actix_web::{HttpResponse, error};
use onelane::guard::FlightErrorKind;
use onelane::web::actix::{FlightMiddleware, GuardBody};
use onelane::web::{FlightOptions, Refusal, RefusalReason};

use super::{COLLAPSED, LED, Seen, Shared, header, numbered};
use support::actix::{Server, ask, assert_problem, lock};
use support::client::{eventually, web_client};

#[tokio::test]
async fn panic_is_the_same_response_for_all_and_the_worker_survives() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start_with(
        2,
        false,
        shared.app(|run| {
            assert_ne!(run, 1, "panic requested by the test");
            HttpResponse::Ok().body(run.to_string())
        }),
    );
    let calls: Vec<_> = (0..4).map(|_| server.get("/")).collect();
    eventually("all requests wait", || shared.flights.stats().waiting == 4).await;
    shared.work.let_finish(1);
    for response in calls {
        let response = response.await.expect("no panic here");
        assert_eq!(header(&response, "cache-status"), None, "no request was served");
        assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked").await;
    }
    assert_eq!(shared.work.started(), 1, "the handler is not run again");
    shared.work.let_finish(4);
    for run in ["2", "3", "4", "5"] {
        assert_eq!(Seen::of(server.get("/").await.expect("no panic")).await, Seen::new(200, LED, run));
    }
    assert_eq!((shared.flights.stats().panicked, shared.flights.stats().runs), (1, 5));
}

#[tokio::test]
async fn panic_for_a_lone_request_is_its_response() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(|run| panic!("panic requested by the test, in run {run}")));
    shared.work.let_finish(1);
    let response = server.get("/").await.expect("no panic here");
    assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked").await;
    shared.is_over().await;
}

/// actix-web's middlewares see a handler's error as a response, so it is shared like any other response.
#[tokio::test]
async fn error_returned_by_the_handler_is_shared_as_the_response_it_becomes() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start({
        let shared = shared.clone();
        move |config| {
            let work = Arc::clone(&shared.work);
            let fails = move || {
                let work = Arc::clone(&work);
                async move {
                    work.run().await;
                    Err::<&str, _>(error::ErrorNotFound(format!("none in run {}", work.started())))
                }
            };
            config.service(resource("/").wrap(shared.flights.clone()).route(get().to(fails)));
        }
    });
    let (first, second) = shared.two(&server, "/", "/").await;
    let text = "none in run 1";
    assert_eq!((first, second), (Seen::new(404, LED, text), Seen::new(404, COLLAPSED, text)));
}

/// An error of a service, such as a middleware's, can't be cloned.
#[tokio::test]
async fn error_of_an_inner_middleware_goes_to_its_own_request_and_the_others_share_the_next_run() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start({
        let shared = shared.clone();
        move |config| {
            let work = Arc::clone(&shared.work);
            let fails_first = move |request: ServiceRequest, next: Next<BoxBody>| {
                let work = Arc::clone(&work);
                async move {
                    work.run().await;
                    if work.started() == 1 {
                        Err(error::ErrorImATeapot("short and stout"))
                    } else {
                        next.call(request).await
                    }
                }
            };
            let inner = resource("/").wrap(from_fn(fails_first)).wrap(shared.flights.clone());
            config.service(inner.route(get().to(|| async { "done" })));
        }
    });
    let first = server.get("/");
    eventually("the first request leads", || shared.work.inside() == 1).await;
    let others: Vec<_> = (0..3).map(|_| server.get("/")).collect();
    eventually("the others wait for the first run", || shared.flights.stats().waiting == 4).await;
    shared.work.let_finish(1);
    let first = Seen::of(first.await.expect("no panic")).await;
    assert_eq!(first, Seen::new(418, None, "short and stout"));
    eventually("the others share the next run", || shared.flights.stats().waiting == 3 && shared.work.inside() == 1)
        .await;
    shared.work.let_finish(1);
    let mut led = 0;
    for other in others {
        let seen = Seen::of(other.await.expect("no panic")).await;
        led += usize::from(seen == Seen::new(200, LED, "done"));
        assert!(seen == Seen::new(200, LED, "done") || seen == Seen::new(200, COLLAPSED, "done"), "{seen:?}");
    }
    assert_eq!(led, 1);
    shared.work.hold_all();
    // An error says nothing about the next response, which may be shared.
    let (first, second) = shared.two(&server, "/", "/").await;
    assert_eq!((first, second), (Seen::new(200, LED, "done"), Seen::new(200, COLLAPSED, "done")));
    assert_eq!((shared.work.started(), shared.flights.stats().runs), (3, 3));
}

#[tokio::test]
async fn one_waiter_too_many_gets_503_while_the_others_keep_waiting() {
    let shared = Shared::new(FlightOptions::new().max_waiters(1));
    let server = Server::start(shared.app(numbered));
    let calls = [server.get("/"), server.get("/")];
    eventually("two requests wait", || shared.flights.stats().waiting == 2).await;
    let refused = server.get("/").await.expect("no panic");
    assert_problem(refused, 503, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-waiters")
        .await;
    shared.work.let_finish(1);
    for response in calls {
        assert_eq!(response.await.expect("no panic").status(), 200);
    }
    assert_eq!((shared.work.started(), shared.flights.stats().refused), (1, 1));
    shared.is_over().await;
}

#[tokio::test]
async fn every_waiter_gets_503_after_the_wait_timeout_including_the_leader_and_the_handler_is_dropped() {
    let shared = Shared::new(FlightOptions::new().max_wait(Duration::from_millis(200)));
    let server = Server::start(shared.app(numbered));
    let calls: Vec<_> = (0..3).map(|_| server.get("/")).collect();
    for response in calls {
        assert_problem(
            response.await.expect("no panic"),
            503,
            Some("1"),
            "https://docs.rs/onelane/latest/onelane/web/index.html#timeout",
        )
        .await;
    }
    eventually("every handler is dropped", || shared.work.cut() == shared.work.started()).await;
    assert_eq!(shared.flights.stats().timed_out, 3);
    shared.is_over().await;
}

#[tokio::test]
async fn every_refusal_passes_through_on_refusal() {
    let seen: Arc<Mutex<Vec<RefusalReason>>> = Arc::default();
    let options = {
        let seen = Arc::clone(&seen);
        FlightOptions::new().max_waiters(1).on_refusal(move |refusal: Refusal, _| {
            lock(&seen).push(refusal.reason().clone());
            refusal.with_status(420).with_type("https://example.org/no").with_header("x-seen", "yes")
        })
    };
    let shared = Shared::new(options);
    let server = Server::start(shared.app(|_| panic!("panic requested by the test")));
    let calls = [server.get("/"), server.get("/")];
    eventually("two requests wait", || shared.flights.stats().waiting == 2).await;
    let mut responses = vec![(server.get("/").await.expect("no panic"), Some("1"))];
    shared.work.let_finish(1);
    for call in calls {
        responses.push((call.await.expect("no panic"), None));
    }
    for (response, retry_after) in responses {
        assert_eq!(response.headers()["x-seen"], "yes");
        assert_problem(response, 420, retry_after, "https://example.org/no").await;
    }
    let reasons = lock(&seen).clone();
    let is = |reason: &RefusalReason, kind| matches!(reason, RefusalReason::Flight(error) if *error == kind);
    assert!(is(&reasons[0], FlightErrorKind::TooManyWaiters), "{reasons:?}");
    assert_eq!(reasons.len(), 3, "once for each response");
    for reason in &reasons[1..] {
        assert!(is(reason, FlightErrorKind::Panicked), "{reasons:?}");
    }
}

/// The inner middleware would wait for the run that the request is part of, so it passes the request through.
#[tokio::test]
async fn middleware_on_a_resource_and_on_its_scope_is_one_middleware() {
    let shared = Shared::new(FlightOptions::new());
    let between = FlightMiddleware::new("between");
    let server = Server::start({
        let (shared, between) = (shared.clone(), between.clone());
        move |config| {
            let inner = resource("/{page}").wrap(shared.flights.clone()).wrap(between.clone());
            let inner = inner.route(get().to(shared.handler(numbered)));
            config.service(scope("").wrap(shared.flights.clone()).service(inner));
        }
    });
    for run in 1..=2 {
        let (first, second) = shared.two_calls(&server, "/page", "/page").await;
        for (response, part) in [(first, LED), (second, COLLAPSED)] {
            let reports: Vec<_> = response.headers().get_all("cache-status").iter().cloned().collect();
            assert_eq!(reports, [LED, part].map(|report| report.expect("it is one")), "one of each middleware");
            assert_eq!((response.status().as_u16(), response.text().await.expect("whole")), (200, run.to_string()));
        }
        assert_eq!((shared.work.started(), between.stats().runs), (run, run as u64));
    }
    assert_eq!((shared.flights.stats().runs, shared.flights.stats().refused), (2, 0));
    shared.is_over().await;
}

/// Outer middlewares change responses, not errors.
#[tokio::test]
async fn outer_middleware_sees_a_response_for_every_request_of_a_run_that_panics_or_takes_too_long() {
    for (options, kind, status) in [
        (FlightOptions::new(), "panicked", 500),
        (FlightOptions::new().max_wait(Duration::from_millis(300)), "timeout", 503),
    ] {
        let shared = Shared::new(options);
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let server = Server::start({
            let (shared, seen) = (shared.clone(), Arc::clone(&seen));
            move |config| {
                let seen = Arc::clone(&seen);
                let note = move |request: ServiceRequest, next: Next<_>| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let response: ServiceResponse<GuardBody<BoxBody>> = next.call(request).await?;
                        let request = response.request();
                        let agent = request.headers().get("x-agent").map(|agent| agent.as_bytes().to_vec());
                        let what = (request.method(), request.uri(), request.path(), request.query_string());
                        assert!(request.peer_addr().is_some() && request.connection_info().host() == "test");
                        lock(&seen).push(format!("{what:?} {agent:?}"));
                        Ok(response)
                    }
                };
                let inner = resource("/page").wrap(shared.flights.clone()).wrap(from_fn(note));
                let inner = inner.wrap(DefaultHeaders::new().add(("x-outer", "yes")));
                let handler = shared.handler(|_| panic!("panic requested by the test"));
                config.service(inner.route(get().to(handler)));
            }
        });
        let request = || web_client().get(server.url("/page?a=1")).header("x-agent", "7").header("host", "test");
        let calls: Vec<_> = (0..4).map(|_| ask(request())).collect();
        eventually("all requests wait", || shared.flights.stats().waiting == 4).await;
        if status == 500 {
            shared.work.let_finish(1);
        }
        for call in calls {
            let response = call.await.expect("no panic");
            assert_eq!(header(&response, "x-outer").as_deref(), Some("yes"), "{kind}");
            let retry_after = (status == 503).then_some("1");
            let uri = format!("https://docs.rs/onelane/latest/onelane/web/index.html#{kind}");
            assert_problem(response, status, retry_after, &uri).await;
        }
        let seen = lock(&seen).clone();
        assert_eq!(seen.len(), 4, "{kind}: {seen:?}");
        assert!(seen.iter().all(|one| *one == seen[0] && one.contains("/page?a=1")), "{seen:?}");
        shared.is_over().await;
    }
}
