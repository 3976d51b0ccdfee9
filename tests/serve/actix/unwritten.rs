//! Responses whose last bytes wait for the client to read when the server drains.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::web::{self, Bytes, Data, Path, ServiceConfig};
use futures::future::join_all;
use futures::stream;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::background::HostHandle;
use onelane::web::ServeConfig;
use support::http::{self, Client, eventually};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::time::sleep;

use super::super::{DRAIN, LONG_DRAIN, MS, TestServer, unfinished};

const CHUNK: usize = 1024;
/// Less than the time for which a client does not read.
const LINGER: Duration = Duration::from_millis(20);
const NOT_READING: Duration = Duration::from_millis(700);

/// The bytes that the server has taken from the bodies of its responses.
type Taken = Data<AtomicUsize>;

async fn sized(size: Path<usize>, taken: Taken) -> HttpResponse {
    let chunks = (0..*size / CHUNK).map(move |_| {
        taken.fetch_add(CHUNK, Ordering::SeqCst);
        Ok::<_, Infallible>(Bytes::from_static(&[b'x'; CHUNK]))
    });
    HttpResponse::Ok().body(SizedStream::new(*size as u64, stream::iter(chunks)))
}

async fn server(drain: Duration, taken: &Taken) -> TestServer {
    let taken = taken.clone();
    let large = |taken: Taken| async move {
        taken.fetch_add(1, Ordering::SeqCst);
        vec![b'x'; LARGE]
    };
    let routes = move |app: &mut ServiceConfig, _: &HostHandle| {
        app.app_data(taken.clone()).route("/large", web::get().to(large)).route("/{size}", web::get().to(sized));
    };
    TestServer::actix_for(drain, routes, ServeConfig::new().linger(LINGER)).await
}

/// Returns the value once it has not changed for a while.
async fn settled(taken: &Taken) -> usize {
    let mut last = usize::MAX;
    loop {
        let now = taken.load(Ordering::SeqCst);
        if now == last && now > 0 {
            return now;
        }
        last = now;
        sleep(MS * 300).await;
    }
}

/// Sends requests whose responses end in the buffer of the server, because their clients do not read: the system takes a
/// part of such a response, and the server keeps up to 32 KB of the rest. Returns the clients and the sizes.
async fn unread(address: SocketAddr, taken: &Taken) -> Vec<(Client, usize)> {
    let endless = Client::sending(address, http::get(&format!("/{}", 1_u64 << 40))).await;
    let most = settled(taken).await;
    drop(endless);
    taken.store(0, Ordering::SeqCst);
    let sizes = [most - 10 * CHUNK, most - 16 * CHUNK, most - 22 * CHUNK];
    let clients = join_all(sizes.map(|size| Client::sending(address, http::get(&format!("/{size}"))))).await;
    eventually("the bodies end", || taken.load(Ordering::SeqCst) == sizes.iter().sum::<usize>()).await;
    clients.into_iter().zip(sizes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_of_a_response_is_written_to_a_client_that_reads_late() {
    let taken = Taken::default();
    let server = server(LONG_DRAIN, &taken).await;
    let clients = unread(server.address, &taken).await;
    let stopping = tokio::spawn(server.stop());
    sleep(NOT_READING).await;
    for (mut client, size) in clients {
        assert_eq!(client.response().await.body.len(), size);
    }
    let (report, took) = stopping.await.unwrap();
    assert!(report.is_clean() && took < LONG_DRAIN, "{took:?} {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_of_a_response_that_is_not_read_until_the_deadline_is_reported() {
    let taken = Taken::default();
    let server = server(DRAIN, &taken).await;
    let clients = unread(server.address, &taken).await;
    let (report, took) = server.stop().await;
    let cut_off = unfinished(&report);
    assert!(matches!(cut_off[..], [("requests", 1..=3)]), "{report:?}");
    assert!(took >= DRAIN && !report.is_clean() && report.exit_code() == 1, "{took:?} {report:?}");
    drop(clients);
}

/// The length of a response that HTTP/2 takes as a whole though its client does not read.
const LARGE: usize = 380_000;
/// More responses than the buffers of the system take.
const RESPONSES: usize = 60;

/// Sends requests over HTTP/2, does not read for a while, and returns how many responses were complete.
async fn large_responses(address: SocketAddr) -> usize {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut client = http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(1 << 20).initial_connection_window_size(1 << 28);
    let (mut sender, connection) = client.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = |path: &str| {
        let request = hyper::Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request)
    };
    // After this response, the windows are known to both.
    assert_eq!(send("/1024").await.unwrap().status(), 200);
    let responses: Vec<_> = (0..RESPONSES)
        .map(|_| {
            let response = send("/large");
            tokio::spawn(async move { Some(response.await.ok()?.into_body().collect().await.ok()?.to_bytes().len()) })
        })
        .collect();
    sleep(MS * 30).await;
    thread::sleep(NOT_READING + NOT_READING);
    let responses = join_all(responses).await.into_iter().flatten().flatten();
    responses.filter(|length| *length == LARGE).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_over_http2_are_written_to_a_client_that_reads_late() {
    let taken = Taken::default();
    let server = server(LONG_DRAIN, &taken).await;
    let address = server.address;
    let client = thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(large_responses(address))
    });
    eventually("all handlers have run", || taken.load(Ordering::SeqCst) == 1024 + RESPONSES).await;
    sleep(MS * 200).await;
    let (report, took) = server.stop().await;
    assert!(report.is_clean() && took < LONG_DRAIN, "{took:?} {report:?}");
    assert_eq!(client.join().unwrap(), RESPONSES);
}
