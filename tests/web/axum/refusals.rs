//! Requests that are refused, and the guard as an extractor and an error of handlers.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use onelane::guard::SharedGuard;
use onelane::web::axum::GuardLayer;
use onelane::web::{GuardOptions, GuardSource, Guarded, Refusal, RequestGuard, RequestHead};
use onelane::{AcquireError, EndpointGuard, Queue};
use serde_json::json;

use support::http::{self, Client, ClientResponse, Disconnect, Listening, Probe, bytes, eventually, serve};

pub(crate) fn is_problem(response: &ClientResponse, status: u16, kind: &str) {
    let problem = response.json();
    assert_eq!((response.status, &problem["status"], &problem["type"]), (status, &json!(status), &json!(kind)));
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    for member in ["title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
    }
}

#[tokio::test]
async fn request_beyond_the_queue_gets_a_problem() {
    let guard = Arc::new(EndpointGuard::builder("full").queue(Queue::Bounded(1)).build());
    let probe = Probe::new();
    let address = serve(Listening::Plain, crate::axum::held_route(&guard, &probe)).await;
    let mut holder = Client::sending(address, http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let mut waiter = Client::sending(address, http::get("/")).await;
    eventually("the second request waits", || guard.stats().waiting == 1).await;

    let response = Client::sending(address, http::get("/")).await.response().await;
    is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#queue-full");
    assert_eq!(response.header("retry-after"), Some("1"));

    probe.release(2);
    assert_eq!((holder.response().await.status, waiter.response().await.status), (200, 200));
}

#[tokio::test]
async fn refused_request_is_not_asked_for_its_body() {
    let guard = Arc::new(EndpointGuard::builder("busy").queue(Queue::Reject).build());
    let probe = Probe::new();
    let address = serve(Listening::Plain, crate::axum::held_route(&guard, &probe)).await;
    let mut holder = Client::sending(address, http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let head = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    let response = Client::sending(address, head).await.response().await;
    is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#busy");
    probe.release(1);
    assert_eq!(holder.response().await.status, 200);
}

#[tokio::test]
async fn refusal_can_be_changed_in_every_part() {
    let guard = Arc::new(EndpointGuard::new("changed"));
    guard.close();
    let options = GuardOptions::new().on_refusal(|refusal, _| {
        refusal.with_status(429).with_header("x-why", "closed").with_body("text/plain", "come back tomorrow")
    });
    let app = Router::new().route("/", get(async || ())).layer(GuardLayer::new(&guard).options(options));
    let response = Client::sending(serve(Listening::Plain, app).await, http::get("/")).await.response().await;
    assert_eq!((response.status, response.text()), (429, "come back tomorrow"));
    assert_eq!((response.header("content-type"), response.header("x-why")), (Some("text/plain"), Some("closed")));
}

#[tokio::test]
async fn handlers_own_error_passes_through_and_releases_the_permit() {
    let guard = Arc::new(EndpointGuard::new("own error"));
    let handler = async || Err::<(), _>((StatusCode::IM_A_TEAPOT, "no coffee"));
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::new(&guard));
    let response = Client::sending(serve(Listening::Plain, app).await, http::get("/")).await.response().await;
    assert_eq!((response.status, response.text()), (418, "no coffee"));
    assert_eq!((guard.stats().held, guard.stats().refused, guard.stats().panicked), (0, 0, 0));
}

#[tokio::test]
async fn acquire_error_and_refusal_are_responses_of_handlers() {
    static BUSY: EndpointGuard = EndpointGuard::new("busy");
    let permit = BUSY.try_acquire().expect("the permit is free");
    let by_error = async || -> Result<(), AcquireError> { BUSY.try_acquire().map(drop) };
    let by_refusal = async || -> Result<(), Refusal> {
        BUSY.try_acquire().map(drop).map_err(Refusal::from).map_err(|refusal| refusal.with_status(409))
    };
    let app = Router::new().route("/error", get(by_error)).route("/refusal", get(by_refusal));
    let address = serve(Listening::Plain, app).await;
    let response = Client::sending(address, http::get("/error")).await.response().await;
    is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#busy");
    assert_eq!(response.header("retry-after"), Some("1"));
    is_problem(
        &Client::sending(address, http::get("/refusal")).await.response().await,
        409,
        "https://docs.rs/onelane/latest/onelane/web/index.html#busy",
    );
    drop(permit);
    assert_eq!(Client::sending(address, http::get("/error")).await.response().await.status, 200);
}

/// A static guard and its name for the extractor.
macro_rules! guard_source {
    ($source:ident, $guard:expr) => {
        struct $source;
        impl $source {
            fn guard() -> SharedGuard {
                static GUARD: EndpointGuard = $guard;
                SharedGuard::from(&GUARD)
            }
        }
        impl<S> GuardSource<S> for $source {
            fn guard(_: &RequestHead<'_>, _: &S) -> RequestGuard {
                Self::guard().into()
            }
        }
    };
}

#[tokio::test]
async fn extractor_admits_one_handler_at_a_time_and_keeps_bodies() {
    guard_source!(Serial, EndpointGuard::new("serial"));
    let probe = Probe::new();
    let visitor = Arc::clone(&probe);
    let handler = async move |_turn: Guarded<Serial>, body: Bytes| {
        visitor.visit().await;
        body
    };
    let address = serve(Listening::Plain, Router::new().route("/", post(handler))).await;
    let mut first = Client::sending(address, http::post("/", b"first")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let mut second = Client::sending(address, http::post("/", &bytes(5000))).await;
    eventually("the second request waits", || Serial::guard().stats().waiting == 1).await;
    assert_eq!(probe.started(), 1);
    probe.release(2);
    assert_eq!((first.response().await.text(), second.response().await.body), ("first", bytes(5000)));
    assert_eq!(probe.most_inside(), 1);
    eventually("no permit is held", || Serial::guard().stats().held == 0).await;
}

#[tokio::test]
async fn permit_that_is_dropped_midway_admits_the_next_request() {
    guard_source!(Midway, EndpointGuard::new("midway"));
    let (inside, after) = (Probe::open(), Probe::new());
    let (visitor, rest) = (Arc::clone(&inside), Arc::clone(&after));
    let handler = async move |n: Guarded<Midway>| {
        visitor.visit().await;
        drop(n);
        rest.visit().await;
    };
    let address = serve(Listening::Plain, Router::new().route("/", get(handler))).await;
    let mut first = Client::sending(address, http::get("/")).await;
    let mut second = Client::sending(address, http::get("/")).await;
    eventually("both are past the exclusive part", || after.started() == 2).await;
    assert_eq!((Midway::guard().stats().held, inside.most_inside()), (0, 1));
    after.release(2);
    assert_eq!((first.response().await.status, second.response().await.status), (200, 200));
}

#[tokio::test]
async fn extractor_refuses_with_a_problem() {
    guard_source!(Strict, EndpointGuard::builder("strict").queue(Queue::Reject).build());
    let app = Router::new().route("/", get(async |_turn: Guarded<Strict>| "in"));
    let address = serve(Listening::Plain, app).await;
    let permit = Strict::guard().try_acquire_owned().expect("the permit is free");
    is_problem(
        &Client::sending(address, http::get("/")).await.response().await,
        503,
        "https://docs.rs/onelane/latest/onelane/web/index.html#busy",
    );
    assert_eq!(Strict::guard().stats().refused, 1);
    drop(permit);
    assert_eq!(Client::sending(address, http::get("/")).await.response().await.text(), "in");
    Strict::guard().close();
    is_problem(
        &Client::sending(address, http::get("/")).await.response().await,
        503,
        "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
    );
}

#[tokio::test]
async fn extractor_under_the_layer_of_its_own_guard_is_refused() {
    guard_source!(Twice, EndpointGuard::new("twice"));
    let handler = async |_turn: Guarded<Twice>| ();
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::new(Twice::guard()));
    let response = Client::sending(serve(Listening::Plain, app).await, http::get("/")).await.response().await;
    is_problem(&response, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock");
}

/// A body that is unread while an extractor waits hides that the client has disconnected, unless the listener is
/// watched.
#[tokio::test]
async fn extractor_stops_waiting_when_its_client_disconnects() {
    guard_source!(Left, EndpointGuard::new("left"));
    let probe = Probe::open();
    let visitor = Arc::clone(&probe);
    let handler = async move |_turn: Guarded<Left>, _: Bytes| visitor.visit().await;
    let app = Router::new().route("/", get(async |_: Guarded<Left>| ()).post(handler));
    let watched = serve(Listening::Watched, app.clone()).await;
    let plain = serve(Listening::Plain, app).await;
    let permit = Left::guard().try_acquire_owned().expect("the permit is free");
    let requests = [(plain, http::get("/").into_bytes()), (watched, http::post("/", &bytes(60_000)))];
    for (address, request) in requests {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            let mut client = Client::sending(address, &request).await;
            eventually("the request waits", || Left::guard().stats().waiting == 1).await;
            client.disconnect(disconnect).await;
            eventually("the request has left the queue", || Left::guard().stats().waiting == 0).await;
        }
    }
    drop(permit);
    assert_eq!((Left::guard().stats().held, probe.started()), (0, 0));
}
