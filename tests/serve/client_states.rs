//! What a client is doing when the server drains, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::background::ShutdownReport;
use onelane::web::ServeConfig;
use support::http::{self, Client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{DRAIN, FRAMEWORKS, Framework, MS, TestServer, notes, unfinished};

/// Less than the time for which a connection lingers.
const AT_ONCE: Duration = Duration::from_millis(200);
/// actix-web looks once a second whether its connections are closed. The end must not wait for that.
const TICK: Duration = Duration::from_millis(900);

async fn server(framework: Framework) -> TestServer {
    TestServer::start(framework, ServeConfig::new()).await
}

fn is_in_time(took: Duration) -> bool {
    // The margin is for a busy machine.
    took < DRAIN + Duration::from_secs(2)
}

fn assert_clean(framework: Framework, (report, took): &(ShutdownReport, Duration), limit: Duration) {
    assert!(report.is_clean() && *took < limit, "{framework:?}: {took:?} {report:?}");
}

/// Checks that one request was cut off at the deadline.
fn assert_cut_off(framework: Framework, (report, took): &(ShutdownReport, Duration)) {
    assert!(*took >= DRAIN && is_in_time(*took), "{framework:?}: {took:?} {report:?}");
    assert_eq!(unfinished(report), [("requests", 1)], "{framework:?}: {report:?}");
    assert!(report.server_cut_off() && !report.is_clean() && report.exit_code() == 1, "{framework:?}: {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clients_the_server_ends_at_once() {
    for framework in FRAMEWORKS {
        assert_clean(framework, &server(framework).await.stop().await, AT_ONCE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_is_idle_for_longer_than_it_lingers_is_closed_at_once() {
    for framework in FRAMEWORKS {
        let server = TestServer::start(framework, ServeConfig::new().linger(MS * 20)).await;
        let mut client = Client::sending(server.address, http::get("/")).await;
        assert_eq!(client.response().await.text(), "hello");
        sleep(MS * 50).await;
        assert_clean(framework, &server.stop().await, AT_ONCE);
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_on_a_connection_that_was_in_use_until_now_is_served() {
    for framework in FRAMEWORKS {
        let server = TestServer::start(framework, ServeConfig::new().linger(MS * 300)).await;
        let mut client = Client::sending(server.address, http::get("/")).await;
        assert_eq!(client.response().await.header("connection"), None);
        let stopping = tokio::spawn(server.stop());
        sleep(MS * 50).await;
        client.send(http::get("/slow")).await;
        let response = client.response().await;
        assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
        assert_eq!(client.rest().await, b"");
        assert_clean(framework, &stopping.await.unwrap(), TICK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_in_flight_ends_and_its_connection_is_closed() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, http::get("/slow")).await;
        eventually("the handler runs", || server.logged() == ["begins"]).await;
        let log = Arc::clone(&server.log);
        assert_clean(framework, &server.stop().await, TICK);
        assert_eq!(notes(&log), ["begins", "ends"]);
        let response = client.response().await;
        assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_keeps_the_server_open_and_asks_clients_to_leave() {
    for framework in FRAMEWORKS {
        let config = ServeConfig::new().drain_delay(MS * 200).linger(Duration::ZERO);
        let server = TestServer::start(framework, config).await;
        let address = server.address;
        let stopping = tokio::spawn(server.stop());
        sleep(MS * 50).await;
        let mut client = Client::sending(address, http::get("/")).await;
        assert_eq!(client.response().await.header("connection"), Some("close"));
        assert_eq!(client.rest().await, b"");
        let (report, took) = stopping.await.unwrap();
        assert!(report.is_clean() && took >= MS * 200, "{framework:?}: {took:?} {report:?}");
        assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_header_does_not_keep_the_server() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, "GET / HTTP/1.1\r\nhost: te").await;
        sleep(MS * 30).await;
        // It lingers like any idle connection.
        assert_clean(framework, &server.stop().await, DRAIN);
        client.rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_that_arrives_in_time_is_served() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, "GET / HTTP/1.1\r\nhost: te").await;
        sleep(MS * 30).await;
        let stopping = tokio::spawn(server.stop());
        sleep(MS * 100).await;
        client.send("st\r\n\r\n").await;
        assert_eq!(client.response().await.text(), "hello");
        assert!(stopping.await.unwrap().0.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_body_is_cut_off_at_the_deadline_and_reported() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, http::post_head("/body", 100)).await;
        client.send("half").await;
        sleep(MS * 30).await;
        assert_cut_off(framework, &server.stop().await);
        client.rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_body_that_was_answered_does_not_keep_the_server() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, http::post_head("/", 100)).await;
        // The response to a method that the route does not have, sent without reading the body.
        let (status, limit) = if framework == Framework::Axum { (405, DRAIN) } else { (404, DRAIN * 4) };
        assert_eq!(client.response().await.status, status);
        assert_clean(framework, &server.stop().await, limit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_stream_is_cut_off_at_the_deadline_and_reported() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, http::get("/endless")).await;
        client.until("data: x").await;
        assert_cut_off(framework, &server.stop().await);
        client.rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_stopped_reading_is_cut_off_at_the_deadline_and_reported() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, http::get("/big")).await;
        client.until("HTTP/1.1 200").await;
        assert_cut_off(framework, &server.stop().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_that_the_client_reads_slowly_is_written_to_its_end() {
    for framework in FRAMEWORKS {
        let server = TestServer::start(framework, ServeConfig::new().linger(MS * 20)).await;
        let mut client = Client::sending(server.address, http::get("/long")).await;
        client.until("HTTP/1.1 200").await;
        let stopping = tokio::spawn(server.stop());
        sleep(MS * 150).await;
        assert_eq!(client.response().await.body.len(), 16 << 20);
        assert_clean(framework, &stopping.await.unwrap(), DRAIN * 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_served_until_a_response_closes_the_connection() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let mut client = Client::sending(server.address, [http::get("/slow"), http::get("/")].concat()).await;
        eventually("the handler runs", || server.logged() == ["begins"]).await;
        assert_clean(framework, &server.stop().await, TICK);
        assert_eq!(client.response().await.header("connection"), Some("close"));
        // RFC 9112, section 9.6: the client knows that the server has not processed the next one.
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_in_flight_end_and_new_ones_are_refused() {
    for framework in FRAMEWORKS {
        let server = server(framework).await;
        let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = |path: &str| {
            let uri = format!("http://test{path}");
            hyper::Request::get(uri).body(http_body_util::Empty::<axum::body::Bytes>::new()).unwrap()
        };
        let idle = sender.send_request(request("/")).await.unwrap();
        assert_eq!(idle.status(), 200);
        let slow = tokio::spawn(sender.send_request(request("/slow")));
        eventually("the handler runs", || server.logged() == ["begins"]).await;
        assert_clean(framework, &server.stop().await, TICK);
        let response = slow.await.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), response.headers().get("connection")), (200, None));
        let ended = connection.await.unwrap();
        assert!(ended.is_ok() || framework == Framework::Actix, "a GOAWAY ends the connection in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connection_of_axum_whose_request_is_on_its_way_is_served() {
    let server = server(Framework::Axum).await;
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
        let server = server(Framework::Axum).await;
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
