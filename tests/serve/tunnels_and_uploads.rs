//! Connections that are in use although no response is in progress: tunnels, uploads, bytes that the stream buffers, and
//! handshakes of the listener. Only axum gives these connections to its apps.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::routing::{any, get, post};
use axum::serve::Listener;
use futures::StreamExt;
use futures::future::join_all;
use h2::ext::Protocol;
use hyper_util::rt::TokioIo;
use onelane::ServiceHost;
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use onelane::web::axum::{serve, websocket};
use support::http::{self, Client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{ALONE, DRAIN, MS, PATIENCE, TestServer, unfinished};

/// An app that echoes the bytes of tunnels.
fn tunnels() -> Router {
    Router::new().fallback(|request: Request| async move {
        assert_eq!(request.method(), Method::CONNECT);
        tokio::spawn(async move {
            let mut tunnel = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let mut bytes = [0; 16];
            while let Ok(length @ 1..) = tunnel.read(&mut bytes).await {
                if tunnel.write_all(&bytes[..length]).await.is_err() {
                    break;
                }
            }
        });
        StatusCode::OK
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnel_outlives_the_header_timeout_and_is_reported_when_it_is_cut_off() {
    let server = TestServer::axum(tunnels(), ServeConfig::new().header_timeout(Some(MS * 100)).linger(MS * 20)).await;
    let mut client = Client::sending(server.address, "CONNECT test:443 HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    for number in 0..6 {
        let ping = format!("ping {number};");
        client.send(&ping).await;
        client.until(&ping).await;
        sleep(MS * 50).await;
    }
    let (report, took) = server.stop().await;
    assert!(took >= DRAIN, "{took:?} {report:?}");
    assert_eq!(unfinished(&report), [("requests", 1)], "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_over_http2_is_reported_when_it_is_cut_off() {
    let route = |host: HostHandle| {
        let accept = move |upgrade| async move {
            websocket(&host, upgrade, |socket| async move {
                sleep(PATIENCE).await;
                drop(socket);
            })
        };
        Router::new().route("/", any(accept))
    };
    let server = TestServer::axum_with(route, ServeConfig::new()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // The server's settings allow extended CONNECT.
    sleep(MS * 50).await;
    let mut client = client.ready().await.unwrap();
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://{}/", server.address))
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"))
        .body(())
        .unwrap();
    let (response, _stream) = client.send_request(request, false).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    let (report, _) = server.stop().await;
    assert_eq!(unfinished(&report), [("requests", 1)], "{report:?}");
}

/// Responds at once, and reads the body afterwards.
fn uploads(received: &Arc<AtomicUsize>) -> Router {
    let received = Arc::clone(received);
    let upload = move |body: Body| async move {
        tokio::spawn(async move {
            let mut chunks = body.into_data_stream();
            while let Some(Ok(chunk)) = chunks.next().await {
                received.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        });
        StatusCode::ACCEPTED
    };
    Router::new().route("/", post(upload))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_that_continues_after_the_response_is_neither_too_slow_nor_idle() {
    const PARTS: usize = 30;
    let received = Arc::default();
    let config = ServeConfig::new().header_timeout(Some(MS * 100)).linger(MS * 20);
    let server = TestServer::axum(uploads(&received), config).await;
    let mut client = Client::sending(server.address, http::post_head("/", PARTS * 1_000)).await;
    assert!(client.head().await.starts_with("HTTP/1.1 202"));
    let host = server.host.clone();
    for part in 0..PARTS {
        if part == PARTS / 2 {
            host.request_shutdown();
        }
        client.send(vec![b'x'; 1_000]).await;
        sleep(MS * 15).await;
    }
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(received.load(Ordering::SeqCst), PARTS * 1_000);
}

/// Streams that buffer what they write, as those of TLS do.
struct Buffering(TcpListener);

impl Listener for Buffering {
    type Io = BufWriter<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (BufWriter::with_capacity(64 << 20, stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A listener that takes some time to accept each connection, like a listener with TLS.
struct Handshaking(TcpListener);

impl Listener for Handshaking {
    type Io = BufWriter<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        sleep(MS * 60).await;
        (BufWriter::with_capacity(1, stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_the_stream_buffers_are_written_to_a_client_that_reads_late() {
    const LENGTH: usize = 30 << 20;
    let _alone = ALONE.lock().await;
    let host = ServiceHost::builder().drain_timeout(MS * 5_000).without_signals().build().unwrap();
    let (handle, listener) = (host.handle(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(|| async { vec![b'x'; LENGTH] }));
    let serving = tokio::spawn(serve(host, Buffering(listener), app).into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(http::get("/").as_bytes()).await.unwrap();
    sleep(MS * 200).await;
    handle.request_shutdown();
    // This is longer than a connection lingers.
    sleep(MS * 1_500).await;
    let mut received = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received.len() > LENGTH, "{} bytes", received.len());
    assert!(serving.await.unwrap().unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_in_the_middle_of_its_handshake_is_served() {
    let _alone = ALONE.lock().await;
    let host = ServiceHost::builder().without_signals().build().unwrap();
    let (handle, listener) = (host.handle(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(|| async { "hello" }));
    let serving = tokio::spawn(serve(host, Handshaking(listener), app).into_future());
    while !handle.status().is_ready() {
        sleep(MS).await;
    }
    let mut client = Client::sending(address, http::get("/")).await;
    sleep(MS * 10).await;
    handle.request_shutdown();
    assert_eq!(client.response().await.text(), "hello");
    assert!(serving.await.unwrap().unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_is_dropped_when_its_request_is_cut_off() {
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let pipelined = http::get("/").repeat(2);
    let unread = format!("{}abc", http::post_head("/", 100_000));
    for request in [http::get("/"), pipelined, unread] {
        let (running, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&running), Arc::clone(&ended));
        let handler = move |request: Request| async move {
            let (running, ended) = counts;
            running.fetch_add(1, Ordering::SeqCst);
            let _running = Running(running);
            sleep(PATIENCE).await;
            ended.fetch_add(1, Ordering::SeqCst);
            drop(request);
            Ok::<_, Infallible>("late")
        };
        let server = TestServer::axum(Router::new().route("/", any(handler)), ServeConfig::new()).await;
        let _client = Client::sending(server.address, &request).await;
        eventually("the handler runs", || running.load(Ordering::SeqCst) > 0).await;
        let (report, _) = server.stop().await;
        assert_eq!(unfinished(&report), [("requests", 1)], "{report:?}");
        eventually("the handler is dropped", || running.load(Ordering::SeqCst) == 0).await;
        assert_eq!(ended.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_limit_holds_while_the_server_begins_to_drain() {
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (inside, Arc::clone(&most));
    let handler = move || async move {
        let (inside, most) = counts;
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        sleep(MS * 20).await;
        inside.fetch_sub(1, Ordering::SeqCst);
        "hello"
    };
    let app = Router::new().route("/", get(handler));
    let server = TestServer::axum(app, ServeConfig::new().max_connections(2)).await;
    let clients = (0..20).map(|_| Client::sending(server.address, http::get("/")));
    let mut clients = join_all(clients).await;
    let host = server.host.clone();
    host.request_shutdown();
    let responses = join_all(clients.iter_mut().map(Client::response)).await;
    assert!(responses.iter().all(|response| response.text() == "hello"));
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert!(server.stop().await.0.is_clean());
}
