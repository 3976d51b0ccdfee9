//! Handlers that acquire their own guard again.

use std::io;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Bytes, get, resource, scope};
use futures::stream;
use onelane::web::actix::GuardMiddleware;
use onelane::web::{GuardOptions, GuardSource, Guarded, RequestGuard, RequestHead};
use onelane::{AcquireError, EndpointGuard};

use super::responding;
use support::actix::{Server, assert_problem};
use support::client::eventually;

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
