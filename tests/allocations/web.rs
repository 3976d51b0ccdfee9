//! The allocations of the layers per request.

use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ::tower::layer::layer_fn;
use ::tower::{Layer, Service, service_fn};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use onelane::web::RequestKey;
use onelane::web::axum::{GuardLayer, WatchLayer};
use onelane::web::tower::{self, GuardRequestBody};
use onelane::{EndpointGuard, KeyedGuard};

use support::counting::allocations_of;

/// Returns the number of allocations of a request, without those that happen only once per thread.
fn per_request<S, B, R, E: Debug>(service: &mut S, request: impl Fn() -> Request<B>) -> usize
where
    S: Service<Request<B>, Response = Response<R>, Error = E>,
{
    let mut measure = || {
        let request = request();
        allocations_of(|| {
            let mut call = pin!(service.call(request));
            let Poll::Ready(response) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
                panic!("the service is ready at once")
            };
            assert_eq!(response.expect("the service responds").status(), 200);
        })
    };
    measure();
    measure()
}

/// A layer that does nothing.
#[derive(Clone)]
struct NoOp<S>(S);

impl<S: Service<R>, R> Service<R> for NoOp<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

#[test]
fn guarded_request_allocates_once() {
    let guard = Arc::new(EndpointGuard::new("tower"));
    let respond = || async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("small"))) };
    let mut plain = service_fn(move |_: Request<Full<Bytes>>| respond());
    let inner = service_fn(move |_: Request<GuardRequestBody<Full<Bytes>>>| respond());
    let mut guarded = tower::GuardLayer::new(&guard).layer(inner);
    let request = || Request::new(Full::default());
    assert_eq!(per_request(&mut guarded, request), per_request(&mut plain, request) + 1);
}

/// One allocation is for the guard and one for the gate of its key, whose type the layer does not know. The key itself
/// does not allocate here.
#[test]
fn keyed_request_allocates_once_more_than_a_guarded_one() {
    let guard = Arc::new(KeyedGuard::<u64>::new("tower"));
    let respond = || async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("small"))) };
    let mut plain = service_fn(move |_: Request<Full<Bytes>>| respond());
    let inner = service_fn(move |_: Request<GuardRequestBody<Full<Bytes>>>| respond());
    let request = || Request::new(Full::default());
    let unguarded = per_request(&mut plain, request);

    let mut keyed = tower::GuardLayer::keyed(&guard, |_: &Parts| Some(7)).layer(inner);
    assert_eq!(per_request(&mut keyed, request), unguarded + 2);
    let let_through = |_: &Parts| RequestKey::<u64>::LetThrough;
    let mut let_through = tower::GuardLayer::keyed(&guard, let_through).layer(inner);
    assert_eq!(per_request(&mut let_through, request), unguarded + 1);
    assert!(guard.is_empty());
}

/// The request is the only one of its run, and so pays for sharing without any benefit.
#[test]
fn unshared_run_of_a_flight_allocates_a_fixed_number_of_times() {
    let respond = || async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("small"))) };
    let mut plain = service_fn(move |_: Request<Full<Bytes>>| respond());
    let inner = service_fn(move |_: Request<GuardRequestBody<Full<Bytes>>>| respond());
    let get = || Request::new(Full::default());
    // Every server adds extensions of its own to a request.
    let served_get = || {
        let mut request = get();
        request.extensions_mut().insert(7_u64);
        request
    };
    let post = || Request::post("/").body(Full::default()).expect("the request is valid");
    let unshared = per_request(&mut plain, get);

    let mut shared = tower::FlightLayer::new("tower").layer(inner);
    let unshared_with_extension = per_request(&mut plain, served_get);
    assert_eq!(per_request(&mut shared, served_get), unshared_with_extension + 11);
    assert_eq!(per_request(&mut shared, get), unshared + 13, "the mark of the request is its only extension");
    assert_eq!(per_request(&mut shared, post), unshared + 3, "a request that is never shared");
}

/// axum allocates boxes for every layer. The watch layer allocates no more than a layer that does nothing, even if axum
/// applies the layers anew for each request.
#[test]
fn watched_request_in_axum_allocates_as_much_as_behind_a_no_op_layer() {
    let app = || Router::new().route("/users/{id}", get(async || "small"));
    let request = || Request::get("/users/7").body(Body::empty()).expect("the request is valid");
    let (mut watched, mut plain) = (app().layer(WatchLayer::new()), app().layer(layer_fn(NoOp)));
    assert_eq!(per_request(&mut watched, request), per_request(&mut plain, request));
    let (mut watched, mut plain) = (watched.with_state(()), plain.with_state(()));
    assert_eq!(per_request(&mut watched, request), per_request(&mut plain, request));
}

/// In axum, every layer allocates boxes. The guard's layer allocates once more than a layer that does nothing.
#[test]
fn guarded_request_in_axum_allocates_once_more_than_behind_a_no_op_layer() {
    let guard = Arc::new(EndpointGuard::new("axum"));
    let app = || Router::new().route("/", get(async || "small"));
    let request = || Request::get("/").body(Body::empty()).expect("the request is valid");
    // Like `axum::serve`, this applies the layer once and not for each request.
    let count = |app: Router| per_request(&mut app.with_state(()), request);
    let no_op = layer_fn(NoOp);
    assert_eq!(count(app().layer(GuardLayer::new(&guard))), count(app().layer(no_op)) + 1);
    assert_eq!(count(app().route_layer(GuardLayer::new(&guard))), count(app().route_layer(no_op)) + 1);
    let guarded = Router::new().route("/", get(async || "small").layer(GuardLayer::new(&guard)));
    let unguarded = Router::new().route("/", get(async || "small").layer(no_op));
    assert_eq!(count(guarded), count(unguarded) + 1);
}
