//! Event streams and WebSockets that end with their host.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::routing::any;
use futures::{StreamExt, stream};
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use onelane::web::axum::{DrainingSocket, websocket};
use support::http::{self, Client};
use tokio::time::sleep;

use super::websocket_client::{assert_ends_with_close_frame, close_frame, frame, websocket_client};
use super::{DRAIN, MS, TestServer, unfinished};

/// Less than the time that the server has to end.
const SOON: Duration = Duration::from_millis(400);

async fn server_of<F, R>(handler: F) -> TestServer
where
    F: Fn(HostHandle, WebSocketUpgrade) -> R + Clone + Send + Sync + 'static,
    R: axum::response::IntoResponse,
{
    let route = |host: HostHandle| {
        Router::new().route("/", any(move |upgrade: WebSocketUpgrade| async move { handler(host, upgrade) }))
    };
    TestServer::axum_with(route, ServeConfig::new()).await
}

fn echo(host: &HostHandle, upgrade: WebSocketUpgrade) -> axum::response::Response {
    websocket(host, upgrade, |mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_)) {
                socket.send(message).await.unwrap();
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_stream_ends_in_order() {
    let route = |host: HostHandle| {
        let events = move || async move {
            let ticks = stream::repeat(()).then(|()| async {
                sleep(MS * 5).await;
                Ok::<_, Infallible>(Event::default().data("tick"))
            });
            Sse::new(host.until_draining(ticks))
        };
        Router::new().route("/", any(events))
    };
    let server = TestServer::axum_with(route, ServeConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    client.until("data: tick").await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < SOON, "{took:?} {report:?}");
    let rest = client.rest().await;
    assert!(rest.ends_with(b"0\r\n\r\n"), "the last chunk: {:?}", String::from_utf8_lossy(&rest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_gets_a_close_frame_and_the_server_waits_until_it_is_confirmed() {
    let server = server_of(|host, upgrade| echo(&host, upgrade)).await;
    let mut client = websocket_client(server.address, "/").await;
    client.send(frame(1, b"hello")).await;
    client.until("hello").await;
    let stopping = tokio::spawn(server.stop());
    client.until("the server stops").await;
    // Sent before the client has seen the close frame.
    client.send(frame(1, b"more")).await;
    sleep(MS * 50).await;
    assert!(!stopping.is_finished(), "the server waits for the client");
    client.send(close_frame()).await;
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && took < DRAIN, "{took:?} {report:?}");
    assert_ends_with_close_frame(&client.rest().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_whose_client_does_not_answer_is_cut_off_and_reported() {
    let server = server_of(|host, upgrade| echo(&host, upgrade)).await;
    let mut client = websocket_client(server.address, "/").await;
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN && took < DRAIN * 5, "{took:?} {report:?}");
    assert_eq!(unfinished(&report), [("requests", 1)], "{report:?}");
    assert!(!report.is_clean());
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_that_only_sends_ends_through_its_token() {
    let send_ticks = |mut socket: DrainingSocket| async move {
        let draining = socket.draining();
        while !draining.is_cancelled() && socket.send(Message::text("tick")).await.is_ok() {
            sleep(MS * 5).await;
        }
        assert!(socket.recv().await.is_none());
    };
    let server = server_of(move |host, upgrade| websocket(&host, upgrade, send_ticks)).await;
    let mut client = websocket_client(server.address, "/").await;
    client.until("tick").await;
    let stopping = tokio::spawn(server.stop());
    client.until("the server stops").await;
    client.send(close_frame()).await;
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && took < DRAIN, "{took:?} {report:?}");
}
