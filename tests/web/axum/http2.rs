//! HTTP/2: clients that cancel a request, not their connection.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use futures::future::join_all;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::axum::held_route;
use support::http::{Listening, Probe, eventually, serve, soon};

/// Drives a client's connection until the client closes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection(CancellationToken);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Connection {
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}

impl Connection {
    pub(crate) fn close(&self) {
        self.0.cancel();
    }
}

pub(crate) async fn connect<B>(address: SocketAddr) -> (SendRequest<B>, Connection)
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.expect("the server listens");
    let executor = Connection::default();
    let connected = handshake(executor.clone(), TokioIo::new(stream)).await;
    let (requests, connection) = connected.expect("the server speaks HTTP/2");
    executor.execute(connection);
    (requests, executor)
}

fn request(body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post("http://test/").body(Full::from(body)).expect("the request is valid")
}

#[tokio::test]
async fn queued_stream_that_is_reset_never_runs() {
    for listening in [Listening::Plain, Listening::Watched] {
        for length in [0, 10, 60_000] {
            let (guard, probe) = (Arc::new(EndpointGuard::new("h2")), Probe::new());
            let address = serve(listening, held_route(&guard, &probe)).await;
            let (mut requests, _connection) = connect(address).await;
            let holder = tokio::spawn(requests.send_request(request(Vec::new())));
            eventually("its handler runs", || probe.started() == 1).await;
            let waiter = tokio::spawn(requests.send_request(request(vec![7; length])));
            eventually("the other request waits", || guard.stats().waiting == 1).await;

            waiter.abort();
            eventually("left the queue", || guard.stats().waiting == 0).await;
            assert_eq!(guard.stats().held, 1);
            probe.release(2);
            assert_eq!(soon(holder).await.expect("no panic").expect("answered").status(), 200);
            eventually("no permit is held", || guard.stats().held == 0).await;
            assert_eq!(probe.started(), 1, "{listening:?}, {length} bytes");
        }
    }
}

#[tokio::test]
async fn running_stream_that_is_reset_finishes() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("h2")), Probe::new());
    let address = serve(Listening::Plain, held_route(&guard, &probe)).await;
    let (mut requests, _connection) = connect(address).await;
    let disconnecting = tokio::spawn(requests.send_request(request(Vec::new())));
    eventually("its handler runs", || probe.started() == 1).await;
    disconnecting.abort();
    eventually("the handler continues without its client", || guard.stats().detached == 1).await;
    probe.release(1);
    eventually("the run has ended", || guard.stats().finished_detached == 1).await;
    assert_eq!((probe.finished(), probe.cut_off()), (1, 0));
}

#[tokio::test]
async fn client_that_closes_its_connection_takes_all_its_queued_streams_with_it() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("h2")), Probe::new());
    let address = serve(Listening::Plain, held_route(&guard, &probe)).await;
    let (mut holding, _connection) = connect(address).await;
    let holder = tokio::spawn(holding.send_request(request(Vec::new())));
    eventually("its handler runs", || probe.started() == 1).await;
    let (mut requests, connection) = connect(address).await;
    let waiters: Vec<_> = (0..5).map(|_| tokio::spawn(requests.send_request(request(vec![7; 100])))).collect();
    eventually("five requests wait", || guard.stats().waiting == 5).await;

    connection.close();
    eventually("all have left the queue", || guard.stats().waiting == 0).await;
    probe.release(6);
    assert_eq!(soon(holder).await.expect("no panic").expect("answered").status(), 200);
    drop(waiters);
    eventually("no permit is held", || guard.stats().held == 0).await;
    assert_eq!(probe.started(), 1);
}

#[tokio::test]
async fn streams_of_one_connection_are_served_one_at_a_time_with_their_bodies() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("h2")), Probe::new());
    let visitor = Arc::clone(&probe);
    let echo = async move |body: Bytes| {
        visitor.visit_for(Duration::from_millis(1)).await;
        body
    };
    let app = Router::new().route("/", any(echo)).layer(GuardLayer::new(&guard));
    let (requests, _connection) = connect(serve(Listening::Plain, app).await).await;
    // The largest body is longer than what is read ahead.
    let calls = (0..20_u8).map(async |i| {
        let body = vec![i; usize::from(i) * 5_000];
        let response = requests.clone().send_request(request(body.clone())).await.expect("answered");
        assert!(response.into_body().collect().await.expect("whole").to_bytes() == body, "body {i} is intact");
    });
    soon(join_all(calls)).await;
    assert_eq!((probe.finished(), probe.most_inside()), (20, 1));
}
