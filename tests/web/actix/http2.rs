//! HTTP/2 without TLS: actix-web does not notice when a client cancels its request or closes its connection. The stream of
//! a refused gRPC call ends with its headers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{ServiceConfig, get, post, resource};
use actix_web::{App, HttpResponse, HttpServer};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use onelane::EndpointGuard;
use onelane::guard::{Queue, SharedGuard};
use onelane::web::actix::{FlightMiddleware, GuardMiddleware};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::axum::http2::{Connection, connect};
use support::actix::{Server, Work};
use support::client::eventually;
use support::http::soon;

/// The way in which a client disconnects.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    CancelsItsRequest,
    ClosesItsConnection,
}

const WAYS: [Leaves; 2] = [Leaves::CancelsItsRequest, Leaves::ClosesItsConnection];

/// A request on a connection of its own. The response is its status and its body.
struct Call {
    response: JoinHandle<(u16, Bytes)>,
    connection: Connection,
}

impl Call {
    async fn get(address: SocketAddr) -> Self {
        let (mut requests, connection) = connect(address).await;
        let request = hyper::Request::get("http://test/").body(Empty::<Bytes>::new());
        let response = tokio::spawn(async move {
            let response = requests.send_request(request.expect("the request is valid")).await;
            let (head, body) = response.expect("the server responds").into_parts();
            (head.status.as_u16(), body.collect().await.expect("the body is complete").to_bytes())
        });
        Self { response, connection }
    }

    /// Disconnects, and gives the server time to notice.
    async fn leave(&self, leaves: Leaves) {
        match leaves {
            Leaves::CancelsItsRequest => self.response.abort(),
            Leaves::ClosesItsConnection => self.connection.close(),
        }
        sleep(Duration::from_millis(300)).await;
    }

    async fn response(self) -> (u16, Bytes) {
        soon(self.response).await.expect("no panic")
    }
}

fn serve(configure: impl Fn(&mut ServiceConfig) + Send + Clone + 'static) -> Server {
    Server::serve(move || {
        let server = HttpServer::new(move || App::new().configure(configure.clone()));
        let server = server.workers(2).disable_signals().bind_auto_h2c("127.0.0.1:0").expect("a port is free");
        (server.addrs()[0], server.run())
    })
}

fn handler(work: &Arc<Work>) -> impl Fn() -> LocalBoxFuture<'static, HttpResponse> + Clone + 'static {
    let work = Arc::clone(work);
    move || {
        let work = Arc::clone(&work);
        Box::pin(async move {
            work.run().await;
            HttpResponse::Ok().body("answer")
        })
    }
}

#[tokio::test]
async fn request_that_waits_for_a_guard_runs_though_its_client_has_left() {
    for leaves in WAYS {
        let (guard, work) = (Arc::new(EndpointGuard::new("h2")), Arc::<Work>::default());
        let server = serve({
            let (guard, work) = (SharedGuard::from(&guard), Arc::clone(&work));
            move |config| {
                let guarded = resource("/").wrap(GuardMiddleware::new(guard.clone()));
                config.service(guarded.route(get().to(handler(&work))));
            }
        });
        let holder = Call::get(server.address).await;
        eventually("the first request runs", || work.inside() == 1).await;
        let waiter = Call::get(server.address).await;
        eventually("the second request waits", || guard.stats().waiting == 1).await;
        waiter.leave(leaves).await;
        assert_eq!((guard.stats().waiting, guard.stats().cancelled), (1, 0), "{leaves:?}");
        work.let_finish(2);
        assert_eq!(holder.response().await, (200, Bytes::from_static(b"answer")));
        eventually("both have run", || work.finished() == 2 && guard.stats().held == 0).await;
    }
}

#[tokio::test]
async fn request_stays_in_its_run_though_its_client_has_left() {
    for leaves in WAYS {
        for follower_stays in [true, false] {
            let flights = FlightMiddleware::new("h2");
            let work = Arc::<Work>::default();
            let server = serve({
                let (flights, work) = (flights.clone(), Arc::clone(&work));
                move |config| {
                    config.service(resource("/").wrap(flights.clone()).route(get().to(handler(&work))));
                }
            });
            let leader = Call::get(server.address).await;
            eventually("the run has begun", || work.inside() == 1).await;
            let follower = Call::get(server.address).await;
            eventually("the follower waits", || flights.stats().waiting == 2).await;
            leader.leave(leaves).await;
            if !follower_stays {
                follower.leave(leaves).await;
            }
            assert_eq!((flights.stats().waiting, work.inside()), (2, 1), "{leaves:?}");
            work.let_finish(1);
            if follower_stays {
                assert_eq!(follower.response().await, (200, Bytes::from_static(b"answer")));
            }
            eventually("the run has ended", || flights.stats().running == 0 && flights.stats().waiting == 0).await;
            assert_eq!((work.started(), work.finished()), (1, 1), "{leaves:?}");
        }
    }
}

#[tokio::test]
async fn stream_of_a_refused_grpc_call_ends_with_the_headers() {
    let guard = Arc::new(EndpointGuard::builder("grpc").queue(Queue::Reject).build());
    let shared = SharedGuard::from(&guard);
    let server = serve(move |config| {
        let health = resource("/").wrap(GuardMiddleware::new(shared.clone())).route(post().to(HttpResponse::Ok));
        config.service(health);
    });
    let _permit = guard.try_acquire().expect("the guard is free");
    let (mut requests, _connection) = connect(server.address).await;
    let request = hyper::Request::post("http://test/").header("content-type", "application/grpc");
    let request = request.body(Empty::<Bytes>::new()).expect("the request is valid");
    let response = soon(requests.send_request(request)).await.expect("the server responds");
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().expect("ASCII")));
    assert!(response.body().is_end_stream(), "{response:?}");
}
