//! Requests that are refused get a response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use http_body_util::BodyExt;
use onelane::guard::{AcquireErrorKind, FlightErrorKind};
use onelane::offload::OffloadErrorKind;
use onelane::web::tower::GuardBody;
use onelane::web::{GuardOptions, Refusal, RefusalReason};
use onelane::{AcquireError, EndpointGuard, FlightError, OffloadError, Queue};
use serde_json::{Value, json};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::tower::{AnyBytes, Received, call, held, layer, layer_with, request};
use support::http::Probe;

fn problem(response: Response<GuardBody<AnyBytes>>) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let (hint, ended) = (response.body().size_hint().exact(), response.body().is_end_stream());
    let bytes = tokio_test::block_on(response.into_body().collect()).expect("the client is connected").to_bytes();
    assert_eq!((hint, ended), (Some(bytes.len() as u64), false));
    serde_json::from_slice(&bytes).expect("the body is JSON")
}

fn refused(guard: &Arc<EndpointGuard>) -> Response<GuardBody<AnyBytes>> {
    assert_ready_ok!(call(&layer(guard), held(&Probe::new()), request()).poll())
}

fn retry_after(guard: &Arc<EndpointGuard>) -> String {
    let response = refused(guard);
    assert_eq!(response.status(), 503);
    response.headers()["retry-after"].to_str().expect("the header is text").into()
}

fn is_problem(response: Response<GuardBody<AnyBytes>>, status: u16, kind: &str, retry_after: Option<&str>) {
    assert_eq!(response.status(), status);
    assert_eq!(
        response.headers().get("retry-after").map(|after| after.to_str().expect("the header is text")),
        retry_after
    );
    let problem = problem(response);
    let members: Vec<_> = problem.as_object().expect("the problem is an object").keys().collect();
    assert_eq!(members.len(), 4, "type, title, status, detail: {members:?}");
    assert_eq!((&problem["type"], &problem["status"]), (&json!(kind), &json!(status)));
    assert!(problem["title"].is_string() && problem["detail"].is_string());
}

#[test]
fn full_guard_without_a_queue_is_busy() {
    let guard = Arc::new(EndpointGuard::builder("busy").queue(Queue::Reject).build());
    let _permit = guard.try_acquire().expect("the permit is free");
    is_problem(refused(&guard), 503, "https://docs.rs/onelane/latest/onelane/web/index.html#busy", Some("1"));
    assert_eq!(guard.stats().refused, 1);
}

#[test]
fn headers_set_by_hand_replace_the_default_ones_and_may_repeat() {
    let guard = Arc::new(EndpointGuard::builder("headers").queue(Queue::Reject).build());
    let _permit = guard.try_acquire().expect("the permit is free");
    let options = GuardOptions::new().on_refusal(|refusal, _| {
        refusal
            .with_header("Retry-After", "7")
            .with_header("content-type", "application/json")
            .with_header("link", "</a>")
            .with_header("link", "</b>")
    });
    let response = assert_ready_ok!(call(&layer_with(&guard, options), held(&Probe::new()), request()).poll());
    let all = |name: &str| response.headers().get_all(name).iter().cloned().collect::<Vec<_>>();
    assert_eq!(all("retry-after"), ["7"]);
    assert_eq!(all("content-type"), ["application/json"]);
    assert_eq!(all("link"), ["</a>", "</b>"]);
}

#[test]
fn full_queue_refuses_the_newest() {
    let guard = Arc::new(EndpointGuard::builder("full").queue(Queue::Bounded(1)).build());
    let _permit = guard.try_acquire().expect("the permit is free");
    let mut waiter = call(&layer(&guard), held(&Probe::new()), request());
    assert_pending!(waiter.poll());
    is_problem(refused(&guard), 503, "https://docs.rs/onelane/latest/onelane/web/index.html#queue-full", Some("1"));
    assert_eq!(guard.stats().waiting, 1);
}

#[test]
fn closed_guard_refuses_without_retry_after() {
    let guard = Arc::new(EndpointGuard::new("closed"));
    let permit = guard.try_acquire().expect("the permit is free");
    let mut waiter = call(&layer(&guard), held(&Probe::new()), request());
    assert_pending!(waiter.poll());
    guard.close();
    assert!(waiter.is_woken());
    is_problem(
        assert_ready_ok!(waiter.poll()),
        503,
        "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
        None,
    );
    drop(permit);
    is_problem(refused(&guard), 503, "https://docs.rs/onelane/latest/onelane/web/index.html#closed", None);
}

#[tokio::test(start_paused = true)]
async fn wait_that_takes_too_long_is_refused() {
    let max_wait = Duration::from_secs(2);
    let guard = Arc::new(EndpointGuard::builder("timeout").max_wait(max_wait).build());
    let _permit = guard.try_acquire().expect("the permit is free");
    let probe = Probe::new();
    let mut waiter = call(&layer(&guard), held(&probe), request());
    assert_pending!(waiter.poll());
    advance(max_wait - Duration::from_millis(1)).await;
    assert_pending!(waiter.poll());
    advance(Duration::from_millis(2)).await;
    let response = assert_ready_ok!(waiter.poll());
    assert_eq!(
        (response.status(), response.headers()["retry-after"].as_bytes()),
        (http::StatusCode::SERVICE_UNAVAILABLE, &b"1"[..])
    );
    assert_eq!((guard.stats().timed_out, guard.stats().waiting, probe.started()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn grant_that_is_not_taken_in_time_is_refused() {
    let limit = Duration::from_secs(1);
    let guard = Arc::new(EndpointGuard::builder("expired").grant_timeout(limit).build());
    let permit = guard.try_acquire().expect("the permit is free");
    let mut sleeper = call(&layer(&guard), held(&Probe::new()), request());
    assert_pending!(sleeper.poll());
    drop(permit);
    advance(limit * 2).await;
    drop(guard.try_acquire().expect("the grant that is not taken is revoked"));
    let response = assert_ready_ok!(sleeper.poll());
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
}

/// Every error and its response.
#[test]
fn errors_become_the_problems_of_the_table() {
    let cases = [
        (
            AcquireErrorKind::GrantExpired,
            503,
            "https://docs.rs/onelane/latest/onelane/web/index.html#grant-expired",
            Some("1"),
        ),
        (
            AcquireErrorKind::WouldDeadlock,
            500,
            "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock",
            None,
        ),
        (AcquireErrorKind::Closed, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#closed", None),
        (
            AcquireErrorKind::BlockingInAsync,
            500,
            "https://docs.rs/onelane/latest/onelane/web/index.html#blocking-in-async",
            None,
        ),
    ];
    for (error, status, kind, retry_after) in cases {
        let error = AcquireError::from(error);
        let refusal = Refusal::from(error.clone());
        assert_eq!((refusal.reason(), refusal.status()), (&RefusalReason::Guard(error), status));
        assert_eq!(refusal.retry_after().is_some(), retry_after.is_some());
        // Through the layer, which builds the response.
        let guard = Arc::new(EndpointGuard::new("any"));
        guard.close();
        let options = GuardOptions::new().on_refusal(move |_, _| refusal.clone());
        let response = assert_ready_ok!(call(&layer_with(&guard, options), held(&Probe::new()), request()).poll());
        is_problem(response, status, kind, retry_after);
    }
}

/// Holds `guard` for `length`, measured, and leaves it full.
async fn measure(guard: &Arc<EndpointGuard>, length: Duration) -> Vec<onelane::OwnedPermit> {
    let fill = || -> Vec<_> {
        let permits = guard.stats().permits;
        (0..permits).map(|_| Arc::clone(guard).try_acquire_owned().expect("the permit is free")).collect()
    };
    let untimed = fill();
    // The guard measures hold times only once a caller has been refused.
    guard.try_acquire().expect_err("it is full");
    drop(untimed);
    let timed = fill();
    advance(length).await;
    drop(timed);
    fill()
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_mean_hold_time_for_each_waiter_before() {
    let guard = Arc::new(EndpointGuard::builder("retry").queue(Queue::Bounded(2)).build());
    let _permits = measure(&guard, Duration::from_secs(10)).await;
    let mut waiters = [(); 2].map(|()| call(&layer(&guard), held(&Probe::new()), request()));
    waiters.iter_mut().for_each(|waiter| assert_pending!(waiter.poll()));
    assert_eq!(retry_after(&guard), "30");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_divided_by_the_permits() {
    let guard = Arc::new(EndpointGuard::builder("retry").permits(4).queue(Queue::Bounded(1)).build());
    let _permits = measure(&guard, Duration::from_secs(10)).await;
    let mut waiter = call(&layer(&guard), held(&Probe::new()), request());
    assert_pending!(waiter.poll());
    // 10 s × 2 ÷ 4
    assert_eq!(retry_after(&guard), "5");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_rounded_up_from_one_second_to_an_hour() {
    let cases =
        [(1, "1"), (999, "1"), (1000, "1"), (1001, "2"), (10_500, "11"), (3_599_001, "3600"), (9_000_000, "3600")];
    for (millis, expected) in cases {
        let guard = Arc::new(EndpointGuard::builder("retry").queue(Queue::Reject).build());
        let _permits = measure(&guard, Duration::from_millis(millis)).await;
        assert_eq!(retry_after(&guard), expected, "{millis} ms");
    }
}

#[test]
fn on_refusal_changes_every_part() {
    let guard = Arc::new(EndpointGuard::builder("changed").queue(Queue::Reject).build());
    let _permit = guard.try_acquire().expect("the permit is free");
    let options = GuardOptions::new().on_refusal(|refusal, _| {
        assert!(matches!(refusal.reason(), RefusalReason::Guard(error) if *error == AcquireErrorKind::Busy));
        refusal
            .with_status(409)
            .with_retry_after(Some(Duration::from_millis(1500)))
            .with_type("https://example.com/taken")
            .with_title("Taken")
            .with_detail("Another client is configuring this device.")
            .with_header("x-one", "1")
            .with_header("x-two", "2")
    });
    let response = assert_ready_ok!(call(&layer_with(&guard, options), held(&Probe::new()), request()).poll());
    let headers = response.headers();
    assert_eq!((response.status().as_u16(), &headers["retry-after"]), (409, &"2".parse().expect("a value")));
    assert_eq!([&headers["x-one"], &headers["x-two"]], ["1", "2"]);
    let expected = json!({
        "type": "https://example.com/taken", "title": "Taken", "status": 409,
        "detail": "Another client is configuring this device.",
    });
    assert_eq!(problem(response), expected);
}

#[test]
fn on_refusal_replaces_the_body_and_drops_retry_after() {
    let guard = Arc::new(EndpointGuard::builder("changed").queue(Queue::Reject).build());
    let _permit = guard.try_acquire().expect("the permit is free");
    let options = GuardOptions::new()
        .on_refusal(|refusal, _| refusal.with_retry_after(None).with_body("text/html", "<p>busy, come back</p>"));
    let response = assert_ready_ok!(call(&layer_with(&guard, options), held(&Probe::new()), request()).poll());
    assert_eq!(
        (&response.headers()["content-type"], response.headers().get("retry-after")),
        (&"text/html".parse().expect("a value"), None)
    );
    let body = tokio_test::block_on(response.into_body().collect()).expect("the client is connected").to_bytes();
    assert_eq!(body, Bytes::from("<p>busy, come back</p>"));
}

#[test]
#[should_panic(expected = "a status from 400 to 599")]
fn refusal_with_a_status_of_success_panics() {
    let _ = Refusal::from(AcquireError::from(AcquireErrorKind::Closed)).with_status(200);
}

#[test]
#[should_panic(expected = "is not a header value")]
fn refusal_with_a_line_break_in_a_header_panics() {
    let _ = Refusal::from(AcquireError::from(AcquireErrorKind::Closed)).with_header("x-name", "a\r\nset-cookie: b");
}

#[test]
fn error_of_the_service_passes_through() {
    #[derive(Debug, PartialEq)]
    struct Own(u32);
    let guard = Arc::new(EndpointGuard::new("error"));
    let failing = service_fn(async |_: Received| -> Result<Response<AnyBytes>, Own> { Err(Own(7)) });
    let error = assert_ready_err!(call(&layer(&guard), failing, request()).poll());
    assert_eq!((error, guard.stats().held), (Own(7), 0));
}

#[test]
fn error_of_readiness_passes_through() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Received> for NeverReady {
        type Response = Response<AnyBytes>;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Response<AnyBytes>, &'static str>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), &'static str>> {
            std::task::Poll::Ready(Err("not ready"))
        }
        fn call(&mut self, _: Received) -> Self::Future {
            panic!("the service is not ready")
        }
    }
    let guard = Arc::new(EndpointGuard::new("ready"));
    let mut call = tokio_test::task::spawn(layer(&guard).layer(NeverReady).oneshot(request()));
    assert_eq!(assert_ready!(call.poll()).map(drop), Err("not ready"));
    assert_eq!((guard.stats().granted, guard.stats().held), (1, 0), "the service is polled with the permit held");
}

/// The service that was polled ready serves the request, not its clone, because a service may have reserved something.
#[test]
fn service_that_was_polled_ready_is_the_one_that_is_called() {
    struct Reserves(bool);
    impl Clone for Reserves {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Received> for Reserves {
        type Response = Response<AnyBytes>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<AnyBytes>, Infallible>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Received) -> Self::Future {
            assert!(self.0, "called without a reservation");
            std::future::ready(Ok(Response::new(crate::tower::empty())))
        }
    }
    let guard = Arc::new(EndpointGuard::new("reserve"));
    let mut call = tokio_test::task::spawn(layer(&guard).layer(Reserves(false)).oneshot(request()));
    assert_ready_ok!(call.poll());
}

#[test]
fn retry_after_of_an_overload_is_that_of_its_error() {
    let after = Duration::from_secs(9);
    let full = OffloadError::from(OffloadErrorKind::Full);
    assert_eq!(Refusal::from(full.clone()).retry_after(), Some(Duration::from_secs(1)));
    assert_eq!(Refusal::from(full.with_retry_after(after)).retry_after(), Some(after));
    let closed = OffloadError::from(OffloadErrorKind::Closed).with_retry_after(after);
    assert_eq!(Refusal::from(closed).retry_after(), None);
    let flight = FlightError::<Infallible>::from_kind(FlightErrorKind::TooManyWaiters);
    assert_eq!(Refusal::from(flight.clone()).retry_after(), Some(Duration::from_secs(1)));
    let flight = flight.with_retry_after(after);
    assert_eq!((flight.retry_after(), flight.clone() == flight), (Some(after), true));
    assert_eq!(Refusal::from(flight).retry_after(), Some(after));
}
