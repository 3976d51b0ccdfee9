//! When background tasks of axum start: after each kind of response, whether or not the client reads.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::get;
use futures::stream;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::web::{BackgroundTasks, BackgroundTasksConfig, TaskStart};
use support::http::{self, Client, eventually};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::background_tasks::{noting, server};
use super::{Log, MS, notes};

/// The kinds of responses, whose ends servers write in different ways.
fn responses(log: &Log) -> Router {
    let add = |tasks: &BackgroundTasks, log: &Log| tasks.add_task(noting(log, "runs")).unwrap();
    let [a, b, c, d] = [log, log, log, log].map(Arc::clone);
    Router::new()
        .route(
            "/no-content",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &a);
                StatusCode::NO_CONTENT
            }),
        )
        .route(
            "/short",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &b);
                "short"
            }),
        )
        .route(
            "/chunked",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &c);
                let chunks = stream::unfold(0, |n| async move {
                    sleep(MS * 5).await;
                    (n < 3).then(|| (Ok::<_, std::io::Error>(Bytes::from_static(b"chunk")), n + 1))
                });
                Body::from_stream(chunks)
            }),
        )
        .route(
            "/long",
            get(move |tasks: BackgroundTasks| async move {
                add(&tasks, &d);
                vec![b'x'; 8 << 20]
            }),
        )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_start_after_each_kind_of_response() {
    let log = Log::default();
    let server = server(responses(&log), BackgroundTasksConfig::new()).await;
    let requests = ["/no-content", "/short", "/chunked", "/long"].map(http::get);
    let head = [http::request("HEAD", "/short"), http::request("HEAD", "/long")].map(|head| head + "\r\n");
    for (n, request) in requests.into_iter().chain(head).enumerate() {
        let mut client = Client::sending(server.address, &request).await;
        eventually(&format!("the task after {request:?} runs"), || {
            // Reading takes place in the kernel for all but the long response.
            notes(&log).len() > n || request.contains("/long")
        })
        .await;
        if request.starts_with("GET /long") {
            assert_eq!(notes(&log).len(), n, "8 MiB do not fit into the kernel's buffers");
            assert_eq!(client.response().await.body.len(), 8 << 20);
            eventually("the task runs", || notes(&log).len() > n).await;
        }
        eventually("the task runs", || notes(&log).len() == n + 1).await;
    }
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_http2_start_when_the_client_has_made_room_for_the_whole_response() {
    let log = Log::default();
    let server = server(responses(&log), BackgroundTasksConfig::new()).await;
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    for (n, path) in ["/no-content", "/short", "/chunked", "/long"].into_iter().enumerate() {
        let request = hyper::Request::get(format!("http://test{path}")).body(Empty::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        if path == "/long" {
            sleep(MS * 50).await;
            assert_eq!(notes(&log).len(), n, "the window of the stream is smaller than the response");
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len() == 8 << 20, path == "/long");
        eventually(&format!("the task after {path} runs"), || notes(&log).len() == n + 1).await;
    }
    drop(sender);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_of_the_body_tasks_start_before_a_slow_client_has_read_it() {
    let log = Log::default();
    let server = server(responses(&log), BackgroundTasksConfig::new().start(TaskStart::BodyEnd)).await;
    let client = Client::sending(server.address, http::get("/long")).await;
    eventually("the task runs", || notes(&log) == ["runs"]).await;
    drop(client);
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}
