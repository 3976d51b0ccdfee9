//! What a client is doing when the server drains, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::web::ServeConfig;
use support::http::{self, Client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{DRAIN, MS, SLOW, TestServer};

/// Less than the time for which a connection lingers.
const AT_ONCE: Duration = Duration::from_millis(200);

async fn server() -> TestServer {
    TestServer::start(ServeConfig::new()).await
}

fn is_in_time(took: Duration) -> bool {
    // The margin is for a busy machine.
    took < DRAIN + Duration::from_secs(2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clients_the_server_ends_at_once() {
    let (report, took) = server().await.stop().await;
    assert!(report.is_clean() && took < AT_ONCE, "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_is_idle_for_longer_than_it_lingers_is_closed_at_once() {
    let server = TestServer::start(ServeConfig::new().linger(MS * 20)).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.text(), "hello");
    sleep(MS * 50).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < AT_ONCE, "{took:?} {report:?}");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_on_a_connection_that_was_in_use_until_now_is_served() {
    let server = TestServer::start(ServeConfig::new().linger(MS * 300)).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.header("connection"), None);
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 50).await;
    client.send(http::get("/slow")).await;
    let response = client.response().await;
    assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
    assert_eq!(client.rest().await, b"");
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && is_in_time(took), "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connection_whose_request_is_on_its_way_is_served() {
    let server = server().await;
    let mut client = Client::connect(server.address).await;
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 50).await;
    client.send(http::get("/")).await;
    assert_eq!(client.response().await.text(), "hello");
    assert!(stopping.await.unwrap().0.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_have_arrived_before_the_listener_closes_are_served() {
    for _ in 0..20 {
        let server = server().await;
        server.host.request_shutdown();
        // The kernel accepts connections whether the server has begun to drain or not.
        let connecting = (0..10).map(|_| TcpStream::connect(server.address));
        let connected = join_all(connecting).await.into_iter().flatten();
        let served = join_all(connected.map(|mut client| async move {
            client.write_all(http::get("/").as_bytes()).await?;
            let mut response = String::new();
            client.read_to_string(&mut response).await.map(|_| response)
        }));
        for response in served.await {
            assert!(response.as_ref().is_ok_and(|response| response.ends_with("hello")), "{response:?}");
        }
        assert!(server.stop().await.0.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_in_flight_ends_and_its_connection_is_closed() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::get("/slow")).await;
    eventually("the handler runs", || server.logged() == ["begins"]).await;
    let log = Arc::clone(&server.log);
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < SLOW + AT_ONCE, "{took:?} {report:?}");
    assert_eq!(*log.lock().unwrap(), ["begins", "ends"]);
    let response = client.response().await;
    assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_header_does_not_keep_the_server() {
    let server = server().await;
    let mut client = Client::sending(server.address, "GET / HTTP/1.1\r\nhost: te").await;
    sleep(MS * 30).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < DRAIN, "it lingers like any idle connection: {took:?} {report:?}");
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_that_arrives_in_time_is_served() {
    let server = server().await;
    let mut client = Client::sending(server.address, "GET / HTTP/1.1\r\nhost: te").await;
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 100).await;
    client.send("st\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "hello");
    assert!(stopping.await.unwrap().0.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_body_is_cut_off_at_the_deadline_and_reported() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::post_head("/body", 100)).await;
    client.send("half").await;
    sleep(MS * 30).await;
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN && is_in_time(took), "{took:?} {report:?}");
    assert_cut_off(&report, 1);
    client.rest().await;
}

fn assert_cut_off(report: &onelane::background::ShutdownReport, requests: usize) {
    let unfinished: Vec<_> = report.unfinished().iter().map(|work| (work.name(), work.count())).collect();
    assert_eq!(unfinished, [("requests", requests)], "{report:?}");
    assert!(report.server_cut_off() && !report.is_clean() && report.exit_code() == 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_body_that_was_answered_does_not_keep_the_server() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::post_head("/", 100)).await;
    // 405: the handler does not read the body.
    assert_eq!(client.response().await.status, 405);
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < DRAIN, "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_stream_is_cut_off_at_the_deadline_and_reported() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::get("/endless")).await;
    client.until("data: x").await;
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN && is_in_time(took), "{took:?} {report:?}");
    assert_cut_off(&report, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_stopped_reading_is_cut_off_at_the_deadline_and_reported() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::get("/big")).await;
    client.until("HTTP/1.1 200").await;
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN && is_in_time(took), "{took:?} {report:?}");
    assert_cut_off(&report, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_served_until_a_response_closes_the_connection() {
    let server = server().await;
    let mut client = Client::sending(server.address, [http::get("/slow"), http::get("/")].concat()).await;
    eventually("the handler runs", || server.logged() == ["begins"]).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < SLOW + AT_ONCE, "{took:?} {report:?}");
    assert_eq!(client.response().await.header("connection"), Some("close"));
    // RFC 9112, section 9.6: the client knows that the server has not processed the next one.
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_in_flight_end_and_new_ones_are_refused_by_goaway() {
    let server = server().await;
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://test{path}");
        hyper::Request::get(uri).body(http_body_util::Empty::<axum::body::Bytes>::new()).unwrap()
    };
    let idle = sender.send_request(request("/")).await.unwrap();
    assert_eq!(idle.status(), 200);
    let slow = tokio::spawn(sender.send_request(request("/slow")));
    eventually("the handler runs", || server.logged() == ["begins"]).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < SLOW + AT_ONCE, "{took:?} {report:?}");
    let response = slow.await.unwrap().unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("connection")), (200, None));
    assert!(connection.await.unwrap().is_ok(), "a GOAWAY ends the connection in order");
}
