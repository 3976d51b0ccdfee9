//! How long the permit is held.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::{MessageBody, SizedStream, to_bytes};
use actix_web::http::StatusCode;
use actix_web::web::{Bytes, get, resource};
use actix_web::{App, HttpResponse, test};
use futures::stream;
use onelane::EndpointGuard;
use onelane::web::actix::GuardMiddleware;
use onelane::web::{GuardOptions, Hold};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::responding;
use support::actix::{GET, LARGE, Server, Streams, chunk};
use support::client::{Disconnect, RawClient, eventually, web_client};

/// In the same process, because it is not observable from outside when the server takes a body in memory.
#[actix_web::test]
async fn head_keeps_or_releases_the_permit_depending_on_the_body() {
    let parts = || stream::iter([chunk("in "), chunk("parts")]);
    // Whether the permit is held under `Auto`, `Head` and `Body`.
    assert_held(|| HttpResponse::Ok().body("in memory"), [false, false, true]).await;
    assert_held(|| HttpResponse::Ok().body(""), [false, false, false]).await;
    assert_held(|| HttpResponse::NoContent().finish(), [false, false, false]).await;
    assert_held(move || HttpResponse::Ok().streaming(parts()), [true, false, true]).await;
    assert_held(move || HttpResponse::Ok().body(SizedStream::new(8, parts())), [true, false, true]).await;
    // A tunnel is not part of the handler's work.
    assert_held(move || HttpResponse::SwitchingProtocols().streaming(parts()), [false, false, false]).await;
}

#[tokio::test]
async fn dropped_call_outside_of_actix_is_cancelled() {
    let guard = Arc::new(EndpointGuard::new("bare"));
    let middleware = GuardMiddleware::new(&guard);
    let app = App::new().service(resource("/").wrap(middleware).route(get().to(std::future::pending::<String>)));
    let app = test::init_service(app).await;
    let call = test::call_service(&app, test::TestRequest::get().uri("/").to_request());
    assert!(tokio::time::timeout(Duration::from_millis(10), call).await.is_err());
    assert_eq!((guard.stats().granted, guard.stats().held, guard.stats().detached), (1, 0, 0));
}

/// The limit of a body needs a task. A response in memory, like most responses, does not need the limit.
#[actix_web::test]
async fn response_in_memory_spawns_nothing() {
    let guard = Arc::new(EndpointGuard::new("spawns"));
    let respond = || HttpResponse::Ok().body("in memory");
    let app = test::init_service(App::new().configure(responding(&guard, GuardOptions::new(), respond))).await;
    let alive = || Handle::current().metrics().num_alive_tasks();
    let before = alive();
    let response = test::call_service(&app, test::TestRequest::get().uri("/").to_request()).await;
    // A task that was spawned and aborted at once would still exist, because nothing has run since.
    assert_eq!((alive(), response.status().as_u16()), (before, 200));
}

async fn assert_held(response: impl Fn() -> HttpResponse + Send + Clone + 'static, held: [bool; 3]) {
    for (hold, held) in [Hold::Auto, Hold::Head, Hold::Body].into_iter().zip(held) {
        let guard = Arc::new(EndpointGuard::new("held"));
        let app = App::new().configure(responding(&guard, GuardOptions::new().hold(hold), response.clone()));
        let app = test::init_service(app).await;
        let request = || test::TestRequest::get().uri("/").to_request();

        let expected = response().into_body();
        let response = test::call_service(&app, request()).await;
        assert_eq!(guard.stats().held, usize::from(held), "{hold:?}, after the head: {response:?}");
        assert_eq!(response.response().body().size(), expected.size(), "{hold:?}: its size passes through");
        let body = test::read_body(response).await;
        assert_eq!(guard.stats().held, 0, "{hold:?}, after the body {body:?}");
        assert_eq!(body, to_bytes(expected).await.expect("the request succeeds"), "{hold:?}");

        drop(test::call_service(&app, request()).await);
        assert_eq!(guard.stats().held, 0, "{hold:?}, dropped unread: {body:?}");
    }
}

#[tokio::test]
async fn body_in_memory_is_read_at_the_clients_pace_while_the_next_request_runs() {
    let guard = Arc::new(EndpointGuard::new("bytes"));
    let body = Bytes::from(vec![b'x'; LARGE]);
    let respond = move || HttpResponse::Ok().body(body.clone());
    let server = Server::start(responding(&guard, GuardOptions::new(), respond));
    let mut slow = RawClient::send(server.address, GET).await;
    slow.read_until("\r\n\r\n").await;
    eventually("its permit is released", || guard.stats().held == 0).await;
    let next = server.get("/").await.expect("no panic");
    assert_eq!(next.bytes().await.expect("the body is complete").len(), LARGE);
    assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0));
}

#[tokio::test]
async fn responses_without_a_body_hold_nothing() {
    for hold in [Hold::Auto, Hold::Head, Hold::Body] {
        for status in [200, 204, 304] {
            let guard = Arc::new(EndpointGuard::new("empty"));
            let respond =
                move || HttpResponse::build(StatusCode::from_u16(status).expect("the response is a number")).finish();
            let server = Server::start(responding(&guard, GuardOptions::new().hold(hold), respond));
            for granted in 1..=2 {
                assert_eq!(server.get("/").await.expect("no panic").status(), status);
                assert_eq!((guard.stats().held, guard.stats().granted), (0, granted), "{hold:?}, {status}");
            }
        }
    }
}

#[tokio::test]
async fn head_request_releases_the_permit() {
    for hold in [Hold::Auto, Hold::Head, Hold::Body] {
        let guard = Arc::new(EndpointGuard::new("head"));
        let respond = || HttpResponse::Ok().body("nine byte");
        let server = Server::start(responding(&guard, GuardOptions::new().hold(hold), respond));
        for _ in 0..2 {
            let response = web_client().head(server.url("/")).send().await.expect("the server responds");
            assert_eq!(response.headers()["content-length"], "9");
            eventually("its permit is released", || guard.stats().held == 0).await;
        }
        assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0));
    }
}

/// actix-web drops a body that it does not send.
#[tokio::test]
async fn head_request_releases_the_permit_though_the_stream_is_open() {
    for hold in [Hold::Auto, Hold::Head, Hold::Body] {
        let streams = Streams::default();
        let (guard, server) = streaming(&streams, GuardOptions::new().hold(hold));
        let _open = [streams.open(), streams.open()];
        for _ in 0..2 {
            let response = web_client().head(server.url("/")).send().await.expect("the server responds");
            assert_eq!(response.status(), 200);
            eventually("its permit is released", || guard.stats().held == 0).await;
        }
        assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0), "{hold:?}");
    }
}

#[tokio::test]
async fn stream_holds_the_permit_until_its_end() {
    for hold in [Hold::Auto, Hold::Body] {
        let streams = Streams::default();
        let (guard, server) = streaming(&streams, GuardOptions::new().hold(hold));
        let first = streams.open();
        let mut client = RawClient::send(server.address, GET).await;
        assert!(client.read_until("\r\n\r\n").await.contains("transfer-encoding: chunked"));
        let last = streams.open();
        let next = server.get("/");
        eventually("the next request waits", || guard.stats().waiting == 1).await;
        first.unbounded_send(chunk("part")).expect("the body can be read");
        client.read_until("part").await;
        assert_eq!((guard.stats().held, guard.stats().waiting), (1, 1), "{hold:?}: the stream continues");
        drop(first);
        client.read_until("0\r\n\r\n").await;
        drop(last);
        assert_eq!(next.await.expect("no panic").status(), 200);
        eventually("no permit is held", || guard.stats().held == 0).await;
        assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0));
    }
}

#[tokio::test]
async fn stream_of_known_size_holds_the_permit_until_its_last_byte() {
    let guard = Arc::new(EndpointGuard::new("sized"));
    let streams = Streams::default();
    let respond = {
        let streams = streams.clone();
        move || HttpResponse::Ok().body(SizedStream::new(6, streams.take()))
    };
    let server = Server::start(responding(&guard, GuardOptions::new(), respond));
    let parts = streams.open();
    let mut client = RawClient::send(server.address, GET).await;
    assert!(client.read_until("\r\n\r\n").await.contains("content-length: 6"));
    parts.unbounded_send(chunk("abc")).expect("the body can be read");
    client.read_until("abc").await;
    assert_eq!(guard.stats().held, 1);
    // The stream has not ended, but the server does not poll it again.
    parts.unbounded_send(chunk("def")).expect("the body can be read");
    client.read_until("def").await;
    eventually("the permit is released", || guard.stats().held == 0).await;
    assert_eq!(guard.stats().overrun, 0);
}

#[tokio::test]
async fn stream_under_head_holds_nothing() {
    let streams = Streams::default();
    let (guard, server) = streaming(&streams, GuardOptions::new().hold(Hold::Head));
    let _open = [streams.open(), streams.open()];
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = RawClient::send(server.address, GET).await;
        client.read_until("\r\n\r\n").await;
        clients.push(client);
    }
    assert_eq!((guard.stats().held, guard.stats().granted), (0, 2));
}

#[tokio::test]
async fn client_that_stops_reading_loses_the_permit_after_body_hold_max() {
    let guard = Arc::new(EndpointGuard::new("slow reader"));
    let limit = Duration::from_millis(200);
    let respond = || {
        let page = Bytes::from_static(&[b'x'; 64 * 1024]);
        HttpResponse::Ok().streaming(stream::repeat_with(move || io::Result::Ok(page.clone())))
    };
    let server = Server::start(responding(&guard, GuardOptions::new().body_hold_max(limit), respond));
    let start = Instant::now();
    let mut slow = RawClient::send(server.address, GET).await;
    slow.read_until("\r\n\r\n").await;
    let mut next = RawClient::send(server.address, GET).await;
    eventually("the permit is granted to the next request", || guard.stats().overrun == 1).await;
    assert!(start.elapsed() >= limit, "after {:?}", start.elapsed());
    next.read_until("200 OK").await;
    assert_eq!(guard.stats().granted, 2);
    // It reads the rest without a permit.
    slow.read_until("xxx").await;
}

#[tokio::test]
async fn client_that_disconnects_in_the_middle_of_a_stream_releases_the_permit() {
    for (disconnect, half_closed) in [(Disconnect::Fin, false), (Disconnect::Rst, false), (Disconnect::Rst, true)] {
        let streams = Streams::default();
        let (guard, server) = streaming_with(&streams, GuardOptions::new(), half_closed);
        let _open = streams.open();
        let mut client = RawClient::send(server.address, GET).await;
        client.read_until("\r\n\r\n").await;
        assert_eq!(guard.stats().held, 1);
        client.disconnect(disconnect).await;
        eventually(&format!("the permit is released after {disconnect:?}"), || guard.stats().held == 0).await;
        assert_eq!(guard.stats().overrun, 0);
    }
}

/// The server notices that such a client has disconnected when it writes to it.
#[tokio::test]
async fn client_that_closes_in_the_middle_of_a_stream_releases_the_permit_with_the_next_part() {
    let streams = Streams::default();
    let (guard, server) = streaming_with(&streams, GuardOptions::new(), true);
    let parts = streams.open();
    let mut client = RawClient::send(server.address, GET).await;
    client.read_until("\r\n\r\n").await;
    client.disconnect(Disconnect::Fin).await;
    // Real time, to show that something does not happen.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(guard.stats().held, 1, "a half-closed connection may still be read");
    let is_released = || {
        // The send fails once the body has been dropped.
        let _ = parts.unbounded_send(chunk("part"));
        guard.stats().held == 0
    };
    eventually("the permit is released", is_released).await;
}

#[tokio::test]
async fn stream_that_fails_releases_the_permit() {
    let streams = Streams::default();
    let (guard, server) = streaming(&streams, GuardOptions::new());
    let parts = streams.open();
    let mut client = RawClient::send(server.address, GET).await;
    client.read_until("\r\n\r\n").await;
    assert_eq!(guard.stats().held, 1);
    parts.unbounded_send(Err(io::Error::other("broken"))).expect("the body can be read");
    eventually("the permit is released", || guard.stats().held == 0).await;
    assert_eq!(guard.stats().overrun, 0);
    drop(streams.open());
    assert_eq!(server.get("/").await.expect("no panic").status(), 200);
}

fn streaming(streams: &Streams, options: GuardOptions) -> (Arc<EndpointGuard>, Server) {
    streaming_with(streams, options, false)
}

fn streaming_with(streams: &Streams, options: GuardOptions, half_closed: bool) -> (Arc<EndpointGuard>, Server) {
    let guard = Arc::new(EndpointGuard::new("stream"));
    let streams = streams.clone();
    let respond = move || HttpResponse::Ok().streaming(streams.take());
    let server = Server::start_with(2, half_closed, responding(&guard, options, respond));
    (guard, server)
}
