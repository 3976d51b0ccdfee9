//! Which public types can be sent, shared and moved: a change here breaks users.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]
#![allow(dead_code, reason = "of the probe's two answers, one is used for each type")]

use std::fmt::Debug;
use std::future::{Pending, Ready, ready};
use std::marker::{PhantomData, PhantomPinned};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::axum::body::Body;
use ::axum::routing::Route;
use bytes::Bytes;
use http_body_util::Full;
use onelane::web::axum::{WatchedListener, WatchedStream};
use onelane::web::{ClientLink, GuardOptions, Guarded, Refusal, RefusalReason, actix, axum, tower};
use onelane::{
    Acquire, AcquireError, AcquireOwned, EndpointGuard, EndpointGuardBuilder, GuardStats, Order, OwnedPermit, Permit,
    Queue, RetryEstimate, Run, RunToCompletion, SharedGuard,
};

/// Whether a type has a trait: the inherent constant, where its bound holds, goes before the one of the trait.
macro_rules! has {
    ($type:ty: $bound:path) => {{
        struct Probe<T>(PhantomData<T>);
        trait Otherwise {
            const ANSWER: bool = false;
        }
        impl<T> Otherwise for Probe<T> {}
        impl<T: $bound> Probe<T> {
            const ANSWER: bool = true;
        }
        <Probe<$type>>::ANSWER
    }};
}

macro_rules! table {
    ($($type:ty: $send:ident $sync:ident $unpin:ident;)*) => {
        [$((
            stringify!($type),
            [has!($type: Send), has!($type: Sync), has!($type: Unpin)],
            [stringify!($send) == "Send", stringify!($sync) == "Sync", stringify!($unpin) == "Unpin"],
            has!($type: Debug),
        )),*]
    };
}

/// A future that stays on its thread.
struct Local(Rc<()>);

/// A future that stays at its place.
struct Pinned(PhantomPinned);

/// A future that can go to another thread, but not be looked at from there.
struct Unshared(std::cell::Cell<u8>);

macro_rules! never_ready {
    ($($name:ident)*) => {
        $(impl Future for $name {
            type Output = ();

            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                Poll::Pending
            }
        })*
    };
}

never_ready!(Local Pinned Unshared);

#[test]
fn public_types_are_send_sync_and_unpin_as_promised() {
    let table = table! {
        EndpointGuard: Send Sync Unpin;
        EndpointGuardBuilder: Send Sync Unpin;
        SharedGuard: Send Sync Unpin;
        Queue: Send Sync Unpin;
        Order: Send Sync Unpin;
        Permit<'static>: Send Sync Unpin;
        OwnedPermit: Send Sync Unpin;
        Acquire<'static>: Send Sync Unpin;
        AcquireOwned: Send Sync Unpin;
        Run<'static, Pending<()>>: Send Sync Unpin;
        Run<'static, Local>: no no Unpin;
        Run<'static, Pinned>: Send Sync no;
        Run<'static, Unshared>: Send no Unpin;
        RunToCompletion<Pending<()>>: Send Sync Unpin;
        RunToCompletion<Pinned>: Send Sync Unpin;
        RunToCompletion<Unshared>: Send no Unpin;
        AcquireError: Send Sync Unpin;
        GuardStats: Send Sync Unpin;
        RetryEstimate: Send Sync Unpin;
        GuardOptions: Send Sync Unpin;
        Refusal: Send Sync Unpin;
        RefusalReason: Send Sync Unpin;
        Guarded<Local>: Send Sync Unpin;
        ClientLink: Send Sync Unpin;
        WatchedListener: Send Sync Unpin;
        WatchedStream: Send Sync Unpin;
        axum::GuardLayer: Send Sync Unpin;
        tower::GuardLayer: Send Sync Unpin;
        tower::GuardService<Route, axum::AxumBody>: Send Sync Unpin;
        tower::GuardFuture<Route, axum::AxumBody, Body>: Send no Unpin;
        tower::GuardRequestBody<Full<Bytes>>: Send Sync Unpin;
        tower::GuardBody<Full<Bytes>>: Send Sync Unpin;
        tower::HeldBody<Full<Bytes>>: Send Sync Unpin;
        tower::Replay<Full<Bytes>>: Send Sync Unpin;
        actix::GuardMiddleware: Send Sync Unpin;
        actix::GuardService<Local>: no no Unpin;
        actix::GuardBody<Bytes>: no no Unpin;
        actix::GuardedFuture<Local>: Send Sync Unpin;
    };
    for (name, has, promised, is_debug) in table {
        assert_eq!(has, promised, "{name}: Send, Sync, Unpin");
        assert!(is_debug, "{name} is not Debug");
    }
}

#[test]
fn the_probe_tells_what_a_type_lacks() {
    assert!(has!(u8: Send) && has!(u8: Debug));
    assert!(!has!(Rc<()>: Send) && !has!(PhantomPinned: Unpin) && !has!(Local: Debug));
}

#[test]
fn what_is_owned_outlives_its_maker() {
    fn is_static<T: Send + 'static>(_: &T) {}

    let guard = Arc::new(EndpointGuard::new("owned"));
    is_static(&SharedGuard::from(&guard));
    is_static(&Arc::clone(&guard).acquire_owned());
    is_static(&Arc::clone(&guard).try_acquire_owned().unwrap());
    is_static(&Arc::clone(&guard).run_to_completion_owned(ready(())));
    is_static(&AcquireError::Closed);
}

#[test]
fn the_future_of_drained_can_be_sent() {
    fn is_send<T: Send>(_: &T) {}

    let guard = EndpointGuard::new("drained");
    is_send(&guard.drained());
}

#[test]
fn debug_names_the_type_and_the_guard() {
    let guard = Arc::new(EndpointGuard::new("report"));
    let run: Run<'_, Ready<()>> = guard.run(ready(()));
    let texts = [
        ("EndpointGuard", format!("{guard:?}")),
        ("EndpointGuardBuilder", format!("{:?}", EndpointGuard::builder("report"))),
        ("SharedGuard", format!("{:?}", SharedGuard::from(&guard))),
        ("Acquire", format!("{:?}", guard.acquire())),
        ("AcquireOwned", format!("{:?}", Arc::clone(&guard).acquire_owned())),
        ("Run", format!("{run:?}")),
        ("RunToCompletion", format!("{:?}", Arc::clone(&guard).run_to_completion_owned(ready(())))),
        ("Permit", format!("{:?}", guard.try_acquire().unwrap())),
        ("OwnedPermit", format!("{:?}", Arc::clone(&guard).try_acquire_owned().unwrap())),
        ("GuardStats", format!("{:?}", guard.stats())),
    ];
    for (name, text) in texts {
        assert!(text.starts_with(name), "{text}");
        assert!(text.contains("report"), "{text}");
    }
}
