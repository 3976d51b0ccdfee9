//! What a client is doing when the server drains, and what becomes of it.

use std::any::Any;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use actix_web::{App, HttpRequest, web};
use futures::future::join_all;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::ServiceHost;
use onelane::background::ShutdownReport;
use onelane::web::ServeConfig;
use onelane::web::actix::serve;
use support::http::{self, Client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::super::{ALONE, DRAIN, MS, SLOW};
use super::{ActixServer, unfinished};

/// Less than the time for which a connection lingers.
const AT_ONCE: Duration = Duration::from_millis(200);
/// actix-web looks once a second whether its connections are closed. The end must not wait for that.
const TICK: Duration = Duration::from_millis(900);

async fn server() -> ActixServer {
    ActixServer::start(ServeConfig::new()).await
}

fn is_in_time(took: Duration) -> bool {
    // The margin is for a busy machine.
    took < DRAIN + Duration::from_secs(2)
}

fn assert_cut_off(report: &ShutdownReport, requests: usize) {
    assert_eq!(unfinished(report), [("requests", requests)], "{report:?}");
    assert!(report.server_cut_off() && !report.is_clean() && report.exit_code() == 1, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clients_the_server_ends_at_once() {
    let (report, took) = server().await.stop().await;
    assert!(report.is_clean() && took < AT_ONCE, "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_is_idle_for_longer_than_it_lingers_is_closed_at_once() {
    let server = ActixServer::start(ServeConfig::new().linger(MS * 20)).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.text(), "hello");
    sleep(MS * 50).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < AT_ONCE, "{took:?} {report:?}");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_on_a_connection_that_was_in_use_until_now_is_served() {
    let server = ActixServer::start(ServeConfig::new().linger(MS * 300)).await;
    let mut client = Client::sending(server.address, http::get("/")).await;
    assert_eq!(client.response().await.header("connection"), None);
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 50).await;
    client.send(http::get("/slow")).await;
    let response = client.response().await;
    assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
    assert_eq!(client.rest().await, b"");
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && took < TICK, "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_connection_whose_request_is_on_its_way_is_served() {
    // A server that does not wait for the first bytes to know the protocol, as the others here do.
    let _alone = ALONE.lock().await;
    let host = ServiceHost::builder().without_signals().build().unwrap();
    let (handle, listener) = (host.handle(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let app = || App::new().route("/", web::get().to(|| async { "hello" }));
    let serving = tokio::spawn(serve(host, move |drain| drain.http_server(app).listen(listener)).into_future());
    while !handle.status().is_ready() {
        sleep(MS).await;
    }
    let mut client = Client::connect(address).await;
    sleep(MS * 20).await;
    handle.request_shutdown();
    sleep(MS * 80).await;
    client.send(http::get("/")).await;
    assert_eq!(client.response().await.text(), "hello");
    assert!(serving.await.unwrap().unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_arrive_while_the_server_begins_to_drain_are_served() {
    for _ in 0..20 {
        let server = server().await;
        let handle = server.host.clone();
        // Keeps the server from pausing before the others have connected.
        let mut first = Client::sending(server.address, http::get("/")).await;
        assert_eq!(first.response().await.text(), "hello");
        handle.request_shutdown();
        let connecting = (0..10).map(|_| TcpStream::connect(server.address));
        let connected = join_all(connecting).await.into_iter().map(Result::unwrap);
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
    assert!(report.is_clean() && took < TICK, "{took:?} {report:?}");
    assert_eq!(super::notes(&log), ["begins", "ends"]);
    let response = client.response().await;
    assert_eq!((response.text(), response.header("connection")), ("slow", Some("close")));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_keeps_the_server_open_and_asks_clients_to_leave() {
    let server = ActixServer::start(ServeConfig::new().drain_delay(MS * 200).linger(Duration::ZERO)).await;
    let address = server.address;
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 50).await;
    let mut client = Client::sending(address, http::get("/")).await;
    assert_eq!(client.response().await.header("connection"), Some("close"));
    assert_eq!(client.rest().await, b"");
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && took >= MS * 200, "{took:?} {report:?}");
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
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
    sleep(MS * 30).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_body_that_was_answered_does_not_keep_the_server() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::post_head("/", 100)).await;
    // 404: actix-web answers that for a method that the resource does not have, without reading the body.
    assert_eq!(client.response().await.status, 404);
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && is_in_time(took), "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_stream_is_cut_off_at_the_deadline_and_reported() {
    let server = server().await;
    let mut client = Client::sending(server.address, http::get("/endless")).await;
    client.until("data: x").await;
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN && is_in_time(took), "{took:?} {report:?}");
    assert_cut_off(&report, 1);
    client.rest().await;
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
async fn response_that_the_client_reads_slowly_is_written_to_its_end() {
    let server = ActixServer::start(ServeConfig::new().linger(MS * 20)).await;
    let mut client = Client::sending(server.address, http::get("/long")).await;
    client.until("HTTP/1.1 200").await;
    let stopping = tokio::spawn(server.stop());
    sleep(MS * 150).await;
    assert_eq!(client.response().await.body.len(), 16 << 20);
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && is_in_time(took), "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_served_until_a_response_closes_the_connection() {
    let server = server().await;
    let mut client = Client::sending(server.address, [http::get("/slow"), http::get("/")].concat()).await;
    eventually("the handler runs", || server.logged() == ["begins"]).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < TICK, "{took:?} {report:?}");
    assert_eq!(client.response().await.header("connection"), Some("close"));
    // RFC 9112, section 9.6: the client knows that the server has not processed the next one.
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_in_flight_end_and_idle_connections_are_closed() {
    let server = server().await;
    let stream = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("http://test{path}");
        hyper::Request::get(uri).body(Empty::<axum::body::Bytes>::new()).unwrap()
    };
    let idle = sender.send_request(request("/")).await.unwrap();
    assert_eq!(idle.status(), 200);
    let slow = tokio::spawn(sender.send_request(request("/slow")));
    eventually("the handler runs", || server.logged() == ["begins"]).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < TICK, "{took:?} {report:?}");
    let response = slow.await.unwrap().unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("connection")), (200, None));
    let _without_goaway = connection.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_for_connections_is_called_and_one_that_is_not_wrapped_leaves_the_requests_counted() {
    for is_wrapped in [true, false] {
        let _alone = ALONE.lock().await;
        let host = ServiceHost::builder().drain_timeout(DRAIN).without_signals().build().unwrap();
        let (handle, listener) = (host.handle(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let callback = |_: &dyn Any, data: &mut Extensions| {
            data.insert("from the callback");
        };
        let app = || {
            App::new().route(
                "/",
                web::get().to(|request: HttpRequest| async move {
                    sleep(SLOW).await;
                    *request.conn_data::<&str>().unwrap()
                }),
            )
        };
        let serving = serve(host, move |drain| {
            let server = drain.http_server(app);
            let callback_set =
                if is_wrapped { server.on_connect(drain.on_connect(callback)) } else { server.on_connect(callback) };
            callback_set.listen(listener)
        });
        let serving = tokio::spawn(serving.into_future());
        while !handle.status().is_ready() {
            sleep(MS).await;
        }
        let mut client = Client::sending(address, http::get("/")).await;
        sleep(MS * 50).await;
        let start = Instant::now();
        handle.request_shutdown();
        let response = client.response().await;
        assert_eq!((response.text(), response.header("connection")), ("from the callback", Some("close")));
        let report = serving.await.unwrap().unwrap();
        assert!(report.is_clean() && start.elapsed() < TICK, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_cannot_bind_its_address_ends_the_host() {
    let _alone = ALONE.lock().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let host = ServiceHost::builder().without_signals().build().unwrap();
    let error = serve(host, move |drain| drain.http_server(App::new).bind(address)).await.unwrap_err();
    assert!(matches!(error, onelane::background::HostError::Server { .. }), "{error:?}");
}

#[actix_web::test]
async fn server_drains_in_a_system_of_actix() {
    let _alone = ALONE.lock().await;
    let host = ServiceHost::builder().drain_timeout(DRAIN).without_signals().build().unwrap();
    let (handle, listener) = (host.handle(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let slow = || async {
        sleep(SLOW).await;
        "slow"
    };
    let app = move || App::new().route("/", web::get().to(slow));
    let serving = actix_web::rt::spawn(serve(host, move |drain| drain.http_server(app).listen(listener)).into_future());
    while !handle.status().is_ready() {
        sleep(MS).await;
    }
    let mut client = Client::sending(address, http::get("/")).await;
    sleep(MS * 50).await;
    let start = Instant::now();
    handle.request_shutdown();
    assert_eq!(client.response().await.text(), "slow");
    let report = serving.await.unwrap().unwrap();
    assert!(report.is_clean() && start.elapsed() < TICK, "{report:?}");
}
