//! The guard as an extractor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::web::route;
use futures::future::join_all;
use onelane::web::{GuardSource, Guarded, RequestGuard, RequestHead};
use onelane::{EndpointGuard, Queue};

use support::actix::{GET, Server, Work, assert_problem};
use support::client::{Disconnect, RawClient, eventually};

/// A guard for one test, and the work of the handlers behind it.
macro_rules! source {
    ($source:ident, $guard:expr) => {
        static GUARD: EndpointGuard = $guard;
        struct $source;
        impl<S> GuardSource<S> for $source {
            fn guard(_: &RequestHead<'_>, _: &S) -> RequestGuard {
                RequestGuard::from(&GUARD)
            }
        }
    };
}

#[tokio::test]
async fn handlers_that_extract_a_permit_run_one_at_a_time() {
    source!(Report, EndpointGuard::new("report"));
    let work = Arc::new(Work::default());
    work.let_finish(1000);
    let server = Server::start({
        let work = Arc::clone(&work);
        move |config| {
            let work = Arc::clone(&work);
            config.default_service(route().to(move |n: Guarded<Report>| {
                let work = Arc::clone(&work);
                async move {
                    // Named here; otherwise the closure would drop it before the handler starts.
                    let _turn = n;
                    work.run().await;
                    "done"
                }
            }));
        }
    });
    let responses = join_all((0..20).map(|i| server.get(&format!("/{i}"))));
    for response in responses.await {
        assert_eq!(response.expect("no panic").status(), 200);
    }
    assert_eq!((work.finished(), work.most_inside()), (20, 1));
    let stats = GUARD.stats();
    assert_eq!((stats.granted, stats.held, stats.waiting), (20, 0, 0));
    assert!(stats.queued > 0, "no request had to wait, so the test proved nothing");
}

#[tokio::test]
async fn permit_dropped_midway_admits_the_next_while_the_handler_continues() {
    source!(Report, EndpointGuard::new("report"));
    let (inside, beyond) = (Arc::new(Work::default()), Arc::new(Work::default()));
    let server = Server::start({
        let (inside, beyond) = (Arc::clone(&inside), Arc::clone(&beyond));
        move |config| {
            let (inside, beyond) = (Arc::clone(&inside), Arc::clone(&beyond));
            config.default_service(route().to(move |n: Guarded<Report>| {
                let (inside, beyond) = (Arc::clone(&inside), Arc::clone(&beyond));
                async move {
                    inside.run().await;
                    drop(n);
                    beyond.run().await;
                    "done"
                }
            }));
        }
    });
    let calls: Vec<_> = (0..3).map(|_| server.get("/")).collect();
    eventually("two requests wait", || GUARD.stats().waiting == 2).await;
    inside.let_finish(3);
    eventually("all three have released their permit", || beyond.inside() == 3).await;
    assert_eq!((inside.most_inside(), GUARD.stats().held), (1, 0));
    beyond.let_finish(3);
    for response in join_all(calls).await {
        assert_eq!(response.expect("no panic").status(), 200);
    }
}

#[tokio::test]
async fn refused_permit_is_the_response_and_the_handler_does_not_run() {
    source!(Report, EndpointGuard::builder("report").queue(Queue::Reject).build());
    let runs = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let runs = Arc::clone(&runs);
        move |config| {
            let runs = Arc::clone(&runs);
            config.default_service(route().to(move |n: Guarded<Report>| {
                runs.fetch_add(1, Ordering::Relaxed);
                drop(n.into_permit());
                async { "done" }
            }));
        }
    });
    let permit = GUARD.try_acquire().expect("the permit is free");
    assert_problem(
        server.get("/").await.expect("no panic"),
        503,
        Some("1"),
        "https://docs.rs/onelane/latest/onelane/web/index.html#busy",
    )
    .await;
    drop(permit);
    assert_eq!(server.get("/").await.expect("no panic").status(), 200);
    GUARD.close();
    assert_problem(
        server.get("/").await.expect("no panic"),
        503,
        None,
        "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
    )
    .await;
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn client_that_disconnects_takes_its_waiter_or_its_running_handler_with_it() {
    source!(Report, EndpointGuard::new("report"));
    let work = Arc::new(Work::default());
    let server = Server::start({
        let work = Arc::clone(&work);
        move |config| {
            let work = Arc::clone(&work);
            config.default_service(route().to(move |n: Guarded<Report>| {
                let work = Arc::clone(&work);
                async move {
                    // Named here; otherwise the closure would drop it before the handler starts.
                    let _turn = n;
                    work.run().await;
                    "done"
                }
            }));
        }
    });
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let cut = work.cut();
        let running = RawClient::send(server.address, GET).await;
        eventually("one request runs", || work.inside() == 1).await;
        let queued = RawClient::send(server.address, GET).await;
        eventually("one request waits", || GUARD.stats().waiting == 1).await;
        queued.disconnect(disconnect).await;
        eventually("the request leaves the queue", || GUARD.stats().waiting == 0).await;
        assert_eq!(work.cut(), cut, "{disconnect:?}: the other request still runs");
        running.disconnect(disconnect).await;
        eventually("the handler is cancelled and its permit released", || work.cut() > cut && GUARD.stats().held == 0)
            .await;
    }
    assert_eq!((work.started(), work.finished(), GUARD.stats().granted), (2, 0, 2));
}
