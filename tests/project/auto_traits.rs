//! The public types that are `Send`, `Sync`, `Unpin` and `Debug`. A change here breaks users.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]
#![allow(dead_code, reason = "only one of the probe's two constants is used for each type")]

use std::cell::Cell;
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
use onelane::backend::{
    Attempt, BackendError, Connect, Lease, LeaseId, LockDomain, LockName, OnLost, Owner, Postgres, Redis, Released,
    WhenUnavailable,
};
use onelane::background::{
    Backoff, BlockingContext, BuildError, CleanUp, Exit, ExitKind, ExitReason, HostError, HostEvent, HostEvents,
    HostHandle, HostPhase, HostStatus, Intensity, Placement, ProbeAnswer, Restart, RunContext, Service, ServiceHost,
    ServiceHostBuilder, ServiceReport, ServiceState, ServiceStatus, ShutdownReport, StartContext, StartPhase,
    StopContext, Supervision, TickContext, TickStatus, TimeLimit, Trigger, TriggerError, UnfinishedWork, service_fn,
};
use onelane::guard::futures::{
    Acquire, AcquireAll, AcquireKey, AcquireKeyOwned, AcquireOwned, Run, RunKeyed, RunKeyedToCompletion,
    RunToCompletion, SharedRun,
};
use onelane::guard::{
    EndpointGuardBuilder, FlightStats, GuardStats, KeyedGuardBuilder, KeyedPermits, Shared, SharedGuard,
    SharedKeyedGuard, SingleFlightBuilder,
};
use onelane::offload::from_thread::{FromThreadError, Portal, PortalTask};
use onelane::offload::process::{
    ProcessFuture, ProcessHandle, ProcessPoolBuilder, ProcessStats, ProcessTask, WorkerDeath,
};
use onelane::offload::{
    AcquireTokens, AcquireTokensOwned, BlockingIter, BlockingPool, BlockingPoolBuilder, BlockingStream,
    CapacityLimiter, CpuPool, CpuPoolBuilder, LimiterError, LimiterPermit, LimiterStats, OffloadError,
    OffloadErrorKind, OwnedLimiterPermit, PoolStats, Priority, Progress, RunningTask, TaskHandle,
};
use onelane::watch::{
    Blocked, Frame, Hint, Label, LabelStats, NeverBlocks, Recovered, Report, Stack, Watch, WatchBuilder, WatchError,
    WatchStats, Watched,
};
use onelane::web::axum::{HandshakeListener, HandshakeStream, MakeLinkedService, WatchedListener, WatchedStream};
use onelane::web::{
    ClientLink, FlightOptions, GuardOptions, Guarded, Hold, KeyKind, OnDisconnect, PoolHandler, ProcessHandler,
    Refusal, RefusalReason, RequestKey, actix, axum, tower,
};
use onelane::{
    AcquireError, EndpointGuard, FlightError, KeyedGuard, KeyedPermit, ManagedSnapshot, Order, OwnedKeyedPermit,
    OwnedPermit, Panic, Permit, ProcessError, ProcessPool, Queue, SingleFlight,
};

/// Evaluates to `true` if a type implements a trait: where the bound holds, the inherent constant takes precedence over
/// the trait's.
macro_rules! has {
    ($type:ty: $bound:path) => {{
        struct Probe<T>(PhantomData<T>);
        trait Fallback {
            const HAS: bool = false;
        }
        impl<T> Fallback for Probe<T> {}
        impl<T: $bound> Probe<T> {
            const HAS: bool = true;
        }
        <Probe<$type>>::HAS
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

/// A future that is not `Send`.
struct Local(Rc<()>);

/// A future that is not `Unpin`.
struct Pinned(PhantomPinned);

/// A future or key that is `Send`, but not `Sync`.
#[derive(PartialEq, Eq, Hash)]
struct Unshared(PhantomData<Cell<u8>>);

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
        LockDomain: Send Sync Unpin;
        Connect: Send Sync Unpin;
        Lease: Send Sync Unpin;
        OnLost: Send Sync Unpin;
        WhenUnavailable: Send Sync Unpin;
        BackendError: Send Sync Unpin;
        LockName: Send Sync Unpin;
        LeaseId: Send Sync Unpin;
        Owner: Send Sync Unpin;
        Attempt: Send Sync Unpin;
        Released: Send Sync Unpin;
        Redis: Send Sync Unpin;
        Postgres: Send Sync Unpin;
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
        SharedKeyedGuard<u64>: Send Sync Unpin;
        Shared<KeyedGuard<Rc<()>>>: no no Unpin;
        Shared<CapacityLimiter>: Send Sync Unpin;
        KeyedGuard<u64>: Send Sync Unpin;
        KeyedGuard<Unshared>: Send Sync Unpin;
        KeyedGuard<Rc<()>>: no no Unpin;
        KeyedGuardBuilder<Rc<()>>: Send Sync Unpin;
        KeyedPermit<'static, u64>: Send Sync Unpin;
        KeyedPermit<'static, Unshared>: Send no Unpin;
        OwnedKeyedPermit<u64>: Send Sync Unpin;
        KeyedPermits<'static, u64>: Send Sync Unpin;
        AcquireKey<'static, u64>: Send Sync Unpin;
        AcquireKeyOwned<u64>: Send Sync Unpin;
        AcquireAll<'static, u64>: Send Sync Unpin;
        RunKeyed<'static, u64, Pending<()>>: Send Sync Unpin;
        RunKeyed<'static, u64, Local>: no no Unpin;
        RunKeyed<'static, u64, Pinned>: Send Sync no;
        RunKeyedToCompletion<u64, Pending<()>>: Send Sync Unpin;
        RunKeyedToCompletion<u64, Pinned>: Send Sync Unpin;
        RunKeyedToCompletion<u64, Unshared>: Send no Unpin;
        SingleFlight<u64, u64>: Send Sync Unpin;
        SingleFlight<Unshared, u64, u8>: Send Sync Unpin;
        SingleFlight<Rc<()>, u64>: no no Unpin;
        SingleFlightBuilder<Local, Local, Local>: Send Sync Unpin;
        SharedRun<'static, u64, u64, u8, fn() -> Unshared>: Send Sync Unpin;
        SharedRun<'static, u64, u64, u8, Local>: no no Unpin;
        FlightError<u64>: Send Sync Unpin;
        FlightError<Cell<u8>>: no no Unpin;
        FlightStats: Send Sync Unpin;
        FlightOptions: Send Sync Unpin;
        GuardOptions: Send Sync Unpin;
        ProbeAnswer: Send Sync Unpin;
        Hold: Send Sync Unpin;
        OnDisconnect: Send Sync Unpin;
        KeyKind: Send Sync Unpin;
        RequestKey<u64>: Send Sync Unpin;
        RequestKey<Rc<()>>: no no Unpin;
        Refusal: Send Sync Unpin;
        RefusalReason: Send Sync Unpin;
        Guarded<Local>: Send Sync Unpin;
        ClientLink: Send Sync Unpin;
        WatchedListener: Send Sync Unpin;
        WatchedStream: Send Sync Unpin;
        HandshakeListener<u8, u8>: Send Sync Unpin;
        HandshakeStream<WatchedStream>: Send no Unpin;
        MakeLinkedService<Route>: Send Sync Unpin;
        axum::GuardLayer: Send Sync Unpin;
        tower::GuardLayer: Send Sync Unpin;
        tower::GuardService<Route, axum::AxumBody>: Send Sync Unpin;
        tower::GuardFuture<Route, axum::AxumBody, Body>: Send no Unpin;
        tower::GuardRequestBody<Full<Bytes>>: Send Sync Unpin;
        tower::GuardBody<Full<Bytes>>: Send Sync Unpin;
        axum::FlightLayer: Send Sync Unpin;
        axum::WatchLayer: Send Sync Unpin;
        axum::WatchService<Route>: Send Sync Unpin;
        axum::WatchService<Local>: no no Unpin;
        tower::WatchLayer: Send Sync Unpin;
        tower::WatchService<Route>: Send Sync Unpin;
        tower::WatchService<Local>: no no Unpin;
        axum::AxumBody: Send Sync Unpin;
        tower::FlightLayer: Send Sync Unpin;
        tower::FlightService<Route, axum::AxumBody>: Send Sync Unpin;
        tower::FlightFuture<Local, Local>: Send no Unpin;
        tower::AnyBody: Send Sync Unpin;
        actix::FlightMiddleware: Send Sync Unpin;
        actix::FlightService<Local>: no no Unpin;
        actix::WatchMiddleware: Send Sync Unpin;
        actix::WatchService<Unshared>: Send no Unpin;
        actix::WatchService<Local>: no no Unpin;
        actix::FlightFuture<Bytes>: no no Unpin;
        actix::GuardMiddleware: Send Sync Unpin;
        actix::GuardService<Local>: no no Unpin;
        actix::GuardBody<Bytes>: no no Unpin;
        actix::GuardedFuture<Local>: no no Unpin;
        PoolHandler<u8, Rc<()>>: Send Sync Unpin;
        PoolHandler<Local, ()>: no no Unpin;
        PoolHandler<u8, (), CpuPool>: Send Sync Unpin;
        actix::PoolHandlerFuture<u8, Rc<()>, BlockingPool>: Send Sync Unpin;
        ProcessHandler<Local, Rc<()>>: Send Sync Unpin;
        actix::ProcessHandlerFuture: Send Sync Unpin;
        actix::PoolResponse: Send no Unpin;
        actix::OnWorker<u8>: Send Sync Unpin;
        actix::OnWorker<Rc<()>>: no no Unpin;
        CapacityLimiter: Send Sync Unpin;
        LimiterPermit<'static>: Send Sync Unpin;
        OwnedLimiterPermit: Send Sync Unpin;
        AcquireTokens<'static>: Send Sync Unpin;
        AcquireTokensOwned: Send Sync Unpin;
        LimiterError: Send Sync Unpin;
        LimiterStats: Send Sync Unpin;
        BlockingPool: Send Sync Unpin;
        BlockingPoolBuilder: Send Sync Unpin;
        CpuPool: Send Sync Unpin;
        CpuPoolBuilder: Send Sync Unpin;
        ProcessPool: Send Sync Unpin;
        ProcessPoolBuilder: Send Sync Unpin;
        ProcessTask<Bytes, Bytes>: Send Sync Unpin;
        ProcessFuture<Bytes, Bytes>: Send Sync Unpin;
        ProcessHandle<Bytes>: Send Sync Unpin;
        ProcessError: Send Sync Unpin;
        ProcessStats: Send Sync Unpin;
        WorkerDeath: Send Sync Unpin;
        OffloadError: Send Sync Unpin;
        OffloadErrorKind: Send Sync Unpin;
        PoolStats: Send Sync Unpin;
        Priority: Send Sync Unpin;
        Progress: Send Sync Unpin;
        RunningTask: Send Sync Unpin;
        TaskHandle<Bytes>: Send Sync Unpin;
        BlockingStream<Bytes>: Send no Unpin;
        BlockingStream<PhantomPinned>: Send no Unpin;
        BlockingStream<Local>: no no Unpin;
        BlockingIter<Pinned>: Send Sync Unpin;
        BlockingIter<Local>: no no Unpin;
        FromThreadError: Send Sync Unpin;
        Portal: Send Sync Unpin;
        PortalTask<Bytes>: Send Sync Unpin;
        Backoff: Send Sync Unpin;
        BlockingContext: Send Sync Unpin;
        BuildError: Send Sync Unpin;
        CleanUp: Send Sync Unpin;
        Exit: Send Sync Unpin;
        ExitKind: Send Sync Unpin;
        ExitReason: Send Sync Unpin;
        HostError: Send Sync Unpin;
        HostEvent: Send Sync Unpin;
        HostEvents: Send Sync Unpin;
        HostHandle: Send Sync Unpin;
        HostPhase: Send Sync Unpin;
        HostStatus: Send Sync Unpin;
        Intensity: Send Sync Unpin;
        Panic: Send Sync Unpin;
        Placement: Send Sync Unpin;
        Restart: Send Sync Unpin;
        RunContext: Send Sync Unpin;
        Service: Send Sync Unpin;
        ServiceHost: Send Sync Unpin;
        ServiceHostBuilder: Send Sync Unpin;
        ServiceReport: Send Sync Unpin;
        ServiceState: Send Sync Unpin;
        ServiceStatus: Send Sync Unpin;
        ShutdownReport: Send Sync Unpin;
        StartContext: Send Sync Unpin;
        StartPhase: Send Sync Unpin;
        StopContext: Send Sync Unpin;
        Supervision: Send Sync Unpin;
        TickContext: Send Sync Unpin;
        TickStatus: Send Sync Unpin;
        TimeLimit: Send Sync Unpin;
        Trigger: Send Sync Unpin;
        TriggerError: Send Sync Unpin;
        Stack: Send Sync Unpin;
        Frame: Send Sync Unpin;
        Hint: Send Sync Unpin;
        Watch: Send Sync Unpin;
        WatchBuilder: Send Sync Unpin;
        WatchError: Send Sync Unpin;
        WatchStats: Send Sync Unpin;
        LabelStats: Send Sync Unpin;
        Label: Send Sync Unpin;
        Report: Send Sync Unpin;
        Blocked: Send Sync Unpin;
        Recovered: Send Sync Unpin;
        Watched<Pending<()>>: Send Sync Unpin;
        Watched<Local>: no no Unpin;
        Watched<Pinned>: Send Sync no;
        NeverBlocks<Pending<()>>: Send Sync Unpin;
        NeverBlocks<Local>: no no Unpin;
        NeverBlocks<Pinned>: Send Sync no;
    };
    for (name, has, promised, is_debug) in table {
        assert_eq!(has, promised, "{name}: Send, Sync, Unpin");
        assert!(is_debug, "{name} is not Debug");
    }
}

#[test]
fn probe_detects_missing_traits() {
    assert!(has!(u8: Send) && has!(u8: Debug));
    assert!(!has!(Rc<()>: Send) && !has!(PhantomPinned: Unpin) && !has!(Local: Debug));
}

#[test]
fn owned_values_are_static() {
    fn is_static<T: Send + 'static>(_: &T) {}

    let guard = Arc::new(EndpointGuard::new("owned"));
    is_static(&SharedGuard::from(&guard));
    is_static(&Arc::clone(&guard).acquire_owned());
    is_static(&Arc::clone(&guard).try_acquire_owned().unwrap());
    is_static(&Arc::clone(&guard).run_to_completion_owned(ready(())));
    is_static(&guard.try_acquire().map(drop));
    let keyed = Arc::new(KeyedGuard::new("owned"));
    is_static(&SharedKeyedGuard::from(&keyed));
    is_static(&Arc::clone(&keyed).acquire_owned(1));
    is_static(&Arc::clone(&keyed).try_acquire_owned(1).unwrap());
    is_static(&Arc::clone(&keyed).run_to_completion_owned(1, ready(())));
}

#[test]
fn future_of_drained_is_send() {
    fn is_send<T: Send>(_: &T) {}

    let guard = EndpointGuard::new("drained");
    is_send(&guard.drained());
    // Also where the keys are not `Sync`.
    let keyed = KeyedGuard::<Unshared>::new("drained");
    is_send(&keyed.drained());
}

#[test]
fn futures_of_a_host_are_send() {
    fn is_send<T: Send>(_: &T) {}

    let host = ServiceHost::builder().build().unwrap();
    let (handle, mut events) = (host.handle(), host.subscribe());
    is_send(&host.start());
    is_send(&host.shutdown());
    is_send(&handle.shutdown());
    is_send(&events.recv());
    is_send(&host.run_until(ready(Ok::<(), std::io::Error>(()))));
}

#[test]
fn debug_output_names_the_type_and_its_service() {
    let service = service_fn("beat", |_| async { Ok(()) });
    let service_text = format!("{service:?}");
    let builder = ServiceHost::builder().service(service);
    let builder_text = format!("{builder:?}");
    let host = builder.build().unwrap();
    let texts = [
        ("Service", service_text),
        ("ServiceHostBuilder", builder_text),
        ("ServiceHost", format!("{host:?}")),
        ("HostHandle", format!("{:?}", host.handle())),
        ("HostStatus", format!("{:?}", host.status())),
    ];
    for (name, text) in texts {
        assert!(text.starts_with(name) && text.contains("beat"), "{text}");
    }
}

#[test]
fn debug_output_names_the_type_and_its_guard() {
    let guard = Arc::new(EndpointGuard::new("report"));
    let run: Run<'_, Ready<()>> = guard.run(ready(()));
    let texts = [
        ("EndpointGuard", format!("{guard:?}")),
        ("GuardBuilder", format!("{:?}", EndpointGuard::builder("report"))),
        ("Shared(EndpointGuard", format!("{:?}", SharedGuard::from(&guard))),
        ("AcquireFuture", format!("{:?}", guard.acquire())),
        ("AcquireFuture", format!("{:?}", Arc::clone(&guard).acquire_owned())),
        ("RunFuture", format!("{run:?}")),
        ("RunToCompletionFuture", format!("{:?}", Arc::clone(&guard).run_to_completion_owned(ready(())))),
        ("HeldPermit", format!("{:?}", guard.try_acquire().unwrap())),
        ("HeldPermit", format!("{:?}", Arc::clone(&guard).try_acquire_owned().unwrap())),
        ("GuardStats", format!("{:?}", guard.stats())),
    ];
    for (name, text) in texts {
        assert!(text.starts_with(name), "{text}");
        assert!(text.contains("report"), "{text}");
    }
}

#[test]
fn debug_output_names_the_keyed_type_and_its_guard_but_no_key() {
    const SECRET: &str = "a session's token";
    let guard = Arc::new(KeyedGuard::<&str>::new("user"));
    let flight = SingleFlight::<&str, u64>::new("user");
    let texts = [
        ("KeyedGuard", format!("{guard:?}")),
        ("GuardBuilder", format!("{:?}", KeyedGuard::<&str>::builder("user"))),
        ("Shared(KeyedGuard", format!("{:?}", SharedKeyedGuard::from(&guard))),
        ("AcquireFuture", format!("{:?}", guard.acquire(SECRET))),
        ("AcquireFuture", format!("{:?}", Arc::clone(&guard).acquire_owned(SECRET))),
        ("RunFuture", format!("{:?}", guard.run(SECRET, ready(())))),
        ("RunToCompletionFuture", format!("{:?}", Arc::clone(&guard).run_to_completion_owned(SECRET, ready(())))),
        ("HeldPermit", format!("{:?}", guard.try_acquire(SECRET).unwrap())),
        ("HeldPermit", format!("{:?}", Arc::clone(&guard).try_acquire_owned(SECRET).unwrap())),
        ("SingleFlight", format!("{flight:?}")),
        ("SingleFlightBuilder", format!("{:?}", SingleFlight::<&str, u64>::builder("user"))),
        ("SharedRun", format!("{:?}", flight.run(SECRET, || ready(Ok(1))))),
        ("FlightStats", format!("{:?}", flight.stats())),
        ("FlightLayer", format!("{:?}", axum::FlightLayer::new("user"))),
    ];
    for (name, text) in texts {
        assert!(text.starts_with(name), "{text}");
        assert!(text.contains("user"), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(format!("{:?}", guard.acquire_all([SECRET])).starts_with("AcquireAll"));
}

/// What the feature table says of `serde`.
#[test]
fn statistics_statuses_and_reports_and_what_they_contain_can_be_serialized() {
    fn serializes<T: serde::Serialize>() {}

    serializes::<(GuardStats, FlightStats, PoolStats, RunningTask, LimiterStats)>();
    serializes::<(HostStatus, HostPhase, ServiceStatus, ServiceState, TickStatus, Placement, ManagedSnapshot)>();
    serializes::<(ShutdownReport, ServiceReport, UnfinishedWork, Trigger, Exit, ExitKind, CleanUp)>();
}
