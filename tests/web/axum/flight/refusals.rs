//! Requests that get no response from the handler.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use onelane::guard::FlightErrorKind;
use onelane::web::axum::FlightLayer;
use onelane::web::{FlightOptions, Refusal, RefusalReason};
use onelane::{FlightError, SingleFlight};
use tower::ServiceExt;

use super::{Alone, Collapsed, Led, Site, numbered, part_of};
use crate::axum::refusals::is_problem;
use support::http::{self, Client, Listening, Probe, eventually, serve};

#[tokio::test]
async fn panic_of_the_handler_reaches_all_requests_and_it_is_not_run_again() {
    let site = Site::responding(FlightOptions::new(), |_| -> String { panic!("on purpose") }).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    site.probe.release(3);
    for client in &mut clients {
        let response = client.response().await;
        is_problem(&response, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked");
        assert!(!response.text().contains("on purpose"), "details of the failure are not disclosed");
        assert_eq!(response.header("retry-after"), None);
    }
    let stats = site.layer.stats();
    assert_eq!((site.probe.started(), stats.runs, stats.panicked, stats.running), (1, 1, 1, 0));
    // The connection stays open.
    clients[0].send(http::get("/")).await;
    is_problem(&clients[0].response().await, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked");
    assert_eq!(site.probe.started(), 2);
}

#[tokio::test]
async fn panic_for_a_lone_request_is_a_response_too() {
    let site = Site::responding(FlightOptions::new(), |_| -> String { panic!("on purpose") }).await;
    site.probe.release(1);
    let response = Client::sending(site.address, http::get("/")).await.response().await;
    is_problem(&response, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked");
}

#[tokio::test]
async fn request_beyond_max_waiters_is_refused_with_503() {
    let site = Site::new(FlightOptions::new().max_waiters(2)).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    let refused = Client::sending(site.address, http::get("/")).await.response().await;
    is_problem(&refused, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-waiters");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut elsewhere = site.send(&[http::get("/other")]).await;

    site.probe.release(2);
    for (client, part) in clients.iter_mut().zip([Led, Collapsed, Collapsed]) {
        assert_eq!(part_of(&client.response().await), part);
    }
    assert_eq!(part_of(&elsewhere[0].response().await), Led, "a request for something else is not affected");
    assert_eq!(site.layer.stats().refused, 1);
}

#[tokio::test]
async fn request_that_waits_too_long_is_refused_with_503_and_the_handler_dropped() {
    let site = Site::new(FlightOptions::new().max_wait(Duration::from_millis(100))).await;
    let mut clients =
        [Client::sending(site.address, http::get("/")).await, Client::sending(site.address, http::get("/")).await];
    for client in &mut clients {
        let refused = client.response().await;
        is_problem(&refused, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#timeout");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    eventually("the handlers are dropped", || site.probe.cut_off() == site.probe.started()).await;
    assert_eq!((site.layer.stats().timed_out, site.layer.stats().running), (2, 0));
}

/// The inner layer would wait for the run that the request is part of, so it passes the request through.
#[tokio::test]
async fn layer_on_a_route_and_on_its_router_is_one_layer() {
    let (layer, between) = (FlightLayer::new("twice"), FlightLayer::new("between"));
    let probe = Probe::new();
    let app = numbered(&probe, |run| run.to_string())
        .layer(layer.clone())
        .layer(between.clone())
        .layer(layer.clone())
        .layer(layer.clone());
    // The inner layer sees a different path than the outer layer.
    let app = Router::new().nest("/nested", app.clone()).fallback_service(app).layer(layer.clone());
    let site = Site { address: serve(Listening::Plain, app).await, layer, probe };
    for (path, run) in [("/", 1), ("/nested/page", 2)] {
        let mut clients = site.send(&[http::get(path), http::get(path), http::get(path)]).await;
        site.probe.release(1);
        for (client, part) in clients.iter_mut().zip(["", "; collapsed", "; collapsed"]) {
            let response = client.response().await;
            assert_eq!((response.status, response.text()), (200, &*run.to_string()), "{path}");
            let reports = response.head.lines().filter_map(|line| line.strip_prefix("cache-status: onelane; "));
            let reports: Vec<_> = reports.collect();
            assert_eq!(reports, ["fwd=miss", &format!("fwd=miss{part}")], "one of each of the two layers");
        }
        assert_eq!(
            (site.probe.started(), site.layer.stats().runs, between.stats().runs),
            (run, run as u64, run as u64)
        );
    }
    // The inner layer also passes through a request that is served alone.
    site.probe.release(1);
    let alone = Client::sending(site.address, super::with(&[("cookie", "a=1")])).await.response().await;
    assert_eq!((alone.status, part_of(&alone)), (200, Alone));
    assert_eq!((site.layer.stats().running, site.layer.stats().refused), (0, 0));
}

/// A request that a handler sends itself is a different request, which has no mark.
#[tokio::test]
async fn handler_that_asks_its_own_route_is_refused_instead_of_hanging() {
    let layer = FlightLayer::new("own");
    let itself: Arc<Mutex<Option<Router>>> = Arc::default();
    let router = Arc::clone(&itself);
    let handler = async move || {
        let router = router.lock().expect("no panic").clone().expect("the router is set");
        let request = axum::http::Request::get("/").header("host", "test").body(axum::body::Body::empty());
        router.oneshot(request.expect("the request is valid")).await
    };
    let app = Router::new().route("/", get(handler)).layer(layer.clone());
    *itself.lock().expect("no panic") = Some(app.clone());
    let response = Client::sending(serve(Listening::Plain, app).await, http::get("/")).await.response().await;
    is_problem(&response, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock");
    assert_eq!(layer.stats().running, 0);
    *itself.lock().expect("no panic") = None;
}

#[tokio::test]
async fn on_refusal_sees_the_reason_and_can_change_every_part() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_there = Arc::clone(&seen);
    let options = FlightOptions::new().max_waiters(0).on_refusal(move |refusal, _| {
        let what = (refusal.reason().clone(), refusal.status(), refusal.is_overload());
        seen_there.lock().expect("no panic").push(what);
        refusal.with_status(429).with_header("x-changed", "yes").with_body("text/plain", "later")
    });
    let site = Site::new(options).await;
    let mut first = site.send(&[http::get("/")]).await;
    let refused = Client::sending(site.address, http::get("/")).await.response().await;
    assert_eq!((refused.status, refused.text(), refused.header("x-changed")), (429, "later", Some("yes")));
    site.probe.release(1);
    assert_eq!(first[0].response().await.text(), "answer 1");
    let seen = seen.lock().expect("no panic");
    let [(RefusalReason::Flight(error), 503, true)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((error.kind(), error.name()), (FlightErrorKind::TooManyWaiters, Some("site")));
}

#[tokio::test]
async fn error_of_a_flight_in_a_handler_is_the_same_response() {
    static FLIGHT: SingleFlight<&str, (), Infallible> =
        SingleFlight::builder("by hand").max_wait(Duration::from_millis(50)).build();

    type GuardedResponse = Result<(), FlightError<Infallible>>;
    let late = async || -> GuardedResponse { FLIGHT.run("late", pending).await };
    let panicked = async || -> GuardedResponse { FLIGHT.run("panicked", || async { panic!("on purpose") }).await };
    let crowded = async || -> GuardedResponse { Err(FlightError::from_kind(FlightErrorKind::TooManyWaiters)) };
    let nested = async || -> GuardedResponse { Err(FlightError::from_kind(FlightErrorKind::WouldDeadlock)) };
    let app = Router::new()
        .route("/late", get(late))
        .route("/panicked", get(panicked))
        .route("/crowded", get(crowded))
        .route("/nested", get(nested));
    let address = serve(Listening::Plain, app).await;
    for (path, status, kind, retry_after) in [
        ("/late", 503, "https://docs.rs/onelane/latest/onelane/web/index.html#timeout", Some("1")),
        ("/panicked", 500, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked", None),
        ("/crowded", 503, "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-waiters", Some("1")),
        ("/nested", 500, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock", None),
    ] {
        let response = Client::sending(address, http::get(path)).await.response().await;
        is_problem(&response, status, kind);
        assert!(!response.text().contains("on purpose"), "details of the failure are not disclosed");
        assert_eq!(response.header("retry-after"), retry_after);
    }
}

#[tokio::test]
async fn error_of_the_work_itself_makes_its_own_response_for_all_that_share_it() {
    type Own = (StatusCode, &'static str);
    let flight: Arc<SingleFlight<(), (), Own>> = Arc::new(SingleFlight::new("by hand"));
    let probe = Probe::new();
    let handler = {
        let (flight, probe) = (Arc::clone(&flight), Arc::clone(&probe));
        async move || -> Result<(), FlightError<Own>> {
            let work = || async move {
                probe.visit().await;
                Err((StatusCode::IM_A_TEAPOT, "no coffee"))
            };
            flight.run((), work).await
        }
    };
    let address = serve(Listening::Plain, Router::new().route("/", get(handler))).await;
    let mut clients = [Client::sending(address, http::get("/")).await, Client::sending(address, http::get("/")).await];
    eventually("both requests wait", || flight.stats().waiting == 2).await;
    probe.release(1);
    for client in &mut clients {
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (418, "no coffee"));
    }
    assert_eq!(probe.started(), 1);
}

/// An error that is not a response itself, or that can't be cloned.
#[tokio::test]
async fn error_taken_apart_becomes_a_response_in_the_handler() {
    struct Own;
    let respond = |error: FlightError<Own>| match error.try_into_failure() {
        Ok(_own) => Err(StatusCode::IM_A_TEAPOT),
        Err(error) => Ok(Refusal::from(error).with_status(429)),
    };
    let app = Router::new()
        .route("/own", get(async move || respond(FlightError::failed(Own))))
        .route("/crowded", get(async move || respond(FlightError::from_kind(FlightErrorKind::TooManyWaiters))));
    let address = serve(Listening::Plain, app).await;
    assert_eq!(Client::sending(address, http::get("/own")).await.response().await.status, 418);
    let crowded = Client::sending(address, http::get("/crowded")).await.response().await;
    is_problem(&crowded, 429, "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-waiters");
}

/// No request has such a header, so it would distinguish no two users.
#[test]
#[should_panic(expected = "\"x-user \" is not a header name")]
fn key_header_with_an_invalid_name_panics() {
    let _ = FlightLayer::new("users").options(FlightOptions::new().key_header("x-user "));
}

/// No request has such a header, so the requests that it was meant for would still be served alone.
#[test]
#[should_panic(expected = "\"coo kie\" is not a header name")]
fn ignored_header_with_an_invalid_name_panics() {
    let _ = FlightLayer::new("users").options(FlightOptions::new().ignore_header("coo kie"));
}

#[test]
#[should_panic(expected = "a max_wait of zero")]
fn wait_timeout_of_zero_panics() {
    let _ = FlightLayer::new("users").options(FlightOptions::new().max_wait(Duration::ZERO));
}
