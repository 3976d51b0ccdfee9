//! The layer around a plain hyper service, with hyper's own body.
//!
//! Sockets are involved, so these tests use real time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use onelane::EndpointGuard;
use onelane::web::tower::{GuardLayer, GuardRequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};

use crate::tower::{AnyBytes, full};
use support::http::{Client, Disconnect, Probe, bytes, eventually, get, post, post_chunked, request};

/// Echoes a POST once the test releases it, streams without end for GET and HEAD, and echoes bytes after CONNECT.
async fn handle(
    probe: Arc<Probe>,
    request: Request<GuardRequestBody<Incoming>>,
) -> Result<Response<AnyBytes>, Infallible> {
    let endless = || {
        let parts = stream::once(async { Ok(Frame::data(Bytes::from("part"))) }).chain(stream::pending());
        StreamBody::new(parts).boxed_unsync()
    };
    Ok(Response::new(match *request.method() {
        Method::POST => {
            probe.visit().await;
            full(request.into_body().collect().await.expect("the body is complete").to_bytes())
        }
        Method::CONNECT => {
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.expect("the response is a tunnel");
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let mut line = [0; 4];
                read.read_exact(&mut line).await.expect("the client writes");
                write.write_all(&line).await.expect("the client reads");
            });
            crate::tower::empty()
        }
        _ => endless(),
    }))
}

async fn serve(guard: &Arc<EndpointGuard>, probe: &Arc<Probe>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    let probe = Arc::clone(probe);
    let inner = service_fn(move |request| handle(Arc::clone(&probe), request));
    let service = TowerToHyperService::new(GuardLayer::new(guard).layer(inner));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // Clients disconnect in these tests, which is an error of their connection.
                let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn requests_that_waited_are_served_with_their_own_bodies() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("hyper")), Probe::new());
    let address = serve(&guard, &probe).await;
    let mut holder = Client::sending(address, post("/", b"first")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let mut waiters = Vec::new();
    for length in [0, 10, 64 * 1024, 200_000] {
        waiters.push(tokio::spawn(async move {
            let mut waiter = Client::sending(address, post("/", &bytes(length))).await;
            assert!(waiter.response().await.body == bytes(length), "{length} bytes");
        }));
        eventually("the request waits", || guard.stats().waiting == waiters.len()).await;
    }
    let mut chunked = Client::sending(address, post_chunked("/", &[b"in ", b"chunks"])).await;
    eventually("the request waits", || guard.stats().waiting == waiters.len() + 1).await;

    probe.release(6);
    assert_eq!(holder.response().await.text(), "first");
    for waiter in waiters {
        waiter.await.expect("the response contains the request's body");
    }
    assert_eq!(chunked.response().await.text(), "in chunks");
    assert_eq!(probe.most_inside(), 1);
}

#[tokio::test]
async fn client_that_disconnects_while_its_request_waits_never_reaches_the_service() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("hyper")), Probe::new());
    let address = serve(&guard, &probe).await;
    let mut holder = Client::sending(address, post("/", b"first")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let mut waiter = Client::sending(address, post("/", &bytes(60_000))).await;
        eventually("the request waits", || guard.stats().waiting == 1).await;
        waiter.disconnect(disconnect).await;
        eventually("the request has left the queue", || guard.stats().waiting == 0).await;
    }
    probe.release(3);
    assert_eq!(holder.response().await.text(), "first");
    eventually("no permit is held", || guard.stats().held == 0).await;
    assert_eq!(probe.started(), 1);
}

#[tokio::test]
async fn head_request_to_an_endless_stream_holds_nothing() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("hyper")), Probe::new());
    let mut client = Client::sending(serve(&guard, &probe).await, request("HEAD", "/")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    eventually("no permit is held", || guard.stats().held == 0).await;
}

#[tokio::test]
async fn client_that_leaves_an_endless_stream_admits_the_next_request() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("hyper")), Probe::open());
    let address = serve(&guard, &probe).await;
    let mut client = Client::sending(address, get("/")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(guard.stats().held, 1);
    let mut next = Client::sending(address, post("/", b"next")).await;
    eventually("the request waits", || guard.stats().waiting == 1).await;
    client.disconnect(Disconnect::Rst).await;
    assert_eq!(next.response().await.text(), "next");
}

#[tokio::test]
async fn tunnel_holds_nothing() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("hyper")), Probe::new());
    let connect = "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n";
    let mut client = Client::sending(serve(&guard, &probe).await, connect).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(guard.stats().held, 0);
    client.send("ping").await;
    assert_eq!(client.rest().await, b"ping");
}
