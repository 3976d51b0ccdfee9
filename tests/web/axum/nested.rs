//! Handlers on pools that acquire the guard that they run behind.

use std::sync::Arc;

use axum::Router;
use axum::http::request::Parts;
use axum::routing::{MethodRouter, get};
use onelane::offload::from_thread::block_on;
use onelane::web::axum::{FlightLayer, GuardLayer, blocking_handler, cpu_handler};
use onelane::{AcquireError, EndpointGuard, KeyedGuard};

use tokio::task::yield_now;

use support::http::{Client, Listening, eventually, get as get_request, serve, soon};

const WOULD_DEADLOCK: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock";

async fn assert_refused(route: MethodRouter, is_free: impl Fn() -> bool) {
    let address = serve(Listening::Watched, Router::new().route("/", route)).await;
    for _ in 0..2 {
        let response = soon(async { Client::sending(address, get_request("/")).await.response().await }).await;
        assert_eq!((response.status, response.json()["type"].as_str()), (500, Some(WOULD_DEADLOCK)));
        eventually("the guard is free", &is_free).await;
    }
}

type Call = fn(&EndpointGuard) -> Result<(), AcquireError>;

#[tokio::test]
async fn handlers_on_pools_that_acquire_the_guard_of_their_layer_are_refused() {
    let calls: [Call; 3] = [
        |guard| guard.acquire_blocking().map(drop),
        |guard| block_on(guard.acquire()).expect("the thread may block").map(drop),
        |guard| block_on(guard.run(async {})).expect("the thread may block"),
    ];
    let guard = Arc::new(EndpointGuard::new("pooled"));
    for call in calls {
        let layer = || GuardLayer::new(&guard);
        let is_free = || guard.stats().held == 0 && guard.stats().waiting == 0;
        let inner = Arc::clone(&guard);
        let function = move || call(&inner).map(|()| "never");
        assert_refused(get(blocking_handler(function.clone())).layer(layer()), is_free).await;
        assert_refused(get(cpu_handler(function)).layer(layer()), is_free).await;
    }
    assert_eq!((guard.stats().refused, guard.stats().granted), (12, 12));
}

/// A handler with two clients runs in a driver task.
#[tokio::test]
async fn handler_of_a_flight_that_acquires_a_guard_around_the_flight_is_refused() {
    let guard = Arc::new(EndpointGuard::builder("around a flight").permits(2).build());
    let flight = FlightLayer::new("in a guard");
    let handler = {
        let (guard, flight) = (Arc::clone(&guard), flight.clone());
        move || async move {
            eventually("the run has two clients", || flight.stats().shared == 1).await;
            yield_now().await;
            guard.acquire().await.map(|_permit| "never")
        }
    };
    let app = Router::new().route("/", get(handler)).layer(flight).layer(GuardLayer::new(&guard));
    let address = serve(Listening::Plain, app).await;
    let ask = || async { Client::sending(address, get_request("/")).await.response().await };
    let (one, other) = soon(async { tokio::join!(ask(), ask()) }).await;
    for response in [one, other] {
        assert_eq!((response.status, response.json()["type"].as_str()), (500, Some(WOULD_DEADLOCK)));
    }
    eventually("the guard is free", || guard.stats().held == 0).await;
}

#[tokio::test]
async fn handlers_on_pools_that_acquire_the_key_of_their_layer_are_refused() {
    let guard = Arc::new(KeyedGuard::<u32>::new("pooled key"));
    let layer = || GuardLayer::keyed(&guard, |_: &Parts| Some(7));
    let call = {
        let guard = Arc::clone(&guard);
        move || guard.acquire_blocking(7).map(|_permit| "never")
    };
    assert_refused(get(blocking_handler(call.clone())).layer(layer()), || guard.is_empty()).await;
    assert_refused(get(cpu_handler(call)).layer(layer()), || guard.is_empty()).await;
    // Another key is free.
    let other = {
        let guard = Arc::clone(&guard);
        move || guard.acquire_blocking(8).map(|_permit| "other")
    };
    let app = Router::new().route("/", get(blocking_handler(other)).layer(layer()));
    let address = serve(Listening::Plain, app).await;
    assert_eq!(Client::sending(address, get_request("/")).await.response().await.text(), "other");
}
