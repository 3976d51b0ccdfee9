//! Responses for one request only: the others are served alone, and correctly.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{AppendHeaders, IntoResponse};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body::{Frame, SizeHint};
use onelane::web::FlightOptions;

use super::{Alone, Collapsed, Led, Site, part_of, run_of};
use crate::axum::refusals::is_problem;
use support::http::{self, Client, bytes, eventually};

/// Three requests; each gets its own response. Then the key is known, and no request waits for another in vain.
async fn is_not_shared<R: IntoResponse>(what: &str, respond: impl Fn(usize) -> R + Clone + Send + Sync + 'static) {
    let options = FlightOptions::new().key_header("x-key").ignore_header("x-ignored");
    let site = Site::responding(options, respond).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    assert_eq!((site.probe.started(), site.layer.stats().waiting), (1, 3), "{what}");
    site.probe.release(3);
    let mut runs = Vec::new();
    for client in &mut clients {
        let response = client.response().await;
        assert_eq!(part_of(&response), Alone, "{what}");
        runs.push(run_of(&response));
    }
    assert_eq!(runs[0], 1, "{what}: the leader has its response");
    runs.sort();
    assert_eq!(runs, [1, 2, 3], "{what}");

    let mut later = site.send(&[http::get("/"), http::get("/")]).await;
    assert_eq!(
        (site.probe.started(), site.layer.stats().waiting),
        (5, 0),
        "{what}: no two requests wait for each other"
    );
    site.probe.release(2);
    for client in &mut later {
        assert_eq!(part_of(&client.response().await), Alone, "{what}");
    }
    assert_eq!((site.layer.stats().runs, site.probe.cut_off()), (1, 0), "{what}");
}

#[tokio::test]
async fn response_that_sets_a_cookie_is_not_shared() {
    is_not_shared("a cookie", |run| [("set-cookie", format!("session={run}"))]).await;
}

#[tokio::test]
async fn response_for_one_user_or_with_no_store_is_not_shared() {
    let values =
        ["private", "Private", "no-store", "no-store, max-age=0", "max-age=60 , NO-STORE", "private=\"x-user\""];
    for value in values {
        is_not_shared(value, move |_| [("cache-control", value)]).await;
    }
    let lines = [("cache-control", "max-age=60"), ("cache-control", "private")];
    is_not_shared("the second of two lines", move |_| AppendHeaders(lines)).await;
}

/// The values of valid header names can be compared, but `*` and invalid names cannot.
#[tokio::test]
async fn response_that_varies_by_more_than_headers_is_not_shared() {
    for value in ["*", "x-key,*", "accept, *", "no header name"] {
        is_not_shared(value, move |_| [("vary", value)]).await;
    }
    let lines = [("vary", "x-key"), ("vary", "*")];
    is_not_shared("the second of two lines", move |_| AppendHeaders(lines)).await;
}

/// Sends three requests. Each gets its own response, one after another, and the next requests join a run again.
async fn is_not_shared_this_time<R: IntoResponse>(
    what: &str,
    request: String,
    respond: impl Fn(usize) -> R + Clone + Send + Sync + 'static,
) {
    let site = Site::responding(FlightOptions::new(), respond).await;
    for round in 0..2 {
        let mut clients = site.send(&[request.clone(), request.clone(), request.clone()]).await;
        assert_eq!((site.layer.stats().waiting, site.layer.stats().runs), (3, 3 * round + 1), "{what}");
        site.probe.release(3);
        for client in &mut clients {
            assert_eq!(part_of(&client.response().await), Alone, "{what}");
        }
    }
    assert_eq!((site.probe.started(), site.probe.most_inside()), (6, 1), "{what}");
}

/// One client's "too many requests" is not another's, nor is the effect of a header that only one client sent.
#[tokio::test]
async fn refusal_of_one_request_is_not_shared_and_the_next_requests_still_share() {
    for status in [400, 401, 403, 407, 425, 429, 431] {
        let status = StatusCode::from_u16(status).expect("the response is a number");
        is_not_shared_this_time(status.as_str(), http::get("/"), move |_| status).await;
    }
}

#[tokio::test]
async fn partial_response_is_not_shared() {
    is_not_shared("206", |_| (StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 0-2/9")], "abc")).await;
}

#[tokio::test]
async fn response_that_announces_trailers_is_not_shared() {
    is_not_shared("trailers", |_| [("trailer", "x-sum")]).await;
}

#[tokio::test]
async fn response_that_is_too_large_is_not_shared_and_every_request_gets_its_own() {
    const SIZE: usize = 20_000_000;
    let site = Site::responding(FlightOptions::new(), |_| bytes(SIZE)).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    site.probe.release(3);
    for client in &mut clients {
        let response = client.response().await;
        assert_eq!((response.status, part_of(&response)), (200, Alone));
        assert!(response.body == bytes(SIZE), "{} bytes, or others", response.body.len());
    }
    let just_too_large = |_| bytes(1024 * 1024 + 1);
    is_not_shared("a byte more than 1 MiB", just_too_large).await;
}

/// As HTTP/1.0 clients see it: the body ends when the connection does.
#[tokio::test]
async fn stream_is_not_shared_and_every_request_gets_its_own() {
    let respond = |run: usize| {
        let pieces = [format!("stream {run}, "), "second piece, ".into(), "end".into()];
        Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)))
    };
    let site = Site::responding(FlightOptions::new(), respond).await;
    let request = "GET / HTTP/1.0\r\nhost: test\r\n\r\n".to_owned();
    let mut clients = site.send(&[request.clone(), request.clone(), request]).await;
    assert_eq!(site.probe.started(), 1);
    site.probe.release(3);
    let mut bodies = Vec::new();
    for client in &mut clients {
        assert!(client.head().await.contains("cache-status: onelane; fwd=bypass\r\n"));
        bodies.push(String::from_utf8(client.rest().await).expect("the header is text"));
    }
    bodies.sort();
    assert_eq!(bodies, [1, 2, 3].map(|run| format!("stream {run}, second piece, end")));
}

#[tokio::test]
async fn stream_that_never_ends_begins_for_every_request() {
    let respond = |run: usize| {
        let first = stream::once(async move { Ok::<_, Infallible>(format!("data: event of run {run}\n\n")) });
        ([("content-type", "text/event-stream")], Body::from_stream(first.chain(stream::pending())))
    };
    let site = Site::responding(FlightOptions::new(), respond).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    site.probe.release(3);
    for client in &mut clients {
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        client.until("data: event of run ").await;
    }
    // Its key is known now, so a later request waits for no other, though the other streams continue.
    let mut later = site.send(&[http::get("/"), http::get("/")]).await;
    assert_eq!((site.probe.started(), site.layer.stats().waiting), (5, 0));
    site.probe.release(2);
    for client in &mut later {
        client.until("data: event of run ").await;
    }
}

/// A body in pieces that reports its length.
struct Pieces {
    pieces: VecDeque<Result<Bytes, io::Error>>,
    size: u64,
}

impl Pieces {
    fn body<const N: usize>(size: u64, pieces: [Result<&'static str, io::ErrorKind>; N]) -> Body {
        let pieces = pieces.into_iter().map(|piece| piece.map(Bytes::from).map_err(io::Error::from)).collect();
        Body::new(Self { pieces, size })
    }
}

type MakeBody = fn() -> Body;

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size)
    }
}

#[tokio::test]
async fn body_in_several_pieces_of_known_size_is_shared_as_a_whole() {
    let site =
        Site::responding(FlightOptions::new(), |_| Pieces::body(9, [Ok("one"), Ok(""), Ok("two"), Ok("six")])).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    site.probe.release(1);
    for (client, part) in clients.iter_mut().zip([Led, Collapsed, Collapsed]) {
        let response = client.response().await;
        assert_eq!((response.text(), part_of(&response)), ("onetwosix", part));
    }
    assert_eq!(site.probe.started(), 1);
}

#[tokio::test]
async fn body_that_breaks_off_is_a_problem_for_the_leader_and_the_followers_share_the_next_run() {
    let broken: [(&str, MakeBody); 3] = [
        ("the body fails", || Pieces::body(9, [Ok("one"), Err(io::ErrorKind::BrokenPipe)])),
        ("the body is too short", || Pieces::body(9, [Ok("one"), Ok("two")])),
        ("the body is too long", || Pieces::body(3, [Ok("one"), Ok("two")])),
    ];
    for (what, broken) in broken {
        let respond = move |run| if run == 1 { broken() } else { Body::from("whole") };
        let site = Site::responding(FlightOptions::new(), respond).await;
        let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
        assert_eq!(site.probe.started(), 1);
        site.probe.release(3);
        let mut responses = Vec::new();
        for client in &mut clients {
            responses.push(client.response().await);
        }
        is_problem(&responses[0], 500, "https://docs.rs/onelane/latest/onelane/web/index.html#answer-broken");
        let mut parts = Vec::new();
        for response in &responses[1..] {
            assert_eq!((response.status, response.text(), run_of(response)), (200, "whole", 2), "{what}");
            parts.push(part_of(response));
        }
        assert!(parts.contains(&Led) && parts.contains(&Collapsed), "{what}: {parts:?}");
        // The next response may succeed, so nothing is remembered.
        site.probe.release(1);
        let mut next = Client::sending(site.address, http::get("/")).await;
        assert_eq!(part_of(&next.response().await), Led, "{what}");
    }
}

/// The leader's response is only for the leader, so it is dropped with the leader.
#[tokio::test]
async fn followers_are_served_alone_though_the_leader_has_disconnected_with_its_response() {
    let site = Site::responding(FlightOptions::new(), |run| [("set-cookie", format!("session={run}"))]).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    clients[0].disconnect(http::Disconnect::Rst).await;
    eventually("the leader has disconnected", || site.layer.stats().waiting == 2).await;
    site.probe.release(3);
    let mut sessions = Vec::new();
    for client in &mut clients[1..] {
        sessions.push(client.response().await.header("set-cookie").expect("the response has one").to_owned());
    }
    sessions.sort();
    assert_eq!(sessions, ["session=2", "session=3"], "no request has the session of the client that disconnected");
}
