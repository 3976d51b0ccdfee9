//! Event streams and WebSockets that end with their host.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Bytes, Data, Payload, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse};
use actix_ws::Message;
use futures::{StreamExt, stream};
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use onelane::web::actix::websocket;
use support::http::{self, Client, Disconnect, eventually};
use tokio::time::sleep;

use super::super::websocket_client::{assert_ends_with_close_frame, frame, websocket_client};
use super::super::{DRAIN, LONG_DRAIN, Log, MS, TestServer, note, notes, unfinished};

async fn echo(request: HttpRequest, body: Payload, host: Data<HostHandle>) -> Result<HttpResponse, Error> {
    websocket(&host, &request, body, |mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(text) = message {
                socket.session().text(text).await.unwrap();
            }
        }
    })
}

async fn send_ticks(request: HttpRequest, body: Payload, host: Data<HostHandle>) -> Result<HttpResponse, Error> {
    websocket(&host, &request, body, |mut socket| async move {
        let draining = socket.draining();
        while !draining.is_cancelled() && socket.session().text("tick").await.is_ok() {
            sleep(MS * 5).await;
        }
        assert!(socket.recv().await.is_none());
    })
}

async fn ignore_shutdown(request: HttpRequest, body: Payload, host: Data<HostHandle>) -> Result<HttpResponse, Error> {
    websocket(&host, &request, body, |socket| async move {
        std::future::pending::<()>().await;
        drop(socket);
    })
}

/// Notes when the WebSocket has ended, and when the work after it has ended.
async fn save(
    request: HttpRequest,
    body: Payload,
    host: Data<HostHandle>,
    saving: Data<(Log, Duration)>,
) -> Result<HttpResponse, Error> {
    websocket(&host, &request, body, |mut socket| async move {
        while let Some(Ok(_)) = socket.recv().await {}
        let (log, takes) = &**saving;
        note(log, "saves");
        sleep(*takes).await;
        note(log, "saved");
    })
}

/// Serves WebSockets whose handlers save something after the end.
async fn saving_server(drain: Duration, log: &Log, takes: Duration) -> TestServer {
    let saving = Data::new((Arc::clone(log), takes));
    let routes = move |app: &mut ServiceConfig, host: &HostHandle| {
        app.app_data(Data::new(host.clone())).app_data(saving.clone()).route("/", web::get().to(save));
    };
    TestServer::actix_for(drain, routes, ServeConfig::new().linger(MS * 20)).await
}

async fn events(host: Data<HostHandle>) -> HttpResponse {
    let ticks = stream::repeat(()).then(|()| async {
        sleep(MS * 5).await;
        Ok::<_, Infallible>(Bytes::from_static(b"data: tick\n\n"))
    });
    HttpResponse::Ok().content_type("text/event-stream").streaming(host.until_draining(ticks))
}

async fn server() -> TestServer {
    let routes = |app: &mut ServiceConfig, host: &HostHandle| {
        app.app_data(Data::new(host.clone()))
            .route("/", web::get().to(echo))
            .route("/ticks", web::get().to(send_ticks))
            .route("/ignores", web::get().to(ignore_shutdown))
            .route("/events", web::get().to(events));
    };
    TestServer::actix_with(routes, ServeConfig::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_stream_ends_in_order() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::get("/events")).await;
    client.until("data: tick").await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < DRAIN, "{took:?} {report:?}");
    let rest = client.rest().await;
    assert!(rest.ends_with(b"0\r\n\r\n"), "the last chunk: {:?}", String::from_utf8_lossy(&rest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_gets_a_close_frame() {
    let server = server().await;
    let mut client = websocket_client(server.address, "/").await;
    client.send(frame(1, b"hello")).await;
    client.until("hello").await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < DRAIN, "{took:?} {report:?}");
    assert_ends_with_close_frame(&client.rest().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_that_only_sends_ends_through_its_token() {
    let server = server().await;
    let mut client = websocket_client(server.address, "/ticks").await;
    client.until("tick").await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < DRAIN, "{took:?} {report:?}");
    assert_ends_with_close_frame(&client.rest().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_whose_handler_ignores_the_shutdown_is_cut_off_and_reported() {
    let server = server().await;
    let mut client = websocket_client(server.address, "/ignores").await;
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN, "{took:?} {report:?}");
    assert_eq!(unfinished(&report), [("requests", 1)], "{report:?}");
    assert!(!report.is_clean());
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_of_a_websocket_ends_after_the_websocket() {
    for leaves in [false, true] {
        let log = Log::default();
        // Longer than a worker without connections lives.
        let server = saving_server(LONG_DRAIN, &log, Duration::from_secs(2)).await;
        let mut client = websocket_client(server.address, "/").await;
        let stopping = tokio::spawn(server.stop());
        eventually("the WebSocket has ended", || notes(&log) == ["saves"]).await;
        if leaves {
            client.disconnect(Disconnect::Rst).await;
        }
        let (report, _) = stopping.await.unwrap();
        assert_eq!(notes(&log), ["saves", "saved"], "{report:?}");
        assert!(report.is_clean(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_that_continues_after_its_websocket_is_known_and_reported_if_it_is_cut_off() {
    let log = Log::default();
    let server = saving_server(DRAIN, &log, MS * 60_000).await;
    let mut client = websocket_client(server.address, "/").await;
    client.disconnect(Disconnect::Rst).await;
    eventually("the handler runs without its client", || {
        onelane::detached::running().iter().any(|work| work.name() == "websocket")
    })
    .await;
    // The handler is known before its thread has run it.
    eventually("the handler saves", || notes(&log) == ["saves"]).await;
    let (report, _) = server.stop_and_leave_no_work(|| true).await;
    assert_eq!(unfinished(&report), [("websocket", 1)], "{report:?}");
    assert!(!report.is_clean() && report.exit_code() == 1, "{report:?}");
}
