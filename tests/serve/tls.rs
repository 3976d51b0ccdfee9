//! Servers with TLS: axum behind a listener, axum-server, which has its own serve call, and actix-web.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::{App, web};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::ServiceHost;
use onelane::background::{HostHandle, ShutdownReport};
use onelane::web::{BackgroundTasks, ServeConfig, actix, axum as web_axum};
use rcgen::CertifiedKey;
use support::http::{self, eventually};
use support::waiting::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{MutexGuard, Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{ALONE, Log, MS, note, notes};

const LONG: usize = 8 << 20;

/// The two sides of TLS, with a certificate that is created for one test.
struct Tls {
    server: ServerConfig,
    client: ClientConfig,
}

impl Tls {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let mut server = server.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Self { server, client: client.unwrap().with_root_certificates(roots).with_no_client_auth() }
    }
}

/// A server in a task.
struct TlsServer {
    address: SocketAddr,
    host: HostHandle,
    running: JoinHandle<ShutdownReport>,
    client: ClientConfig,
    app: TestApp,
    _alone: MutexGuard<'static, ()>,
}

/// What the handlers of all servers do.
#[derive(Clone, Default)]
struct TestApp {
    log: Log,
    may_end: Arc<Notify>,
}

impl TestApp {
    async fn held(self) -> &'static str {
        note(&self.log, "begins");
        self.may_end.notified().await;
        // Wakes the other request that waits.
        self.may_end.notify_one();
        "held"
    }

    fn long(self, tasks: &BackgroundTasks) -> Vec<u8> {
        tasks.add("task", async move { note(&self.log, "task") }).unwrap();
        vec![0; LONG]
    }

    /// An app of axum. It has an endless stream that ends with the host.
    fn router(&self, host: HostHandle) -> Router {
        let [held, long] = [self.clone(), self.clone()];
        let endless = async move || {
            let ticks = stream::repeat(()).then(|()| async {
                sleep(MS * 5).await;
                Ok::<_, Infallible>(Bytes::from_static(b"tick"))
            });
            Body::from_stream(host.until_draining(ticks))
        };
        Router::new()
            .route("/", get(async || "hello"))
            .route("/held", get(move || held.held()))
            .route("/long", get(async move |tasks: BackgroundTasks| long.long(&tasks)))
            .route("/endless", get(endless))
    }
}

impl TlsServer {
    /// Starts a server. `serve` creates its future, and sends its address.
    async fn start<F>(serve: impl FnOnce(ServiceHost, ServerConfig, TestApp, oneshot::Sender<SocketAddr>) -> F) -> Self
    where
        F: Future<Output = ShutdownReport> + Send + 'static,
    {
        let alone = ALONE.lock().await;
        let host = ServiceHost::builder().without_signals().build().unwrap();
        let (handle, app, Tls { server, client }) = (host.handle(), TestApp::default(), Tls::new());
        let (sender, address) = oneshot::channel();
        let running = tokio::spawn(serve(host, server, app.clone(), sender));
        Self { address: address.await.unwrap(), host: handle, running, client, app, _alone: alone }
    }

    async fn axum() -> Self {
        Self::axum_with(ServeConfig::new().linger(MS * 20)).await
    }

    async fn axum_with(config: ServeConfig) -> Self {
        let serve = |host: ServiceHost, tls, app: TestApp, sender: oneshot::Sender<_>| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let router = app.router(host.handle());
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            let listener = web_axum::HandshakeListener::new(listener, move |stream| acceptor.accept(stream));
            web_axum::serve(host, listener, router).config(config).await.unwrap()
        };
        Self::start(serve).await
    }

    async fn axum_server() -> Self {
        let serve = |host: ServiceHost, tls, app: TestApp, sender: oneshot::Sender<_>| async move {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            listener.set_nonblocking(true).unwrap();
            let (handle, connections) = (host.handle(), axum_server::Handle::new());
            let app = app.router(handle.clone()).into_make_service();
            let config = RustlsConfig::from_config(Arc::new(tls));
            let server = axum_server::from_tcp_rustls(listener, config).unwrap().handle(connections.clone()).serve(app);
            let server = async move {
                let drain = async {
                    handle.draining().cancelled().await;
                    connections.graceful_shutdown(None);
                };
                tokio::join!(server, drain).0
            };
            host.run_until(server).await.unwrap()
        };
        Self::start(serve).await
    }

    async fn actix() -> Self {
        let serve = |host: ServiceHost, tls, app: TestApp, sender: oneshot::Sender<_>| {
            let app = move || {
                let [held, long] = [app.clone(), app.clone()];
                App::new()
                    .route("/", web::get().to(async || "hello"))
                    .route("/held", web::get().to(move || held.clone().held()))
                    .route(
                        "/long",
                        web::get().to(move |tasks: BackgroundTasks| {
                            let body = long.clone().long(&tasks);
                            async { body }
                        }),
                    )
            };
            let serving = actix::serve(host, move |drain| {
                let server = drain.http_server(app).workers(2).bind_rustls_0_23("127.0.0.1:0", tls)?;
                sender.send(server.addrs()[0]).unwrap();
                Ok(server)
            });
            let serving = serving.config(ServeConfig::new().linger(MS * 20)).into_future();
            async move { serving.await.unwrap() }
        };
        Self::start(serve).await
    }

    async fn connect(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Self::handshake(&self.client, stream, protocol).await
    }

    async fn handshake(config: &ClientConfig, stream: TcpStream, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let handshake = connector.connect("localhost".try_into().unwrap(), stream);
        let stream = timeout(PATIENCE, handshake).await.expect("the handshake ends").unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        stream
    }

    async fn http1(&self, path: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect(b"http/1.1").await;
        stream.write_all(http::get(path).as_bytes()).await.unwrap();
        stream
    }

    async fn http2(&self) -> (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(self.connect(b"h2").await)).await.unwrap();
        (sender, tokio::spawn(connection))
    }

    async fn ended(self) -> ShutdownReport {
        timeout(PATIENCE, self.running).await.expect("the server ends").unwrap()
    }

    /// Checks that requests in flight end, over HTTP/2 as well, and that an idle connection does not wait for them.
    async fn drains(self, sends_goaway: bool) {
        let mut idle = self.http1("/").await;
        until(&mut idle, "hello").await;
        let mut held = self.http1("/held").await;
        let (mut sender, connection) = self.http2().await;
        let over_http2 = sender.send_request(hyper::Request::get("https://localhost/held").body(Empty::new()).unwrap());
        let over_http2 = tokio::spawn(over_http2);
        eventually("both handlers run", || notes(&self.app.log).len() == 2).await;
        sleep(MS * 50).await;
        self.host.request_shutdown();
        assert_eq!(rest(&mut idle).await, b"", "the idle connection ends");
        if sends_goaway {
            // Only a GOAWAY refuses further requests while the connection continues to serve one.
            let refused = async {
                let request = || hyper::Request::get("https://localhost/").body(Empty::new()).unwrap();
                while sender.send_request(request()).await.is_ok() {}
            };
            timeout(PATIENCE / 4, refused).await.expect("the server asks the client to leave");
        }
        self.app.may_end.notify_one();
        let response = String::from_utf8(rest(&mut held).await).unwrap();
        assert!(response.contains("\r\nconnection: close\r\n") && response.ends_with("held"), "{response}");
        let response = over_http2.await.unwrap().unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "held");
        let ended = connection.await.unwrap();
        assert!(ended.is_ok() || !sends_goaway, "{ended:?}");
        let report = self.ended().await;
        assert!(report.is_clean(), "{report:?}");
    }

    /// Requests a response that does not fit into buffers, with a task after it. The client reads after a while.
    async fn runs_task_after_response(self, is_flushed: bool) {
        let mut client = self.http1("/long").await;
        until(&mut client, "200 OK").await;
        self.host.request_shutdown();
        sleep(MS * 100).await;
        assert!(!is_flushed || notes(&self.app.log).is_empty(), "the client has not read the response");
        assert!(rest(&mut client).await.len() >= LONG - 1024);
        let log = Arc::clone(&self.app.log);
        let report = self.ended().await;
        assert!(report.is_clean() && notes(&log) == ["task"], "{report:?} {:?}", notes(&log));
    }
}

async fn until(stream: &mut TlsStream<TcpStream>, text: &str) {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        assert!(timeout(PATIENCE, stream.read_buf(&mut read)).await.unwrap().unwrap() > 0, "{text}");
    }
}

/// Reads until the server closes the connection.
async fn rest(stream: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let mut read = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("the server closes the connection") {
        // actix-web does not announce the end of TLS.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => panic!("{error}"),
        _ => read,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_behind_a_tls_listener_drains() {
    TlsServer::axum().await.drains(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_server_drains_with_a_host() {
    TlsServer::axum_server().await.drains(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actix_with_rustls_drains() {
    TlsServer::actix().await.drains(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_runs_when_the_last_byte_is_written_through_tls_in_axum() {
    TlsServer::axum().await.runs_task_after_response(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_runs_after_a_response_through_tls_in_actix() {
    TlsServer::actix().await.runs_task_after_response(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_host_through_tls() {
    for is_axum_server in [false, true] {
        let server = if is_axum_server { TlsServer::axum_server().await } else { TlsServer::axum().await };
        let mut client = server.http1("/endless").await;
        until(&mut client, "tick").await;
        server.host.request_shutdown();
        assert!(rest(&mut client).await.ends_with(b"0\r\n\r\n"), "the last chunk");
        assert!(server.ended().await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_in_its_handshake_when_the_server_drains_is_served() {
    let server = TlsServer::axum_with(ServeConfig::new()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    sleep(MS * 20).await;
    server.host.request_shutdown();
    sleep(MS * 50).await;
    let mut client = TlsServer::handshake(&server.client, stream, b"http/1.1").await;
    client.write_all(http::get("/").as_bytes()).await.unwrap();
    assert!(rest(&mut client).await.ends_with(b"hello"));
    assert!(server.ended().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshake_that_does_not_end_delays_no_other_client_and_is_cut_off() {
    let server = TlsServer::axum_with(ServeConfig::new().first_byte_timeout(Some(MS * 300))).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // The beginning of a TLS record, which the client never completes.
    silent.write_all(&[0x16, 3, 1, 1]).await.unwrap();
    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(http::get("/").as_bytes()).await.unwrap();
    until(&mut server.http1("/").await, "hello").await;
    for stream in [&mut silent, &mut garbage] {
        let _alert = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("the connection ends");
    }
    server.host.request_shutdown();
    assert!(server.ended().await.is_clean());
}
