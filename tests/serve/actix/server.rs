//! Connections and callbacks of actix-web's own server.

use std::any::Any;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use actix_web::web::{Bytes, ServiceConfig};
use actix_web::{App, HttpRequest, web};
use futures::future::join_all;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::ServiceHost;
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use onelane::web::actix::serve;
use support::http::{self, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{ALONE, DRAIN, Framework, LONG_DRAIN, MS, SLOW, TestServer};

/// actix-web looks once a second whether its connections are closed. The end must not wait for that.
const TICK: Duration = Duration::from_millis(900);

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
        let server = TestServer::start(Framework::Actix, ServeConfig::new()).await;
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

/// Sends a request over a connection of its own every few milliseconds until no connection is accepted. Returns how many
/// requests were lost: their connections were accepted, and ended without a response.
async fn lost_requests(address: SocketAddr, interval: Duration) -> usize {
    let mut clients = JoinSet::new();
    while let Ok(mut client) = TcpStream::connect(address).await {
        clients.spawn(async move {
            let mut response = String::new();
            let _ = client.write_all(http::get("/").as_bytes()).await;
            let _ = client.read_to_string(&mut response).await;
            response.ends_with("hello")
        });
        sleep(interval).await;
    }
    clients.join_all().await.into_iter().filter(|is_served| !is_served).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_keeps_sending_requests_over_http2_does_not_delay_the_end() {
    let routes = |app: &mut ServiceConfig, _: &HostHandle| {
        app.route("/", web::get().to(|| async { "hello" }));
    };
    let server = TestServer::actix_for(LONG_DRAIN, routes, ServeConfig::new()).await;
    let address = server.address;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        let request = || hyper::Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
        while sender.send_request(request()).await.is_ok() {
            sent += 1;
            sleep(MS * 50).await;
        }
        sent
    });
    let losing = tokio::spawn(lost_requests(address, MS * 50));
    sleep(MS * 100).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < LONG_DRAIN / 2, "{took:?} {report:?}");
    assert!(sending.await.unwrap() > 3);
    // Those that connected in the last pause.
    let lost = losing.await.unwrap();
    assert!(lost <= 5, "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_connect_without_a_request_cost_the_others_no_long_pause() {
    let linger = Duration::from_secs(1);
    // A server that knows its connections before their first bytes.
    let serve = |host, listener| {
        let app = || App::new().route("/", web::get().to(|| async { "hello" }));
        let server = serve(host, move |drain| drain.http_server(app).workers(2).listen(listener));
        server.config(ServeConfig::new().linger(linger)).into_future()
    };
    let server = TestServer::run_for(LONG_DRAIN, serve).await;
    let address = server.address;
    let connecting = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok(connection) = TcpStream::connect(address).await {
            connections.push(connection);
            sleep(MS * 20).await;
        }
        connections.len()
    });
    let losing = tokio::spawn(lost_requests(address, MS * 10));
    sleep(MS * 200).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < LONG_DRAIN / 2, "{took:?} {report:?}");
    assert!(connecting.await.unwrap() > 20);
    // A pause of a second would lose a hundred.
    let lost = losing.await.unwrap();
    assert!(lost <= 30, "{lost}");
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
