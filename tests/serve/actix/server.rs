//! Connections and callbacks of actix-web's own server.

use std::any::Any;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use actix_web::{App, HttpRequest, web};
use futures::future::join_all;
use onelane::ServiceHost;
use onelane::web::ServeConfig;
use onelane::web::actix::serve;
use support::http::{self, Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::{ALONE, DRAIN, Framework, MS, SLOW, TestServer};

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
