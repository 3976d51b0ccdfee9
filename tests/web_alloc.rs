//! What the layer costs in memory. A binary of its own, as it counts every allocation.
#![allow(unsafe_code, reason = "an allocator is")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ::tower::layer::layer_fn;
use ::tower::util::Oneshot;
use ::tower::{Layer, Service, ServiceExt, service_fn};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;
use onelane::web::tower::{self, GuardRequestBody};

struct Counting;

thread_local! {
    /// Allocations of this thread. The tests run on threads of their own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// The allocations of a request, once the thread keeps what it keeps.
fn per_request<S, B, R, E: Debug>(service: &mut S, request: impl Fn() -> Request<B>) -> usize
where
    S: Service<Request<B>, Response = Response<R>, Error = E>,
{
    let mut measure = || {
        let request = request();
        allocations(|| {
            let mut call = pin!(service.call(request));
            let Poll::Ready(response) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("nothing in it waits")
            };
            assert_eq!(response.expect("it is answered").status(), 200);
        })
    };
    measure();
    measure()
}

/// A layer that does nothing but what one must that calls its service later: keep it, and leave a clone behind.
#[derive(Clone)]
struct Later<S>(S);

impl<S, B> Service<Request<B>> for Later<S>
where
    S: Service<Request<B>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, Request<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.0.clone();
        std::mem::replace(&mut self.0, next).oneshot(request)
    }
}

#[test]
fn guarded_request_allocates_once() {
    let guard = Arc::new(EndpointGuard::new("tower"));
    let answer = || async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("small"))) };
    let mut plain = service_fn(move |_: Request<Full<Bytes>>| answer());
    let behind = service_fn(move |_: Request<GuardRequestBody<Full<Bytes>>>| answer());
    let mut guarded = tower::GuardLayer::new(&guard).layer(behind);
    let request = || Request::new(Full::default());
    assert_eq!(per_request(&mut guarded, request), per_request(&mut plain, request) + 1);
}

/// In axum every layer costs a few boxes a request, one of them for what the layer keeps, if it keeps anything.
#[test]
fn guarded_request_in_axum_allocates_once_more_than_behind_a_layer_that_does_nothing() {
    let guard = Arc::new(EndpointGuard::new("axum"));
    let app = || Router::new().route("/", get(async || "small"));
    let request = || Request::get("/").body(Body::empty()).expect("it is a request");
    let guarded = per_request(&mut app().layer(GuardLayer::new(&guard)), request);
    let kept = Arc::new(());
    let later = layer_fn(move |service| {
        let _ = Arc::clone(&kept);
        Later(service)
    });
    let unguarded = per_request(&mut app().layer(later), request);
    assert_eq!(guarded, unguarded + 1);
    let guarded = per_request(&mut app().route_layer(GuardLayer::new(&guard)), request);
    assert_eq!(guarded, unguarded + 1);
}
