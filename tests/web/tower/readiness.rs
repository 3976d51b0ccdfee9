//! The readiness of the service behind a guard, which a request needs only once it holds its permit.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Channel};
use onelane::guard::AcquireErrorKind;
use onelane::web::RequestKey;
use onelane::web::tower::GuardLayer;
use onelane::{EndpointGuard, KeyedGuard};
use tokio::runtime::Handle;
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use crate::tower::{AnyBytes, Received, call, empty, full, held, layer, request};
use support::http::Probe;

/// A request of user `id`, the key of the guard.
fn by(id: u32) -> Request<AnyBytes> {
    let mut request = request();
    request.extensions_mut().insert(id);
    request
}

fn user(head: &Parts) -> Option<u32> {
    head.extensions.get().copied()
}

#[test]
fn requests_in_the_queue_of_one_user_take_no_capacity_from_another_user() {
    let (guard, probe) = (Arc::new(KeyedGuard::new("user")), Probe::new());
    let service = ServiceBuilder::new()
        .layer(GuardLayer::keyed(&guard, user))
        .layer(GlobalConcurrencyLimitLayer::new(3))
        .service(held(&probe));
    let mut greedy = [(); 5].map(|()| spawn(service.clone().oneshot(by(1))));
    for call in &mut greedy {
        assert_pending!(call.poll());
    }
    assert_eq!((probe.started(), guard.stats().held, guard.stats().waiting), (1, 1, 4));
    let mut other = spawn(service.oneshot(by(2)));
    assert_pending!(other.poll());
    assert_eq!((probe.started(), guard.stats().held), (2, 2), "two of three places are taken");

    probe.release(6);
    assert_ready_ok!(other.poll());
    for call in &mut greedy {
        assert_ready_ok!(call.poll());
    }
    assert_eq!((probe.finished(), guard.len()), (6, 0));
}

#[test]
fn requests_in_the_queue_of_a_guard_take_no_capacity_from_another_route() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("guarded")), Probe::new());
    let limit = GlobalConcurrencyLimitLayer::new(3);
    let guarded = ServiceBuilder::new().layer(layer(&guard)).layer(limit.clone()).service(held(&probe));
    let open = limit.layer(tower::service_fn(async |_: Request<AnyBytes>| Ok::<_, Infallible>(Response::new(empty()))));
    let mut waiting = [(); 5].map(|()| spawn(guarded.clone().oneshot(request())));
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    assert_ready_ok!(spawn(open.oneshot(request())).poll());

    probe.release(5);
    for call in &mut waiting {
        assert_ready_ok!(call.poll());
    }
    assert_eq!((probe.finished(), guard.stats().held), (5, 0));
}

/// The state of a [`Gated`] service, which the test sets and reads.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<GateState>>);

#[derive(Default)]
struct GateState {
    readiness: Readiness,
    waker: Option<Waker>,
    calls: usize,
    /// The guard inside which readiness is checked.
    guard: Option<Arc<EndpointGuard>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Readiness {
    #[default]
    NotReady,
    Ready,
    Fails,
    Panics,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.0.lock().expect("no thread panics with the mutex held")
    }

    fn set(&self, readiness: Readiness) {
        let mut state = self.state();
        state.readiness = readiness;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn calls(&self) -> usize {
        self.state().calls
    }

    fn service(&self) -> Gated {
        Gated { gate: self.clone(), is_reserved: false }
    }
}

/// A service whose readiness the test sets. Each clone must become ready itself.
struct Gated {
    gate: Gate,
    is_reserved: bool,
}

impl Clone for Gated {
    fn clone(&self) -> Self {
        self.gate.service()
    }
}

impl<B> Service<Request<B>> for Gated {
    type Response = Response<AnyBytes>;
    type Error = &'static str;
    type Future = Ready<Result<Response<AnyBytes>, &'static str>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        let (readiness, guard) = {
            let mut state = self.gate.state();
            state.waker = Some(cx.waker().clone());
            (state.readiness, state.guard.clone())
        };
        if let Some(guard) = guard {
            let nested = assert_ready!(spawn(guard.acquire()).poll()).map(drop);
            assert_eq!(nested.expect_err("the request holds the only permit"), AcquireErrorKind::WouldDeadlock);
        }
        match readiness {
            Readiness::NotReady => Poll::Pending,
            Readiness::Ready => {
                self.is_reserved = true;
                Poll::Ready(Ok(()))
            }
            Readiness::Fails => Poll::Ready(Err("never ready")),
            Readiness::Panics => panic!("on purpose"),
        }
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(self.is_reserved, "called before it was ready");
        self.gate.state().calls += 1;
        ready(Ok(Response::new(full("done"))))
    }
}

#[test]
fn guard_is_ready_even_if_the_service_behind_it_is_not_or_fails() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("ready")), Gate::default());
    for readiness in [Readiness::NotReady, Readiness::Fails] {
        gate.set(readiness);
        let mut service = layer(&guard).layer(gate.service());
        assert_ready_ok!(spawn(poll_fn(|cx| Service::<Request<AnyBytes>>::poll_ready(&mut service, cx))).poll());
    }
}

#[test]
fn request_with_a_permit_waits_until_the_service_is_ready() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("wait")), Gate::default());
    let [mut first, mut second] = [(); 2].map(|()| call(&layer(&guard), gate.service(), request()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!((guard.stats().held, guard.stats().waiting, gate.calls()), (1, 1, 0));
    gate.set(Readiness::Ready);
    assert!(first.is_woken() && !second.is_woken());
    assert_ready_ok!(first.poll());
    assert!(second.is_woken());
    gate.set(Readiness::NotReady);
    assert_pending!(second.poll());
    assert_eq!((guard.stats().held, guard.stats().waiting, gate.calls()), (1, 0, 1));
    gate.set(Readiness::Ready);
    assert_ready_ok!(second.poll());
    assert_eq!((guard.stats().held, gate.calls()), (0, 2));
}

#[test]
fn request_without_a_permit_waits_until_the_service_is_ready() {
    let (guard, gate) = (Arc::new(KeyedGuard::<u32>::new("open")), Gate::default());
    let layer = GuardLayer::keyed(&guard, |_: &Parts| RequestKey::LetThrough);
    let mut open = spawn(layer.layer(gate.service()).oneshot(request()));
    assert_pending!(open.poll());
    gate.set(Readiness::Ready);
    assert!(open.is_woken());
    assert_ready_ok!(open.poll());
    assert_eq!((gate.calls(), guard.stats().granted), (1, 0));

    gate.set(Readiness::Fails);
    assert_eq!(assert_ready_err!(call(&layer, gate.service(), request()).poll()), "never ready");
}

#[test]
fn service_that_fails_to_become_ready_fails_the_request_and_releases_the_permit() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("fails")), Gate::default());
    let [mut waits, mut queued] = [(); 2].map(|()| call(&layer(&guard), gate.service(), request()));
    assert_pending!(waits.poll());
    assert_pending!(queued.poll());
    gate.set(Readiness::Fails);
    assert_eq!(assert_ready_err!(waits.poll()), "never ready");
    assert!(queued.is_woken());
    assert_eq!(assert_ready_err!(queued.poll()), "never ready");
    assert_eq!(assert_ready_err!(call(&layer(&guard), gate.service(), request()).poll()), "never ready");
    assert_eq!((guard.stats().held, gate.calls()), (0, 0));
}

/// No other request may run inside the guard while the service is being dropped.
#[test]
fn service_that_fails_to_become_ready_is_dropped_before_the_permit() {
    #[derive(Clone)]
    struct Failing(Arc<EndpointGuard>, Arc<Mutex<Vec<usize>>>);

    impl Drop for Failing {
        fn drop(&mut self) {
            self.1.lock().expect("no panic").push(self.0.stats().held);
        }
    }

    impl<B> Service<Request<B>> for Failing {
        type Response = Response<AnyBytes>;
        type Error = &'static str;
        type Future = Ready<Result<Response<AnyBytes>, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("not ready"))
        }

        fn call(&mut self, _: Request<B>) -> Self::Future {
            ready(Err("called"))
        }
    }

    let (guard, held) = (Arc::new(EndpointGuard::new("failing")), Arc::new(Mutex::new(Vec::new())));
    let mut service = GuardLayer::new(&guard).layer(Failing(Arc::clone(&guard), Arc::clone(&held)));
    assert_eq!(assert_ready_err!(spawn(service.call(request())).poll()), "not ready");
    assert_eq!((&**held.lock().expect("no panic"), guard.stats().held), (&[1][..], 0));
}

#[test]
fn panic_of_the_readiness_releases_the_permit_at_once() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("panics")), Gate::default());
    let mut waits = call(&layer(&guard), gate.service(), request());
    assert_pending!(waits.poll());
    gate.set(Readiness::Panics);
    assert!(catch_unwind(AssertUnwindSafe(|| waits.poll().is_ready())).is_err());
    // The call still exists: an outer layer may catch the panic and keep the call.
    assert_eq!((guard.stats().held, guard.stats().panicked), (0, 1));
    let mut at_once = call(&layer(&guard), gate.service(), request());
    assert!(catch_unwind(AssertUnwindSafe(|| at_once.poll().is_ready())).is_err());
    assert_eq!((guard.stats().held, guard.stats().panicked), (0, 2));
    gate.set(Readiness::Ready);
    assert!(catch_unwind(AssertUnwindSafe(|| waits.poll().is_ready())).is_err(), "it never runs without its permit");
    assert_eq!(gate.calls(), 0);
}

#[test]
fn readiness_is_checked_inside_the_guard() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("inside")), Gate::default());
    gate.state().guard = Some(Arc::clone(&guard));
    let mut waits = call(&layer(&guard), gate.service(), request());
    assert_pending!(waits.poll());
    gate.set(Readiness::Ready);
    assert_ready_ok!(waits.poll());
    // The first poll checks twice: before the request is stored, and after.
    assert_eq!((guard.stats().refused, guard.stats().held), (3, 0));
}

#[tokio::test]
async fn request_that_is_dropped_before_the_service_is_ready_releases_its_permit() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("dropped")), Gate::default());
    let mut waits = call(&layer(&guard), gate.service(), request());
    assert_pending!(waits.poll());
    let mut next = call(&layer(&guard), gate.service(), request());
    assert_pending!(next.poll());
    drop(waits);
    assert!(next.is_woken());
    assert_eq!((guard.stats().detached, Handle::current().metrics().num_alive_tasks()), (0, 0));
    gate.set(Readiness::Ready);
    assert_ready_ok!(next.poll());
    assert_eq!(gate.calls(), 1);
}

/// Otherwise a server based on hyper would not notice that the client disconnects.
#[test]
fn body_is_read_ahead_while_the_service_is_not_ready() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("read ahead")), Gate::default());
    let received = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&received);
    let inner = ServiceBuilder::new().map_request(move |request: Received| {
        let body = assert_ready!(spawn(request.into_body().collect()).poll()).expect("the client is connected");
        sink.lock().expect("no thread panics with the mutex held").extend_from_slice(&body.to_bytes());
        Request::new(())
    });
    let inner = inner.service(gate.service());
    let (mut client, body) = Channel::<Bytes, std::io::Error>::new(1);
    let mut waits = call(&layer(&guard), inner, Request::new(body.boxed_unsync()));
    assert_pending!(waits.poll());
    client.try_send(http_body::Frame::data(Bytes::from("read "))).expect("the channel is empty");
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    client.try_send(http_body::Frame::data(Bytes::from("ahead"))).expect("the first frame was read");
    drop(client);
    gate.set(Readiness::Ready);
    assert_ready_ok!(waits.poll());
    assert_eq!(*received.lock().expect("no thread panics with the mutex held"), b"read ahead");
}

#[test]
fn client_that_disconnects_before_the_service_is_ready_releases_its_permit() {
    let (guard, gate) = (Arc::new(EndpointGuard::new("gone")), Gate::default());
    let (client, body) = Channel::<Bytes, std::io::Error>::new(1);
    let service = layer(&guard).layer(gate.service());
    let mut waits = spawn(service.oneshot(Request::new(body)));
    assert_pending!(waits.poll());
    assert_eq!(guard.stats().held, 1);
    client.abort(std::io::ErrorKind::ConnectionReset.into());
    assert!(waits.is_woken());
    assert_eq!(assert_ready_ok!(waits.poll()).status(), 400);
    assert_eq!((guard.stats().held, gate.calls()), (0, 0));
}

/// Behind two guards, the inner one is always ready.
#[test]
fn guard_behind_a_guard_is_entered_second() {
    let [outer, inner] = ["outer", "inner"].map(|name| Arc::new(EndpointGuard::new(name)));
    let gate = Gate::default();
    let service = ServiceBuilder::new().layer(layer(&outer)).layer(layer(&inner)).service(gate.service());
    let mut waits = spawn(service.oneshot(Request::<AnyBytes>::new(empty())));
    assert_pending!(waits.poll());
    assert_eq!((outer.stats().held, inner.stats().held), (1, 1));
    gate.set(Readiness::Ready);
    assert_ready_ok!(waits.poll());
}
