//! When a permit is acquired, and when it is released.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::{Request, Response};
use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::web::tower::GuardRequestBody;
use tokio::runtime::Handle;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, service_fn};

use crate::tower::{AnyBytes, Received, call, full, held, layer, request};
use support::http::Probe;

/// The guard's permits in use, and its waiters.
fn held_and_waiting(guard: &EndpointGuard) -> (usize, usize) {
    (guard.stats().held, guard.stats().waiting)
}

#[test]
fn service_that_is_ready_holds_nothing() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("ready")), Probe::new());
    let mut service = layer(&guard).layer(held(&probe));
    let mut another = service.clone();
    for _ in 0..3 {
        let ready = tokio_test::task::spawn(std::future::poll_fn(|cx| {
            assert!(another.poll_ready(cx).is_ready());
            Service::<Request<AnyBytes>>::poll_ready(&mut service, cx)
        }))
        .poll();
        assert_ready_ok!(ready);
    }
    assert_eq!((held_and_waiting(&guard), guard.stats().granted), ((0, 0), 0));
    let mut call = tokio_test::task::spawn(another.call(request()));
    assert_pending!(call.poll());
    assert_eq!(held_and_waiting(&guard), (1, 0), "a permit is available for the service that is called");
    drop((service, another));
    assert_eq!(held_and_waiting(&guard), (1, 0), "the call holds the permit, not the service");
}

#[test]
fn call_that_is_never_polled_holds_nothing_and_does_not_reach_the_service() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("unpolled")), Probe::new());
    let unpolled = call(&layer(&guard), held(&probe), request());
    assert_eq!((held_and_waiting(&guard), probe.started()), ((0, 0), 0));
    let mut polled = call(&layer(&guard), held(&probe), request());
    assert_pending!(polled.poll());
    assert_eq!(probe.started(), 1);
    drop(unpolled);
    assert_eq!((held_and_waiting(&guard), guard.stats().cancelled), ((1, 0), 0));
}

#[test]
fn calls_queue_in_the_order_of_their_first_poll() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("order")), Probe::new());
    let mut calls: Vec<_> = (0..3).map(|_| call(&layer(&guard), held(&probe), request())).collect();
    for i in [2, 0, 1] {
        assert_pending!(calls[i].poll());
    }
    assert_eq!((held_and_waiting(&guard), probe.started()), ((1, 2), 1));
    for (n, i) in [2, 0, 1].into_iter().enumerate() {
        assert!(n == 0 || calls[i].is_woken(), "the release wakes the next waiter");
        probe.release(1);
        assert_ready_ok!(calls[i].poll());
        assert_eq!(probe.finished(), n + 1);
    }
    assert_eq!((held_and_waiting(&guard), probe.most_inside()), ((0, 0), 1));
}

#[test]
fn call_that_leaves_the_queue_passes_its_grant_on() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("leave")), Probe::new());
    let [mut holder, mut granted, mut disconnecting, mut last] =
        [(); 4].map(|()| call(&layer(&guard), held(&probe), request()));
    for call in [&mut holder, &mut granted, &mut disconnecting, &mut last] {
        assert_pending!(call.poll());
    }
    drop(disconnecting);
    assert_eq!(held_and_waiting(&guard), (1, 2));
    probe.release(1);
    assert_ready_ok!(holder.poll());
    assert!(granted.is_woken());
    // The call has been granted a permit, but was not polled.
    drop(granted);
    assert!(last.is_woken());
    probe.release(1);
    assert_ready_ok!(last.poll());
    assert_eq!((probe.started(), held_and_waiting(&guard)), (2, (0, 0)));
}

#[test]
fn panic_in_the_service_releases_the_permit_at_once() {
    let guard = Arc::new(EndpointGuard::new("panic"));
    let in_call = service_fn(|_: Received| -> std::future::Ready<Result<Response<AnyBytes>, Infallible>> {
        panic!("on purpose, in call")
    });
    let in_poll = service_fn(async |_: Received| -> Result<Response<AnyBytes>, Infallible> {
        panic!("on purpose, in poll") //
    });
    let mut first = call(&layer(&guard), in_call, request());
    let mut second = call(&layer(&guard), in_poll, request());
    assert!(catch_unwind(AssertUnwindSafe(|| first.poll().is_ready())).is_err());
    // The call still exists: an outer layer may catch the panic and keep the call.
    assert_eq!((held_and_waiting(&guard), guard.stats().panicked), ((0, 0), 1));
    assert!(catch_unwind(AssertUnwindSafe(|| second.poll().is_ready())).is_err());
    assert_eq!((held_and_waiting(&guard), guard.stats().panicked), ((0, 0), 2));
    drop((first, second));
    assert_eq!(guard.stats().detached, 0);
}

#[tokio::test]
async fn call_that_panicked_is_not_polled_further() {
    let guard = Arc::new(EndpointGuard::new("panic"));
    let in_poll = service_fn(async |_: Received| -> Result<Response<AnyBytes>, Infallible> { panic!("on purpose") });
    let mut call = call(&layer(&guard), in_poll, request());
    assert!(catch_unwind(AssertUnwindSafe(|| call.poll().is_ready())).is_err());
    drop(call);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[test]
fn service_that_acquires_the_guard_around_it_is_refused() {
    let guard = Arc::new(EndpointGuard::new("nested"));
    let again = Arc::clone(&guard);
    // Both in `call` and in the future that it returns.
    let inner = service_fn(move |_: Received| {
        let mut in_call = tokio_test::task::spawn(Arc::clone(&again).acquire_owned());
        assert!(
            matches!(in_call.poll(), std::task::Poll::Ready(Err(error)) if error == AcquireErrorKind::WouldDeadlock)
        );
        let again = Arc::clone(&again);
        async move {
            let refused = again.acquire().await.expect_err("the handler holds the only permit");
            assert_eq!(refused, AcquireErrorKind::WouldDeadlock);
            Ok::<_, Infallible>(Response::new(full("done")))
        }
    });
    assert_ready_ok!(call(&layer(&guard), inner, request()).poll());
    assert_eq!((held_and_waiting(&guard), guard.stats().refused), ((0, 0), 2));
}

#[test]
fn service_may_acquire_its_guard_again_if_a_permit_is_free() {
    let guard = Arc::new(EndpointGuard::builder("two").permits(2).build());
    let again = Arc::clone(&guard);
    let inner = service_fn(move |_: Received| {
        let again = Arc::clone(&again);
        async move {
            let _second = again.acquire().await.expect("the second permit is free");
            Ok::<_, Infallible>(Response::new(full("done")))
        }
    });
    assert_ready_ok!(call(&layer(&guard), inner, request()).poll());
}

#[test]
fn call_alongside_one_that_is_inside_waits_like_any_other() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("join")), Probe::new());
    // One task: a task id could not distinguish this call from one inside.
    let mut both = tokio_test::task::spawn(futures::future::join(
        layer(&guard).layer(held(&probe)).call(request()),
        layer(&guard).layer(held(&probe)).call(request()),
    ));
    assert_pending!(both.poll());
    assert_eq!(held_and_waiting(&guard), (1, 1));
    probe.release(2);
    while both.is_woken() {
        if both.poll().is_ready() {
            assert_eq!((probe.finished(), probe.most_inside()), (2, 1));
            return;
        }
    }
    panic!("nothing wakes it");
}

#[test]
fn layer_added_twice_responds_instead_of_hanging() {
    let guard = Arc::new(EndpointGuard::new("twice"));
    let handler =
        async |_: Request<GuardRequestBody<GuardRequestBody<AnyBytes>>>| -> Result<Response<AnyBytes>, Infallible> {
            panic!("the service is not reached");
        };
    let twice = layer(&guard).layer(service_fn(handler));
    let response = assert_ready_ok!(call(&layer(&guard), twice, request()).poll());
    assert_eq!(response.status(), 500);
    assert_eq!((held_and_waiting(&guard), guard.stats().refused), ((0, 0), 1));
}
