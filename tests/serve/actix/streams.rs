//! Event streams and WebSockets that end with their host.

use std::convert::Infallible;

use actix_web::web::{self, Bytes, Data, Payload, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse};
use actix_ws::Message;
use futures::{StreamExt, stream};
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use onelane::web::actix::websocket;
use support::http::{self, Client};
use tokio::time::sleep;

use super::super::websocket_client::{assert_ends_with_close_frame, frame, websocket_client};
use super::super::{DRAIN, MS, TestServer, unfinished};

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
