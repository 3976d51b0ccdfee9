//! How long the permit is held if the response is a stream.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{any, get};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{StreamExt, stream};
use http_body::{Frame, SizeHint};
use hyper_util::rt::TokioIo;
use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::web::axum::GuardLayer;
use onelane::web::{GuardOptions, Hold};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

use support::http::{self, Client, Disconnect, Listening, eventually, serve};

/// The sender that the test uses to feed the body of the response.
type Feed = UnboundedSender<Result<Bytes, io::Error>>;

/// A route `/` that streams what the test feeds it, once.
fn fed(status: StatusCode) -> (Feed, Router) {
    let (feed, fed) = unbounded();
    let fed: Arc<Mutex<Option<UnboundedReceiver<_>>>> = Arc::new(Mutex::new(Some(fed)));
    let handler = async move || match fed.lock().await.take() {
        Some(fed) => (status, Body::from_stream(fed)),
        None => (StatusCode::OK, Body::from("next")),
    };
    (feed, Router::new().route("/", any(handler)))
}

/// A client reads the head of a stream.
async fn streaming(options: GuardOptions) -> (Arc<EndpointGuard>, Feed, std::net::SocketAddr, Client) {
    let guard = Arc::new(EndpointGuard::new("stream"));
    let (feed, app) = fed(StatusCode::OK);
    let address = serve(Listening::Plain, app.layer(GuardLayer::new(&guard).options(options))).await;
    let mut client = Client::sending(address, http::get("/")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    (guard, feed, address, client)
}

fn send(feed: &Feed, bytes: impl Into<Bytes>) {
    feed.unbounded_send(Ok(bytes.into())).expect("the body is available");
}

#[tokio::test]
async fn stream_holds_the_permit_until_its_end() {
    for hold in [Hold::Auto, Hold::Body] {
        let (guard, feed, address, _client) = streaming(GuardOptions::new().hold(hold)).await;
        let mut next = Client::sending(address, http::get("/")).await;
        eventually("the next request waits", || guard.stats().waiting == 1).await;
        send(&feed, "a partial response");
        assert_eq!((guard.stats().held, guard.stats().waiting), (1, 1));
        drop(feed);
        assert_eq!(next.response().await.text(), "next", "{hold:?}");
        eventually("no permit is held", || guard.stats().held == 0).await;
        assert_eq!((guard.stats().overrun, guard.stats().detached), (0, 0));
    }
}

#[tokio::test]
async fn stream_releases_the_permit_with_its_head_under_hold_head() {
    let (guard, feed, address, _client) = streaming(GuardOptions::new().hold(Hold::Head)).await;
    assert_eq!(guard.stats().held, 0);
    assert_eq!(Client::sending(address, http::get("/")).await.response().await.text(), "next");
    send(&feed, "the stream continues");
}

#[tokio::test]
async fn stream_whose_client_disconnects_admits_the_next_request() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (guard, _feed, address, mut client) = streaming(GuardOptions::new()).await;
        assert_eq!(guard.stats().held, 1);
        client.disconnect(disconnect).await;
        eventually("no permit is held", || guard.stats().held == 0).await;
        assert_eq!(Client::sending(address, http::get("/")).await.response().await.text(), "next");
    }
}

#[tokio::test]
async fn stream_that_fails_admits_the_next_request() {
    let (guard, feed, address, mut client) = streaming(GuardOptions::new()).await;
    feed.unbounded_send(Err(io::Error::other("on purpose"))).expect("the body is available");
    client.rest().await;
    assert_eq!(guard.stats().held, 0);
    assert_eq!(Client::sending(address, http::get("/")).await.response().await.text(), "next");
}

#[tokio::test]
async fn client_that_stops_reading_holds_the_permit_no_longer_than_the_limit() {
    let guard = Arc::new(EndpointGuard::new("slow reader"));
    let endless = async || Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from(vec![0; 64 * 1024]))));
    let app = Router::new().route("/endless", get(endless)).route("/", get(async || "next"));
    let options = GuardOptions::new().body_hold_max(Duration::from_millis(100));
    let address = serve(Listening::Plain, app.layer(GuardLayer::new(&guard).options(options))).await;
    let mut reader = Client::sending(address, http::get("/endless")).await;
    reader.head().await;
    let mut next = Client::sending(address, http::get("/")).await;
    assert_eq!(next.response().await.text(), "next");
    assert_eq!(guard.stats().overrun, 1);
    eventually("no permit is held", || guard.stats().held == 0).await;
    assert_eq!(guard.stats().panicked, 0);
}

#[tokio::test]
async fn responses_without_a_body_release_the_permit_at_once_though_the_handler_streams() {
    let (head, none) = (http::request("HEAD", "/"), http::get("/"));
    for (request, status) in [(head, StatusCode::OK), (none, StatusCode::NO_CONTENT)] {
        for hold in [Hold::Auto, Hold::Body] {
            let guard = Arc::new(EndpointGuard::new("no body"));
            let (feed, app) = fed(status);
            let options = GuardOptions::new().hold(hold);
            let app = app.layer(GuardLayer::new(&guard).options(options));
            let mut client = Client::sending(serve(Listening::Plain, app).await, &request).await;
            assert!(client.head().await.contains(status.as_str()));
            eventually("no permit is held", || guard.stats().held == 0).await;
            assert_eq!(guard.stats().overrun, 0);
            client.send(http::get("/")).await;
            assert_eq!(client.response().await.text(), "next", "{request} {hold:?}");
            drop(feed);
        }
    }
}

#[tokio::test]
async fn full_and_empty_responses_keep_their_length_and_hold_nothing_afterwards() {
    for hold in [Hold::Auto, Hold::Head, Hold::Body] {
        let guard = Arc::new(EndpointGuard::new("full"));
        let app = Router::new().route("/full", get(async || "four")).route("/empty", get(async || ()));
        let app = app.layer(GuardLayer::new(&guard).options(GuardOptions::new().hold(hold)));
        let mut client = Client::connect(serve(Listening::Plain, app).await).await;
        for (path, length, body) in [("/full", "4", "four"), ("/empty", "0", "")] {
            client.send(http::get(path)).await;
            let response = client.response().await;
            assert_eq!((response.header("content-length"), response.text()), (Some(length), body), "{hold:?}");
            assert_eq!((guard.stats().held, guard.stats().overrun), (0, 0), "{hold:?} {path}");
        }
    }
}

#[tokio::test]
async fn stream_that_acquires_the_guard_it_holds_is_refused() {
    let guard = Arc::new(EndpointGuard::new("nested"));
    let again = Arc::clone(&guard);
    let handler = async move || {
        let parts = stream::once(async move {
            let refused = again.acquire().await.expect_err("its own response holds the only permit");
            assert_eq!(refused, AcquireErrorKind::WouldDeadlock);
            Ok::<_, Infallible>("refused")
        });
        Body::from_stream(parts)
    };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::new(&guard));
    let address = serve(Listening::Plain, app).await;
    let mut client = Client::sending(address, http::get("/").replace("host", "connection: close\r\nhost")).await;
    let response = client.rest().await;
    assert!(String::from_utf8_lossy(&response).contains("refused"));
    assert_eq!(guard.stats().held, 0);
}

/// A part, then trailers.
struct WithTrailers(u8);

impl http_body::Body for WithTrailers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        Poll::Ready(match self.0 {
            1 => Some(Ok(Frame::data(Bytes::from("part")))),
            2 => {
                let trailers =
                    HeaderMap::from_iter([("x-sum".parse().expect("a name"), "42".parse().expect("a value"))]);
                Some(Ok(Frame::trailers(trailers)))
            }
            _ => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

#[tokio::test]
async fn trailers_pass_through() {
    let guard = Arc::new(EndpointGuard::new("trailers"));
    let app = Router::new().route("/", get(async || ([("trailer", "x-sum")], Body::new(WithTrailers(0)))));
    let address = serve(Listening::Plain, app.layer(GuardLayer::new(&guard))).await;
    let request = http::get("/").replace("host", "te: trailers\r\nconnection: close\r\nhost");
    let response = Client::sending(address, request).await.rest().await;
    let response = String::from_utf8_lossy(&response);
    assert!(response.ends_with("4\r\npart\r\n0\r\nx-sum: 42\r\n\r\n"), "{response}");
    assert_eq!(guard.stats().held, 0);
}

#[tokio::test]
async fn upgraded_connection_holds_nothing() {
    for hold in [Hold::Auto, Hold::Body] {
        let guard = Arc::new(EndpointGuard::new("upgrade"));
        let handler = async |request: Request| {
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(request).await.expect("the response is an upgrade");
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                let mut line = [0; 4];
                read.read_exact(&mut line).await.expect("the client writes");
                write.write_all(&line).await.expect("the client reads");
            });
            // A body that never ends, because a response without a body would hold nothing anyway.
            let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>().boxed());
            (StatusCode::SWITCHING_PROTOCOLS, [(UPGRADE, "echo"), (CONNECTION, "upgrade")], never)
        };
        let app = Router::new().route("/", get(handler));
        let app = app.layer(GuardLayer::new(&guard).options(GuardOptions::new().hold(hold)));
        let request = http::get("/").replace("host", "connection: upgrade\r\nupgrade: echo\r\nhost");
        let mut client = Client::sending(serve(Listening::Watched, app).await, request).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        assert_eq!(guard.stats().held, 0, "{hold:?}");
        client.send("ping").await;
        assert_eq!(client.rest().await, b"ping");
    }
}
