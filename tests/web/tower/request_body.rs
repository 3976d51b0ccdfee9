//! The body of a waiting request is read ahead, and the service finds it unchanged.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Channel, StreamBody};
use onelane::EndpointGuard;
use onelane::web::tower::GuardRequestBody;
use onelane::web::{GuardOptions, RefusalReason};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::service_fn;

use crate::tower::{AnyBytes, Received, call, empty, full, held, layer, layer_with};
use support::http::{Probe, bytes};

/// What the service found in its body.
#[derive(Debug, Default, PartialEq)]
struct Found {
    lower: u64,
    upper: Option<u64>,
    ended: bool,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// After its last frame.
    ended_afterwards: bool,
}

async fn read(mut body: GuardRequestBody<AnyBytes>) -> Found {
    let hint = body.size_hint();
    let mut found = Found { lower: hint.lower(), upper: hint.upper(), ended: body.is_end_stream(), ..Found::default() };
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        match frame.expect("the body is complete").into_data() {
            Ok(data) => {
                read += data.len() as u64;
                assert!(
                    body.size_hint().lower() + read <= found.lower.max(read),
                    "what was read is not still outstanding"
                );
                found.frames.push(data);
            }
            Err(trailers) => found.trailers = trailers.into_trailers().ok(),
        }
    }
    found.ended_afterwards = body.is_end_stream();
    found
}

/// Sends `body` through a guard that is held until `waited` returns `true`.
fn found_after(options: GuardOptions, body: AnyBytes, waited: impl FnOnce()) -> Found {
    let guard = Arc::new(EndpointGuard::new("body"));
    let permit = guard.try_acquire().expect("the permit is free");
    let found = Arc::new(Mutex::new(None));
    let finds = Arc::clone(&found);
    let service = service_fn(move |request: Received| {
        let finds = Arc::clone(&finds);
        async move {
            let found = read(request.into_body()).await;
            *finds.lock().expect("no panic") = Some(found);
            Ok::<_, Infallible>(Response::new(empty()))
        }
    });
    let mut call = call(&layer_with(&guard, options), service, Request::new(body));
    assert_pending!(call.poll());
    waited();
    if call.is_woken() {
        assert_pending!(call.poll());
    }
    drop(permit);
    assert_ready_ok!(call.poll());
    found.lock().expect("no panic").take().expect("the service ran")
}

fn stream(frames: Vec<Frame<Bytes>>) -> AnyBytes {
    StreamBody::new(futures::stream::iter(frames.into_iter().map(Ok::<_, io::Error>))).boxed_unsync()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))])
}

#[test]
fn full_body_is_the_same_after_waiting() {
    for length in [1, 1000, 64 * 1024, 64 * 1024 + 1, 1_000_000] {
        let found = found_after(GuardOptions::new(), full(bytes(length)), || ());
        let length = length as u64;
        assert_eq!((found.lower, found.upper, found.ended), (length, Some(length), false));
        assert_eq!(found.frames, [bytes(length as usize)]);
        assert!(found.ended_afterwards && found.trailers.is_none());
    }
}

#[test]
fn empty_body_is_still_empty() {
    let found = found_after(GuardOptions::new(), empty(), || ());
    let expected = Found { upper: Some(0), ended: true, ended_afterwards: true, ..Found::default() };
    assert_eq!(found, expected);
}

#[test]
fn stream_with_trailers_is_the_same_after_waiting() {
    let data = [&b"first"[..], b"second", b"third"].map(Bytes::from_static);
    let mut frames: Vec<_> = data.iter().cloned().map(Frame::data).collect();
    frames.push(Frame::trailers(trailers()));
    let found = found_after(GuardOptions::new(), stream(frames), || ());
    assert_eq!((found.lower, found.upper, found.ended), (16, Some(16), false), "its length is known once it was read");
    assert_eq!((&found.frames[..], found.trailers), (&data[..], Some(trailers())));
}

#[test]
fn body_of_trailers_alone_keeps_them() {
    let found = found_after(GuardOptions::new(), stream(vec![Frame::trailers(trailers())]), || ());
    assert_eq!((found.lower, found.upper, found.ended), (0, Some(0), false));
    assert_eq!(found.trailers, Some(trailers()));
}

#[test]
fn body_that_arrives_while_the_request_waits_is_whole() {
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(8);
    sender.try_send(Frame::data(Bytes::from("before"))).expect("the pool has room");
    let found = found_after(GuardOptions::new(), body.boxed_unsync(), move || {
        sender.try_send(Frame::data(Bytes::from("meanwhile"))).expect("the pool has room");
        sender.try_send(Frame::trailers(trailers())).expect("the pool has room");
    });
    assert_eq!(found.frames, ["before", "meanwhile"]);
    assert_eq!(found.trailers, Some(trailers()));
}

#[test]
fn nothing_is_read_ahead_if_the_limit_is_zero() {
    let counted = Counted::new([1000; 3]);
    let read = Arc::clone(&counted.read);
    let found = found_after(GuardOptions::new().read_ahead(0), counted.boxed_unsync(), move || {
        assert_eq!(read.load(Ordering::SeqCst), 0);
    });
    assert_eq!((found.lower, found.upper, found.frames.len()), (3000, Some(3000), 3));
}

#[test]
fn reading_ahead_stops_beyond_the_limit() {
    let counted = Counted::new([1000; 100]);
    let read = Arc::clone(&counted.read);
    let found = found_after(GuardOptions::new().read_ahead(10_000), counted.boxed_unsync(), move || {
        assert_eq!(read.load(Ordering::SeqCst), 11);
    });
    assert_eq!((found.lower, found.upper, found.frames.len()), (100_000, Some(100_000), 100));
}

/// A frame takes memory whatever it contains, and a client may send any number of small frames; in HTTP/2 even empty
/// ones.
#[test]
fn small_frames_are_read_ahead_no_further_than_their_memory_allows() {
    for length in [0, 1] {
        let guard = Arc::new(EndpointGuard::new("small frames"));
        let permit = guard.try_acquire().expect("the permit is free");
        let frames = Counted::new(vec![length; 100_000]);
        let read = Arc::clone(&frames.read);
        let service = service_fn(|request: Received| {
            // The limit does not lose any of them.
            let mut body = request.into_body();
            async move {
                let mut frames = 0;
                while let Some(frame) = body.frame().await {
                    assert!(frame.expect("the body is complete").is_data());
                    frames += 1;
                }
                Ok::<_, Infallible>(Response::new(full(frames.to_string())))
            }
        });
        let mut call = call(&layer(&guard), service, Request::new(frames.boxed_unsync()));
        assert_pending!(call.poll());
        let kept = read.load(Ordering::SeqCst) * size_of::<Frame<Bytes>>();
        assert!(kept < 2 * 64 * 1024, "{kept} bytes for frames of {length} bytes");
        drop(permit);
        let response = assert_ready_ok!(call.poll());
        let body = tokio_test::block_on(response.into_body().collect()).expect("the client is connected").to_bytes();
        assert_eq!(body, "100000");
    }
}

#[test]
fn body_that_breaks_off_while_the_request_waits_never_reaches_the_service() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("broken")), Probe::open());
    let permit = guard.try_acquire().expect("the permit is free");
    let (sender, body) = Channel::<Bytes, io::Error>::new(1);
    let reason = Arc::new(Mutex::new(None));
    let seen_reason = Arc::clone(&reason);
    let options = GuardOptions::new().on_refusal(move |refusal, _| {
        *seen_reason.lock().expect("no panic") = Some(refusal.reason().clone());
        refusal
    });
    let mut call = call(&layer_with(&guard, options), held(&probe), Request::new(body.boxed_unsync()));
    assert_pending!(call.poll());
    sender.abort(io::ErrorKind::UnexpectedEof.into());
    assert!(call.is_woken());
    let response = assert_ready_ok!(call.poll());
    assert_eq!((response.status().as_u16(), guard.stats().waiting), (400, 0));
    assert_eq!(*reason.lock().expect("no panic"), Some(RefusalReason::BodyUnreadable));
    drop(permit);
    assert_eq!((probe.started(), guard.stats().held), (0, 0));
}

#[test]
fn request_that_gets_a_permit_at_once_keeps_its_body_unread() {
    let guard = Arc::new(EndpointGuard::new("free"));
    let counted = Counted::new([10; 2]);
    let read = Arc::clone(&counted.read);
    let service = service_fn(async |request: Received| {
        assert_eq!((request.body().size_hint().exact(), request.body().is_end_stream()), (Some(20), false));
        Ok::<_, Infallible>(Response::new(empty()))
    });
    assert_ready_ok!(call(&layer(&guard), service, Request::new(counted.boxed_unsync())).poll());
    assert_eq!(read.load(Ordering::SeqCst), 0);
}

/// A body of frames of these lengths that counts how many were read.
struct Counted {
    frames: std::vec::IntoIter<usize>,
    read: Arc<AtomicUsize>,
}

impl Counted {
    fn new(frames: impl Into<Vec<usize>>) -> Self {
        Self { frames: frames.into().into_iter(), read: Arc::default() }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = self.frames.next().map(|length| Ok(Frame::data(Bytes::from(vec![0; length]))));
        self.read.fetch_add(usize::from(frame.is_some()), Ordering::SeqCst);
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.frames.as_slice().iter().sum::<usize>() as u64)
    }
}
