//! Handlers that acquire their own guard again.

use std::io;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::web::{Bytes, get, resource, scope};
use futures::stream;
use onelane::offload::from_thread::block_on;
use onelane::web::actix::{FlightMiddleware, GuardMiddleware, blocking_handler, cpu_handler};
use onelane::web::{GuardOptions, GuardSource, Guarded, RequestGuard, RequestHead};
use onelane::{AcquireError, EndpointGuard, KeyedGuard};

use super::responding;
use support::actix::{Server, assert_problem};
use support::client::eventually;
use support::waiting::soon;

#[tokio::test]
async fn acquire_behind_the_middleware_of_the_same_guard_is_an_error() {
    static GUARD: EndpointGuard = EndpointGuard::new("nested");

    async fn handler() -> Result<&'static str, AcquireError> {
        let _permit = GUARD.acquire().await?;
        Ok("never")
    }
    let server = Server::start(|config| {
        config.service(resource("/").wrap(GuardMiddleware::new(&GUARD)).route(get().to(handler)));
    });
    for granted in 1..=2 {
        let response = server.get("/").await.expect("no panic");
        assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock")
            .await;
        assert_eq!((GUARD.stats().held, GUARD.stats().granted, GUARD.stats().refused), (0, granted, granted));
    }
}

#[tokio::test]
async fn extractor_behind_the_middleware_of_the_same_guard_is_an_error() {
    static GUARD: EndpointGuard = EndpointGuard::new("nested extractor");
    struct Nested;
    impl<S> GuardSource<S> for Nested {
        fn guard(_: &RequestHead<'_>, _: &S) -> RequestGuard {
            RequestGuard::from(&GUARD)
        }
    }
    let server = Server::start(|config| {
        let handler = |_: Guarded<Nested>| async { "never" };
        config.service(resource("/").wrap(GuardMiddleware::new(&GUARD)).route(get().to(handler)));
    });
    let response = server.get("/").await.expect("no panic");
    assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock").await;
    assert_eq!(GUARD.stats().held, 0);
}

#[tokio::test]
async fn middleware_added_twice_returns_an_error_instead_of_hanging() {
    for (permits, status) in [(1, 500), (2, 200)] {
        let guard = Arc::new(EndpointGuard::builder("twice").permits(permits).build());
        let server = Server::start({
            let guard = Arc::clone(&guard);
            move |config| {
                let inner = resource("/").wrap(GuardMiddleware::new(&guard)).route(get().to(|| async { "done" }));
                config.service(scope("").wrap(GuardMiddleware::new(&guard)).service(inner));
            }
        });
        for _ in 0..2 {
            let response = server.get("/").await.expect("no panic");
            if status == 500 {
                assert_problem(
                    response,
                    500,
                    None,
                    "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock",
                )
                .await;
            } else {
                assert_eq!(response.status(), status, "one permit for each");
            }
            assert_eq!(guard.stats().held, 0);
        }
    }
}

type Call = fn(&EndpointGuard) -> Result<(), AcquireError>;

#[tokio::test]
async fn handlers_on_pools_that_acquire_the_guard_of_their_middleware_are_refused() {
    let calls: [Call; 3] = [
        |guard| guard.acquire_blocking().map(drop),
        |guard| block_on(guard.acquire()).expect("the thread may block").map(drop),
        |guard| block_on(guard.run(async {})).expect("the thread may block"),
    ];
    let guard = Arc::new(EndpointGuard::new("pooled"));
    for call in calls {
        let server = Server::start({
            let guard = Arc::clone(&guard);
            move |config| {
                let guard = Arc::clone(&guard);
                let inner = Arc::clone(&guard);
                let function = move || call(&inner).map(|()| "never");
                let blocking = get().to(blocking_handler(function.clone()));
                config.service(resource("/blocking").wrap(GuardMiddleware::new(&guard)).route(blocking));
                let cpu = get().to(cpu_handler(function));
                config.service(resource("/cpu").wrap(GuardMiddleware::new(&guard)).route(cpu));
            }
        });
        for path in ["/blocking", "/cpu", "/blocking", "/cpu"] {
            let response = soon("the request is refused", server.get(path)).await.expect("no panic");
            assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock")
                .await;
            eventually("the guard is free", || (guard.stats().held, guard.stats().waiting) == (0, 0)).await;
        }
    }
    assert_eq!((guard.stats().refused, guard.stats().granted), (12, 12));
}

#[tokio::test]
async fn handlers_on_pools_that_acquire_the_key_of_their_middleware_are_refused() {
    let guard = Arc::new(KeyedGuard::<u32>::new("pooled key"));
    let server = Server::start({
        let guard = Arc::clone(&guard);
        move |config| {
            for (path, key) in [("/own", 7), ("/other", 8)] {
                let inner = Arc::clone(&guard);
                let function = move || inner.acquire_blocking(key).map(|_permit| "other");
                let middleware = GuardMiddleware::keyed(&guard, |_: &ServiceRequest| Some(7));
                config.service(resource(path).wrap(middleware).route(get().to(blocking_handler(function))));
            }
        }
    });
    let response = soon("the request is refused", server.get("/own")).await.expect("no panic");
    assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock").await;
    eventually("the key is free", || guard.is_empty()).await;
    let response = server.get("/other").await.expect("no panic");
    assert_eq!(response.text().await.expect("the body is complete"), "other");
}

/// The handler of a flight runs in a task of its own.
#[tokio::test]
async fn handler_of_a_flight_that_acquires_a_guard_around_the_flight_is_refused() {
    let guard = Arc::new(EndpointGuard::new("around a flight"));
    let server = Server::start({
        let guard = Arc::clone(&guard);
        move |config| {
            let inner = Arc::clone(&guard);
            let handler = move || {
                let inner = Arc::clone(&inner);
                async move { inner.acquire().await.map(|_permit| "never") }
            };
            let flight = FlightMiddleware::new("in a guard");
            config.service(resource("/").wrap(flight).wrap(GuardMiddleware::new(&guard)).route(get().to(handler)));
        }
    });
    let response = soon("the request is refused", server.get("/")).await.expect("no panic");
    assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock").await;
    eventually("the guard is free", || guard.stats().held == 0).await;
}

/// The stream is part of the work that the permit is held for.
#[tokio::test]
async fn acquire_in_a_stream_that_holds_the_permit_is_an_error() {
    let guard = Arc::new(EndpointGuard::new("nested stream"));
    let respond = {
        let guard = Arc::clone(&guard);
        move || {
            let nested = Arc::clone(&guard).acquire_owned();
            let text =
                async move { nested.await.map_or_else(|error| format!("{:?}", error.kind()), |_| "acquired".into()) };
            HttpResponse::Ok().streaming(stream::once(async { io::Result::Ok(Bytes::from(text.await)) }))
        }
    };
    let server = Server::start(responding(&guard, GuardOptions::new(), respond));
    let response = server.get("/").await.expect("no panic");
    assert_eq!(response.text().await.expect("the body is complete"), "WouldDeadlock");
    eventually("no permit is held", || guard.stats().held == 0).await;
}
