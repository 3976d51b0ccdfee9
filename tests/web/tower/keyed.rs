//! A guard per key, in front of any service.

use std::future::poll_fn;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use onelane::web::RequestKey;
use onelane::web::tower::{AnyBody, GuardFuture, GuardLayer};
use onelane::{KeyedGuard, Queue};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::tower::{AnyBytes, Received, held, request};
use support::http::Probe;

type Users = Arc<KeyedGuard<u32>>;

/// A layer that authenticates requests may insert this.
#[derive(Clone, Copy)]
struct User(u32);

fn user(head: &Parts) -> Option<u32> {
    head.extensions.get().map(|User(id)| *id)
}

fn users() -> Users {
    Arc::new(KeyedGuard::new("user"))
}

fn by(id: u32) -> Request<AnyBytes> {
    let mut request = request();
    request.extensions_mut().insert(User(id));
    request
}

fn call<S>(guard: &Users, inner: S, request: Request<AnyBytes>) -> Spawn<GuardFuture<S, AnyBody, AnyBytes>>
where
    S: Service<Received, Response = Response<AnyBytes>, Future: Send + 'static> + Clone,
{
    spawn(GuardLayer::keyed(guard, user).layer(inner).call(request))
}

fn in_use(guard: &Users) -> (usize, usize, usize) {
    (guard.len(), guard.stats().held, guard.stats().waiting)
}

#[test]
fn service_that_is_ready_holds_no_key() {
    let (guard, probe) = (users(), Probe::new());
    let mut service = GuardLayer::keyed(&guard, user).layer(held(&probe));
    let mut another = service.clone();
    for _ in 0..3 {
        let ready = spawn(poll_fn(|cx| {
            assert!(Service::<Request<AnyBytes>>::poll_ready(&mut another, cx).is_ready());
            Service::<Request<AnyBytes>>::poll_ready(&mut service, cx)
        }))
        .poll();
        assert_ready_ok!(ready);
    }
    assert_eq!((in_use(&guard), guard.stats().granted), ((0, 0, 0), 0));
    let mut call = spawn(another.call(by(1)));
    assert_pending!(call.poll());
    drop((service, another));
    assert_eq!(in_use(&guard), (1, 1, 0), "the call holds the permit, not the service");
}

#[test]
fn call_that_is_never_polled_holds_no_key_and_does_not_reach_the_service() {
    let (guard, probe) = (users(), Probe::new());
    let unpolled = call(&guard, held(&probe), by(1));
    assert_eq!((in_use(&guard), probe.started()), ((0, 0, 0), 0));
    let mut polled = call(&guard, held(&probe), by(1));
    assert_pending!(polled.poll());
    drop(unpolled);
    assert_eq!((in_use(&guard), probe.started(), guard.stats().cancelled), ((1, 1, 0), 1, 0));
}

#[test]
fn calls_of_one_key_queue_and_other_keys_run_concurrently() {
    let (guard, probe) = (users(), Probe::new());
    let [mut one, mut two, mut other] = [1, 1, 2].map(|id| call(&guard, held(&probe), by(id)));
    for call in [&mut one, &mut two, &mut other] {
        assert_pending!(call.poll());
    }
    assert_eq!((in_use(&guard), probe.started()), ((2, 2, 1), 2));
    probe.release(3);
    assert_ready_ok!(one.poll());
    assert!(two.is_woken());
    assert_ready_ok!(two.poll());
    assert_eq!(in_use(&guard), (1, 1, 0));
    assert_ready_ok!(other.poll());
    assert_eq!(in_use(&guard), (0, 0, 0));
}

#[tokio::test]
async fn dropped_call_finishes_in_a_task_with_the_permit_of_its_key() {
    let (guard, probe) = (users(), Probe::new());
    let mut disconnecting = call(&guard, held(&probe), by(1));
    assert_pending!(disconnecting.poll());
    drop(disconnecting);
    assert_eq!((in_use(&guard), guard.stats().detached), ((1, 1, 0), 1));
    let mut next = call(&guard, held(&probe), by(1));
    assert_pending!(next.poll());
    probe.release(2);
    while Handle::current().metrics().num_alive_tasks() > 0 {
        yield_now().await;
    }
    assert_ready_ok!(next.poll());
    assert_eq!((in_use(&guard), probe.cut_off(), probe.most_inside()), ((0, 0, 0), 0, 1));
    assert_eq!(guard.stats().finished_detached, 1);
}

#[test]
fn call_that_leaves_the_queue_of_its_key_passes_its_grant_on() {
    let (guard, probe) = (users(), Probe::new());
    let [mut holder, mut granted, mut last] = [(); 3].map(|()| call(&guard, held(&probe), by(1)));
    for call in [&mut holder, &mut granted, &mut last] {
        assert_pending!(call.poll());
    }
    probe.release(1);
    assert_ready_ok!(holder.poll());
    drop(granted);
    assert!(last.is_woken());
    probe.release(1);
    assert_ready_ok!(last.poll());
    assert_eq!((in_use(&guard), probe.started()), ((0, 0, 0), 2));
}

#[test]
fn error_of_the_service_passes_through_and_releases_the_key() {
    let guard = users();
    let failing = service_fn(async |_: Received| -> Result<Response<AnyBytes>, u8> { Err(7) });
    assert_eq!(assert_ready_err!(call(&guard, failing, by(1)).poll()), 7);
    assert_eq!((in_use(&guard), guard.stats().granted), ((0, 0, 0), 1));
}

#[test]
fn refusals_are_responses() {
    let guard: Users = Arc::new(KeyedGuard::builder("user").queue(Queue::Reject).build());
    let probe = Probe::new();
    let mut holder = call(&guard, held(&probe), by(1));
    assert_pending!(holder.poll());
    for (request, status, kind) in [
        (by(1), 429, "https://docs.rs/onelane/latest/onelane/web/index.html#busy"),
        (request(), 400, "https://docs.rs/onelane/latest/onelane/web/index.html#key-missing"),
    ] {
        let response = assert_ready_ok!(call(&guard, held(&probe), request).poll());
        assert_eq!(response.status(), status);
        let body = tokio_test::block_on(response.into_body().collect()).expect("the client is connected").to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!((&problem["type"], &problem["status"]), (&kind.into(), &status.into()));
    }
    assert_eq!(probe.started(), 1);
}

/// The service that was polled ready serves the request, whichever path the request takes.
#[test]
fn service_that_was_polled_ready_is_the_one_that_is_called() {
    struct Reserves(bool);
    impl Clone for Reserves {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Received> for Reserves {
        type Response = Response<AnyBytes>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Response<AnyBytes>, Self::Error>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Received) -> Self::Future {
            assert!(self.0, "called without a reservation");
            std::future::ready(Ok(Response::new(crate::tower::empty())))
        }
    }
    let guard = users();
    for key in [RequestKey::Key(1), RequestKey::LetThrough] {
        let layer = GuardLayer::keyed(&guard, move |_: &Parts| key);
        let mut call = spawn(layer.layer(Reserves(false)).oneshot(request()));
        assert_ready_ok!(call.poll());
    }
}
