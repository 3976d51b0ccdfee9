//! How long a response body holds the permit.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Channel, StreamBody};
use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::web::tower::GuardBody;
use onelane::web::{GuardOptions, Hold};
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};
use tower::{BoxError, Layer, Service, service_fn};

use crate::tower::{AnyBytes, Received, call, empty, full, layer_with, request, responding};

type GuardedResponse = Response<GuardBody<AnyBytes>>;

fn respond(
    guard: &Arc<EndpointGuard>,
    hold: Hold,
    body: impl Fn() -> AnyBytes + Clone + Send + 'static,
) -> GuardedResponse {
    assert_ready_ok!(call(&layer_with(guard, GuardOptions::new().hold(hold)), responding(body), request()).poll())
}

fn next_frame(response: &mut GuardedResponse) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    tokio_test::task::spawn(response.body_mut().frame()).poll()
}

fn next_part(response: &mut GuardedResponse) -> Bytes {
    let frame = assert_ready!(next_frame(response)).expect("a frame is available").expect("the frame is not an error");
    frame.into_data().expect("the frame is data")
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))])
}

/// A body of these frames, every property of which can be set.
#[derive(Default)]
struct Scripted {
    frames: VecDeque<Result<Frame<Bytes>, io::ErrorKind>>,
    /// Reports its end as soon as its last frame has been read.
    says_its_end: bool,
    hint: SizeHint,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(self.frames.pop_front().map(|frame| frame.map_err(io::Error::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.says_its_end && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

fn parts(says_its_end: bool) -> AnyBytes {
    let frames = ["one", "two"].map(|part| Ok(Frame::data(Bytes::from(part)))).into();
    Scripted { frames, says_its_end, ..Scripted::default() }.boxed_unsync()
}

#[tokio::test]
async fn responses_in_memory_hold_nothing_after_their_head() {
    let guard = Arc::new(EndpointGuard::new("full"));
    for hold in [Hold::Auto, Hold::Head] {
        let full = respond(&guard, hold, || full("in memory"));
        let empty = respond(&guard, hold, empty);
        assert_eq!((guard.stats().held, guard.stats().granted % 2), (0, 0), "{hold:?}");
        assert_eq!((full.body().size_hint().exact(), empty.body().is_end_stream()), (Some(9), true));
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "no timer for a response that holds nothing");
}

#[tokio::test]
async fn response_in_memory_is_held_until_the_server_takes_it_under_hold_body() {
    let guard = Arc::new(EndpointGuard::new("body"));
    let mut response = respond(&guard, Hold::Body, || full("in memory"));
    assert_eq!((guard.stats().held, response.body().size_hint().exact()), (1, Some(9)));
    let frame =
        assert_ready!(next_frame(&mut response)).expect("a frame is available").expect("the frame is not an error");
    assert_eq!((frame.into_data().expect("the frame is data"), guard.stats().held), (Bytes::from("in memory"), 0));
    drop(respond(&guard, Hold::Body, empty));
    let response = respond(&guard, Hold::Body, empty);
    assert_eq!(guard.stats().held, 0, "nothing is left for the server to take");
    drop(response);
}

/// A known length does not mean that the bytes are in memory.
#[tokio::test]
async fn stream_of_known_length_holds_the_permit_unless_it_is_short() {
    let guard = Arc::new(EndpointGuard::new("known length"));
    let sized = |bytes| move || Scripted { hint: SizeHint::with_exact(bytes), ..Scripted::default() }.boxed_unsync();
    let short = respond(&guard, Hold::Auto, sized(64 * 1024));
    assert_eq!(guard.stats().held, 0);
    let long = respond(&guard, Hold::Auto, sized(64 * 1024 + 1));
    assert_eq!(guard.stats().held, 1);
    drop((short, long));

    let mut in_memory = respond(&guard, Hold::Auto, || full(vec![0; 1 << 20]));
    assert_eq!(guard.stats().held, 1);
    assert_eq!(next_part(&mut in_memory).len(), 1 << 20);
    assert_eq!(guard.stats().held, 0, "the server takes the body in one piece, and need not send it for that");
}

#[tokio::test]
async fn stream_releases_the_permit_at_its_end() {
    let guard = Arc::new(EndpointGuard::new("end"));
    for hold in [Hold::Auto, Hold::Body] {
        let mut response = respond(&guard, hold, || parts(false));
        for _ in 0..2 {
            assert!(assert_ready!(next_frame(&mut response)).is_some_and(|frame| frame.is_ok()));
            assert_eq!(guard.stats().held, 1, "the stream has not ended yet");
        }
        assert!(assert_ready!(next_frame(&mut response)).is_none());
        assert_eq!(guard.stats().held, 0);
        drop(response);
    }
    tokio::task::yield_now().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "the timers have ended");
    assert_eq!((guard.stats().overrun, guard.stats().held), (0, 0));
}

#[tokio::test]
async fn stream_that_reports_its_end_releases_the_permit_with_its_last_frame() {
    let guard = Arc::new(EndpointGuard::new("end"));
    let mut response = respond(&guard, Hold::Auto, || parts(true));
    assert!(assert_ready!(next_frame(&mut response)).is_some());
    assert_eq!((guard.stats().held, response.body().is_end_stream()), (1, false));
    assert!(assert_ready!(next_frame(&mut response)).is_some());
    assert_eq!((guard.stats().held, response.body().is_end_stream()), (0, true), "the server need not poll again");
}

#[tokio::test]
async fn stream_releases_the_permit_with_its_head_under_hold_head() {
    let guard = Arc::new(EndpointGuard::new("head"));
    let mut response = respond(&guard, Hold::Head, || parts(false));
    assert_eq!(guard.stats().held, 0);
    assert!(assert_ready!(next_frame(&mut response)).is_some());
}

#[tokio::test]
async fn stream_that_is_dropped_releases_the_permit() {
    let guard = Arc::new(EndpointGuard::new("dropped"));
    let mut response = respond(&guard, Hold::Auto, || parts(false));
    assert!(assert_ready!(next_frame(&mut response)).is_some());
    drop(response);
    assert_eq!((guard.stats().held, guard.stats().detached), (0, 0));
}

#[tokio::test]
async fn stream_that_fails_releases_the_permit() {
    let guard = Arc::new(EndpointGuard::new("fails"));
    let failing = || {
        let frames = [Ok(Frame::data(Bytes::from("part"))), Err(io::ErrorKind::BrokenPipe)].into();
        Scripted { frames, ..Scripted::default() }.boxed_unsync()
    };
    let mut response = respond(&guard, Hold::Auto, failing);
    assert!(assert_ready!(next_frame(&mut response)).is_some());
    assert_eq!(guard.stats().held, 1);
    let error = assert_ready!(next_frame(&mut response)).expect("a frame is available").expect_err("the body fails");
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!((kind, guard.stats().held), (Some(io::ErrorKind::BrokenPipe), 0));
}

#[tokio::test]
async fn stream_that_is_pending_holds_the_permit_and_the_next_request_waits() {
    let guard = Arc::new(EndpointGuard::new("pending"));
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(4);
    let once = Arc::new(Mutex::new(Some(body.boxed_unsync())));
    let inner = responding(move || once.lock().expect("no panic").take().unwrap_or_else(empty));
    let mut service = layer_with(&guard, GuardOptions::new()).layer(inner);
    let mut response = assert_ready_ok!(tokio_test::task::spawn(service.call(request())).poll());
    assert_pending!(next_frame(&mut response));
    let mut next = tokio_test::task::spawn(service.call(request()));
    assert_pending!(next.poll());
    assert_eq!((guard.stats().held, guard.stats().waiting), (1, 1));
    sender.try_send(Frame::trailers(trailers())).expect("the pool has room");
    drop(sender);
    let frame =
        assert_ready!(next_frame(&mut response)).expect("a frame is available").expect("the frame is not an error");
    assert_eq!(frame.into_trailers().expect("the trailers pass through"), trailers());
    assert!(assert_ready!(next_frame(&mut response)).is_none());
    assert!(next.is_woken());
    assert_ready_ok!(next.poll());
}

#[tokio::test]
async fn trailers_and_size_hint_pass_through() {
    let guard = Arc::new(EndpointGuard::new("hint"));
    let hinted = || {
        let mut hint = SizeHint::new();
        hint.set_lower(3);
        hint.set_upper(900);
        let frames = [Ok(Frame::data(Bytes::from("one"))), Ok(Frame::trailers(trailers()))].into();
        Scripted { frames, hint, ..Scripted::default() }.boxed_unsync()
    };
    for hold in [Hold::Auto, Hold::Head, Hold::Body] {
        let response = respond(&guard, hold, hinted);
        let hint = response.body().size_hint();
        assert_eq!((hint.lower(), hint.upper(), response.body().is_end_stream()), (3, Some(900), false), "{hold:?}");
        let collected = response.into_body().collect().await.expect("the body is complete");
        assert_eq!((collected.trailers(), guard.stats().held), (Some(&trailers()), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_not_polled_releases_the_permit_after_the_limit() {
    let guard = Arc::new(EndpointGuard::new("slow"));
    let options = GuardOptions::new().body_hold_max(Duration::from_secs(5));
    let service = responding(|| parts(false));
    let mut response = assert_ready_ok!(call(&layer_with(&guard, options), service, request()).poll());
    sleep(Duration::from_millis(4_999)).await;
    assert_eq!((guard.stats().held, guard.stats().overrun), (1, 0));
    sleep(Duration::from_millis(2)).await;
    assert_eq!((guard.stats().held, guard.stats().overrun), (0, 1));
    // The rest of the stream runs alongside the next request, and releases nothing twice.
    let permit = guard.try_acquire().expect("the permit is free");
    for _ in 0..2 {
        assert!(assert_ready!(next_frame(&mut response)).is_some());
    }
    assert!(assert_ready!(next_frame(&mut response)).is_none());
    drop(response);
    assert_eq!(guard.stats().held, 1);
    drop(permit);
    assert_eq!((guard.stats().held, guard.stats().overrun), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn body_limit_is_thirty_seconds_by_default() {
    let guard = Arc::new(EndpointGuard::new("default"));
    let _response = respond(&guard, Hold::Auto, || parts(false));
    sleep(Duration::from_millis(29_999)).await;
    assert_eq!(guard.stats().held, 1);
    sleep(Duration::from_millis(2)).await;
    assert_eq!(guard.stats().held, 0);
}

#[tokio::test]
async fn tunnels_hold_nothing() {
    for hold in [Hold::Auto, Hold::Body] {
        let cases = [
            (Method::GET, StatusCode::SWITCHING_PROTOCOLS, 0),
            (Method::CONNECT, StatusCode::OK, 0),
            (Method::CONNECT, StatusCode::BAD_GATEWAY, 1),
            (Method::GET, StatusCode::OK, 1),
        ];
        for (method, status, held) in cases {
            let guard = Arc::new(EndpointGuard::new("tunnel"));
            let service = service_fn(move |_: Received| {
                let mut response = Response::new(parts(false));
                *response.status_mut() = status;
                async move { Ok::<_, Infallible>(response) }
            });
            let mut request = request();
            *request.method_mut() = method.clone();
            let options = GuardOptions::new().hold(hold);
            let response = assert_ready_ok!(call(&layer_with(&guard, options), service, request).poll());
            assert_eq!(guard.stats().held, held, "{method} {status} {hold:?}");
            drop(response);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_that_acquires_its_guard_is_refused_while_it_holds_the_permit() {
    let guard = Arc::new(EndpointGuard::new("nested"));
    let again = Arc::clone(&guard);
    let body = move || {
        let parts = futures::stream::unfold(Arc::clone(&again), async |guard| {
            let part = match guard.acquire().await {
                Ok(_) => "acquired",
                Err(error) if error == AcquireErrorKind::WouldDeadlock => "refused",
                Err(_) => "failed",
            };
            Some((Ok(Frame::data(Bytes::from(part))), guard))
        });
        StreamBody::new(parts).boxed_unsync()
    };
    let mut response = respond(&guard, Hold::Auto, body);
    assert_eq!(next_part(&mut response), "refused");
    sleep(Duration::from_secs(31)).await;
    assert_eq!(guard.stats().overrun, 1);
    let permit = guard.try_acquire().expect("the stream no longer holds the permit");
    assert_pending!(next_frame(&mut response), "the stream waits like any other caller");
    drop(permit);
    assert_eq!(next_part(&mut response), "acquired");
}
