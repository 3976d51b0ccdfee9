//! Clients that disconnect while their handler runs.

use std::sync::Arc;
use std::thread::{self};
use std::time::{Duration, Instant};

use actix_web::dev::Service;
use actix_web::test::{TestRequest, init_service};
use actix_web::web::{get, resource};
use actix_web::{App, HttpRequest, HttpServer};
use onelane::EndpointGuard;
use onelane::web::actix::GuardMiddleware;
use onelane::web::{GuardOptions, OnDisconnect};
use tokio::time::sleep;
use tracing::Instrument;

use super::guarded;
use support::actix::{GET, Server, Work};
use support::client::{Disconnect, RawClient, eventually};
use support::spans::{SpanNotes, enable_spans};

/// What happens to a running handler whose client disconnects.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// Nothing: the handler continues where it is.
    Nothing,
    /// The handler continues in its own task.
    Detached,
    /// The handler is dropped.
    Cut,
}

/// With half-closed connections, actix-web's default, a client that closes its connection has only finished
/// sending.
const CASES: [(Disconnect, bool); 4] =
    [(Disconnect::Fin, true), (Disconnect::Rst, true), (Disconnect::Fin, false), (Disconnect::Rst, false)];

#[tokio::test]
async fn finish_runs_the_handler_to_its_end_with_its_permit_however_the_client_disconnects() {
    for (disconnect, half_closed) in CASES {
        let seen = if disconnect == Disconnect::Fin && half_closed { Seen::Nothing } else { Seen::Detached };
        client_disconnects(OnDisconnect::Finish, disconnect, half_closed, seen).await;
    }
}

#[tokio::test]
async fn cancel_drops_the_handler_unless_the_connection_may_be_half_closed() {
    for (disconnect, half_closed) in CASES {
        let seen = if disconnect == Disconnect::Fin && half_closed { Seen::Nothing } else { Seen::Cut };
        client_disconnects(OnDisconnect::Cancel, disconnect, half_closed, seen).await;
    }
}

async fn client_disconnects(on_disconnect: OnDisconnect, disconnect: Disconnect, half_closed: bool, seen: Seen) {
    let case = format!("{on_disconnect:?}, {disconnect:?}, half_closed {half_closed}");
    let (guard, work) = (Arc::new(EndpointGuard::new("left")), Arc::new(Work::default()));
    let options = GuardOptions::new().on_disconnect(on_disconnect);
    let server = Server::start_with(2, half_closed, guarded(&guard, options, &work));
    let disconnecting = RawClient::send(server.address, GET).await;
    eventually("the handler runs", || work.inside() == 1).await;
    let next = server.get("/next");
    eventually("the next request waits", || guard.stats().waiting == 1).await;

    disconnecting.disconnect(disconnect).await;
    match seen {
        // There is no event to wait for, so this gives the server the time in which it happens otherwise.
        Seen::Nothing => sleep(Duration::from_millis(100)).await,
        Seen::Detached => eventually(&format!("{case}: detached"), || guard.stats().detached == 1).await,
        Seen::Cut => eventually(&format!("{case}: cut off"), || work.cut() == 1).await,
    }
    if seen != Seen::Cut {
        assert_eq!((work.started(), work.inside(), work.cut()), (1, 1, 0), "{case}: the handler holds the permit");
        assert_eq!((guard.stats().held, guard.stats().waiting), (1, 1), "{case}");
        assert_eq!(guard.stats().detached, u64::from(seen == Seen::Detached), "{case}");
        work.let_finish(1);
    }
    eventually(&format!("{case}: the next request runs"), || work.started() == 2).await;
    work.let_finish(1);
    assert_eq!(next.await.expect("no panic").status(), 200, "{case}");
    eventually("no permit is held", || guard.stats().held == 0).await;
    let stats = guard.stats();
    assert_eq!((work.most_inside(), work.cut()), (1, usize::from(seen == Seen::Cut)), "{case}");
    assert_eq!(stats.finished_detached, u64::from(seen == Seen::Detached), "{case}");
    assert_eq!((stats.granted, stats.waiting, stats.detached), (2, 0, 0), "{case}");
}

#[tokio::test]
async fn handler_without_its_client_is_dropped_after_max_run() {
    let (guard, work) = (Arc::new(EndpointGuard::new("endless")), Arc::new(Work::default()));
    let options = GuardOptions::new().max_run(Duration::from_millis(100));
    let server = Server::start(guarded(&guard, options, &work));
    // The limit applies only to handlers whose client has disconnected, not to this one.
    let stays = server.get("/");
    eventually("the handler runs", || work.inside() == 1).await;
    sleep(Duration::from_millis(150)).await;
    work.let_finish(1);
    assert_eq!(stays.await.expect("no panic").status(), 200);

    let disconnecting = RawClient::send(server.address, GET).await;
    eventually("the handler runs", || work.inside() == 1).await;
    let left = Instant::now();
    disconnecting.disconnect(Disconnect::Rst).await;
    eventually("the handler is cut off", || work.cut() == 1).await;
    assert!(left.elapsed() >= Duration::from_millis(100), "cut off after {:?}", left.elapsed());
    work.let_finish(1);
    assert_eq!(server.get("/").await.expect("no panic").status(), 200);
    let stats = guard.stats();
    assert_eq!((stats.finished_detached, stats.detached, stats.held, stats.granted), (0, 0, 0, 3));
}

/// actix-web also runs on `#[tokio::main]`, without its own system.
#[tokio::test]
async fn handler_finishes_without_its_client_on_a_server_in_a_tokio_runtime() {
    let (guard, work) = (Arc::new(EndpointGuard::new("tokio")), Arc::new(Work::default()));
    let server = Server::serve_in_tokio({
        let app = guarded(&guard, GuardOptions::new(), &work);
        move || {
            let server = HttpServer::new(move || App::new().configure(app.clone())).workers(2).disable_signals();
            let server = server.bind("127.0.0.1:0").expect("a port is free");
            (server.addrs()[0], server.run())
        }
    });
    let disconnecting = RawClient::send(server.address, GET).await;
    eventually("the handler runs", || work.inside() == 1).await;
    disconnecting.disconnect(Disconnect::Rst).await;
    eventually("the handler continues alone", || guard.stats().detached == 1).await;
    work.let_finish(1);
    eventually("the handler has finished", || guard.stats().finished_detached == 1).await;
    assert_eq!((work.finished(), work.cut(), guard.stats().held), (1, 0, 0));
}

#[tokio::test]
async fn panic_releases_the_permit_and_the_worker_survives() {
    let guard = Arc::new(EndpointGuard::new("panics"));
    let work = Arc::new(Work::default());
    let server = Server::start_with(1, false, {
        let (guard, work) = (Arc::clone(&guard), Arc::clone(&work));
        move |config| {
            let work = Arc::clone(&work);
            let handler = move |request: HttpRequest| {
                let work = Arc::clone(&work);
                async move {
                    work.run().await;
                    assert_ne!(request.query_string(), "panic", "panic requested by the test");
                    format!("{:?}", thread::current().id())
                }
            };
            config.service(resource("/").wrap(GuardMiddleware::new(&guard)).route(get().to(handler)));
        }
    });
    work.let_finish(1);
    let before = server.get("/").await.expect("no panic").text().await.expect("the body is complete");

    // First with its client connected, then without.
    for panicked in 1..=2 {
        let client = RawClient::send(server.address, "GET /?panic HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        eventually("the handler runs", || work.inside() == 1).await;
        let next = server.get("/");
        eventually("the next request waits", || guard.stats().waiting == 1).await;
        if panicked == 2 {
            client.disconnect(Disconnect::Fin).await;
            eventually("the handler continues alone", || guard.stats().detached == 1).await;
        }
        work.let_finish(1);
        eventually("the panic releases the permit", || guard.stats().panicked == panicked).await;
        eventually("the next request is inside", || work.inside() == 1).await;
        work.let_finish(1);
        let after = next.await.expect("no panic").text().await.expect("the body is complete");
        assert_eq!(after, before, "served by the same worker thread");
    }
    let stats = guard.stats();
    assert_eq!((stats.held, stats.detached, stats.finished_detached, stats.granted), (0, 0, 0, 5));
}

/// A middleware that instruments requests, such as that of tracing-actix-web, is around the guard.
#[actix_web::test]
async fn handler_without_its_client_goes_on_in_the_span_of_its_request() {
    let _spans = enable_spans();
    let (guard, work, notes) = (Arc::new(EndpointGuard::new("span")), Arc::new(Work::default()), SpanNotes::default());
    let (running, noted) = (Arc::clone(&work), notes.clone());
    let handler = move || {
        let (running, noted) = (Arc::clone(&running), noted.clone());
        async move {
            noted.note();
            running.run().await;
            noted.note();
            "done"
        }
    };
    let app = App::new()
        .wrap(GuardMiddleware::new(&guard))
        .wrap_fn(|request, service| service.call(request).instrument(tracing::info_span!("request")))
        .default_service(get().to(handler));
    let app = init_service(app).await;
    let mut disconnecting = tokio_test::task::spawn(app.call(TestRequest::get().to_request()));
    assert!(disconnecting.poll().is_pending());
    drop(disconnecting);
    assert_eq!((guard.stats().detached, work.inside()), (1, 1));
    work.let_finish(1);
    eventually("it has finished", || guard.stats().detached == 0).await;
    assert_eq!(notes.names(), [Some("request"); 2]);
}
