//! Clients that disconnect while their request waits.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Bytes, PayloadConfig, post, resource};
use onelane::EndpointGuard;
use onelane::web::GuardOptions;
use onelane::web::actix::GuardMiddleware;
use tokio::time::sleep;

use super::{guarded, post_of};
use support::actix::{GET, LARGE, Server, Work};
use support::client::{Disconnect, RawClient, eventually, web_client};

#[tokio::test]
async fn request_never_runs_after_its_client_disconnected() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        queued_client_disconnects(GET.into(), disconnect, false).await;
    }
}

/// A reset connection counts as disconnected even where half-closed connections are still served.
#[tokio::test]
async fn request_never_runs_after_its_client_reset_where_connections_may_be_half_closed() {
    queued_client_disconnects(GET.into(), Disconnect::Rst, true).await;
}

/// Unread bodies that almost fill actix-web's buffers, and that just fill them.
#[tokio::test]
async fn request_with_an_unread_body_never_runs_after_its_client_disconnected() {
    for length in [10, 60_000, 64 * 1024] {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            queued_client_disconnects(post_of(length), disconnect, false).await;
        }
    }
}

#[tokio::test]
async fn request_that_withholds_its_body_never_runs_after_its_client_disconnected() {
    let head = "POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 65536\r\n\r\n";
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        queued_client_disconnects(head.into(), disconnect, false).await;
    }
}

/// Neither the queued request nor the one pipelined behind it on the same connection.
#[tokio::test]
async fn pipelined_requests_never_run_after_their_client_disconnected() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        queued_client_disconnects(GET.repeat(2), disconnect, false).await;
    }
}

async fn queued_client_disconnects(bytes: String, disconnect: Disconnect, half_closed: bool) {
    let case = format!("{} bytes, {disconnect:?}, half_closed {half_closed}", bytes.len());
    let (guard, work) = (Arc::new(EndpointGuard::new("queue")), Arc::new(Work::default()));
    let server = Server::start_with(2, half_closed, guarded(&guard, GuardOptions::new(), &work));
    let holder = server.get("/");
    eventually("the first request is inside", || work.inside() == 1).await;
    let mut disconnecting = RawClient::send(server.address, &bytes).await;
    eventually("one request waits", || guard.stats().waiting == 1).await;
    let next = server.get("/");
    eventually("the next request waits", || guard.stats().waiting == 2).await;
    if bytes.contains("100-continue") {
        // Requested with `100 Continue`, and not sent.
        disconnecting.read_until("100 Continue\r\n\r\n").await;
    }

    disconnecting.disconnect(disconnect).await;
    eventually(&format!("the request leaves the queue: {case}"), || guard.stats().waiting == 1).await;
    work.let_finish(2);
    assert_eq!(holder.await.expect("no panic").status(), 200, "{case}");
    assert_eq!(next.await.expect("no panic").status(), 200, "{case}");
    work.let_finish(1);
    assert_eq!(server.get("/").await.expect("no panic").status(), 200, "{case}");
    eventually("no permit is held", || guard.stats().held == 0).await;
    let stats = guard.stats();
    assert_eq!((work.started(), work.most_inside(), work.cut()), (3, 1, 0), "{case}");
    assert_eq!((stats.granted, stats.cancelled, stats.waiting, stats.finished_detached), (3, 1, 0, 0), "{case}");
}

/// actix-web's default, and the reason why the examples change it: such a client has only finished sending.
#[tokio::test]
async fn request_stays_in_the_queue_after_its_client_closed_where_connections_may_be_half_closed() {
    let (guard, work) = (Arc::new(EndpointGuard::new("half closed")), Arc::new(Work::default()));
    let server = Server::start_with(2, true, guarded(&guard, GuardOptions::new(), &work));
    let holder = server.get("/");
    eventually("the first request is inside", || work.inside() == 1).await;
    let closed = RawClient::send(server.address, GET).await;
    eventually("the second request waits", || guard.stats().waiting == 1).await;
    closed.disconnect(Disconnect::Fin).await;
    work.let_finish(2);
    assert_eq!(holder.await.expect("no panic").status(), 200);
    eventually("the request runs", || work.finished() == 2).await;
    assert_eq!(guard.stats().cancelled, 0);
}

/// A limit of actix-web: while its buffers are full, it checks the connection only when the body is read. A reset
/// is not noticed either.
#[tokio::test]
async fn request_with_more_body_than_the_buffers_hold_stays_in_the_queue_after_its_client_disconnected() {
    let (guard, work) = (Arc::new(EndpointGuard::new("large body")), Arc::new(Work::default()));
    let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
    let holder = server.get("/");
    eventually("the first request is inside", || work.inside() == 1).await;
    let disconnecting = RawClient::send(server.address, post_of(512 * 1024)).await;
    eventually("the second request waits", || guard.stats().waiting == 1).await;
    disconnecting.disconnect(Disconnect::Fin).await;
    let next = server.get("/");
    eventually("the next request waits", || guard.stats().waiting == 2).await;
    // Real time, to show that nothing happens.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(guard.stats().waiting, 2);
    // It is granted its permit and releases it, so no request behind it is delayed.
    work.let_finish(3);
    assert_eq!(holder.await.expect("no panic").status(), 200);
    assert_eq!(next.await.expect("no panic").status(), 200);
    eventually("no permit is held", || guard.stats().held == 0).await;
    assert_eq!((work.most_inside(), guard.stats().granted, guard.stats().cancelled), (1, 3, 0));
}

#[tokio::test]
async fn request_that_waits_gets_its_whole_body() {
    let guard = Arc::new(EndpointGuard::new("body"));
    let server = Server::start({
        let guard = Arc::clone(&guard);
        move |config| {
            let echo = resource("/").app_data(PayloadConfig::new(LARGE)).wrap(GuardMiddleware::new(&guard));
            config.service(echo.route(post().to(|body: Bytes| async { body })));
        }
    });
    let permit = guard.try_acquire().expect("the permit is free");
    let body = "x".repeat(1 << 20);
    let call = tokio::spawn(web_client().post(server.url("/")).body(body.clone()).send());
    eventually("the request waits", || guard.stats().waiting == 1).await;
    drop(permit);
    let response = call.await.expect("no panic").expect("the server responds");
    assert_eq!(response.text().await.expect("the body is complete"), body);
}
