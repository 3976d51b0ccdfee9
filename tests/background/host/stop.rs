//! Tests of the shutdown: at any time, and from anywhere.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant as Clock;

use onelane::background::{
    Backoff, CleanUp, ExitKind, HostError, HostHandle, HostPhase, Placement, ServiceHost, ServiceState, Trigger,
    blocking_fn, service_fn,
};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, SLACK, soon, threaded_host, virtual_host};
use support::waiting::{Gate, MS, PATIENCE, until};

#[tokio::test(start_paused = true)]
async fn shutdown_during_the_start_stops_it_and_cleans_up_started_services() {
    let log = Log::default();
    let host = virtual_host()
        .service(Actor::new("started", &log).service())
        .service(Actor::new("starting", &log).start(Act::UntilStopped).service().after("started"))
        .service(Actor::new("unresponsive", &log).start(Act::Ignore).service().after("started").stop_timeout(SECOND))
        .service(Actor::new("waiting", &log).service().after("starting"))
        .build()
        .unwrap();
    let (handle, begun) = (host.handle(), Instant::now());
    let stop = async {
        sleep(SECOND * 3).await;
        handle.shutdown().await
    };
    let (started, stopped) = tokio::join!(host.start(), stop);
    let error = started.unwrap_err();
    assert!(matches!(error, HostError::StoppedWhileStarting { .. }), "{error:?}");
    let report = stopped.unwrap();
    assert_eq!(begun.elapsed(), SECOND * 4);
    let kind = |name: &str| report.service(name).unwrap().exit().map(|exit| exit.kind().to_string());
    assert_eq!(kind("starting"), Some("stopped".into()), "`start` returned `Ok` and was cleaned up");
    assert_eq!(kind("unresponsive"), Some("stopped".into()), "`start` was dropped, so there is nothing to clean up");
    assert!(report.is_clean());
    assert_eq!(kind("waiting"), None);
    assert_eq!(log.count("run starting"), 0, "the service was asked to stop before `run`");
    assert_eq!((log.count("stop starting"), log.count("stop unresponsive"), log.count("stop started")), (1, 0, 1));
    assert!(log.position("stop started") > log.position("dropped start unresponsive"));
}

#[tokio::test(start_paused = true)]
async fn shutdown_during_a_backoff_ends_it_at_once() {
    let log = Log::default();
    let service = Actor::new("actor", &log).run(Act::Fail).service().backoff(Backoff::new(SECOND * 1_000));
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    let report = host.shutdown().await.unwrap();
    assert_eq!(report.took(), std::time::Duration::ZERO);
    assert_eq!(*host.status().service("actor").unwrap().state(), ServiceState::Stopped);
    sleep(SECOND * 10_000).await;
    assert_eq!(log.lines(), ["start actor", "run actor", "stop actor"]);
}

#[tokio::test(start_paused = true)]
async fn concurrent_shutdowns_return_the_same_report() {
    let log = Log::default();
    let service = Actor::new("actor", &log).stop(Act::after(SECOND, Act::Succeed)).service();
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    let (handle, other) = (host.handle(), host.handle());
    let (one, two) = tokio::join!(handle.shutdown(), other.shutdown());
    let (one, two, three) = (one.unwrap(), two.unwrap(), host.shutdown().await.unwrap());
    assert!(std::ptr::eq(one.services(), two.services()) && std::ptr::eq(one.services(), three.services()));
    assert_eq!((one.took(), one.trigger()), (SECOND, &Trigger::Requested));
    assert_eq!(log.count("stop actor"), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_inside_a_service_fails_at_once_and_still_happens() {
    let result = Arc::new(Mutex::new(Vec::new()));
    let (cell, results) = (Arc::new(OnceLock::<HostHandle>::new()), result.clone());
    let handle = cell.clone();
    let service = service_fn("actor", move |cx| {
        let (handle, results) = (handle.clone(), results.clone());
        async move {
            cx.sleep(SECOND).await;
            let result = handle.get().unwrap().shutdown().await;
            results.lock().unwrap().push((Instant::now(), result.unwrap_err().to_string()));
            Ok(())
        }
    });
    let host = virtual_host().service(service).build().unwrap();
    cell.set(host.handle()).unwrap();
    let start = Instant::now();
    host.start().await.unwrap();
    soon("the stop", until("the host has stopped", || host.status().phase() == HostPhase::Stopped)).await;
    let (at, text) = result.lock().unwrap().pop().unwrap();
    assert_eq!((at - start, text.contains("the host is stopping")), (SECOND, true), "{text}");
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn shutdown_inside_a_child_task_fails_at_once_and_still_happens() {
    let cell = Arc::new(OnceLock::<HostHandle>::new());
    let handle = cell.clone();
    let service = service_fn("actor", move |cx| {
        let handle = handle.clone();
        async move {
            let child = cx.spawn(async move { handle.get().unwrap().shutdown().await });
            assert!(matches!(child.await, Ok(Err(HostError::WouldDeadlock))));
            Ok(())
        }
    });
    let host = virtual_host().service(service).build().unwrap();
    cell.set(host.handle()).unwrap();
    let start = Instant::now();
    host.start().await.unwrap();
    soon("the stop", until("the host has stopped", || host.status().phase() == HostPhase::Stopped)).await;
    assert!(start.elapsed() < SECOND);
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_inside_a_thread_fails_for_its_own_host_but_not_for_another() {
    let cell = Arc::new(OnceLock::<[HostHandle; 2]>::new());
    let handles = cell.clone();
    let service = blocking_fn("actor", move |cx| {
        let [own, other] = handles.wait();
        let report = cx.handle().block_on(other.shutdown());
        assert!(report.unwrap().is_clean());
        assert!(matches!(cx.handle().block_on(own.shutdown()), Err(HostError::WouldDeadlock)));
        Ok(())
    });
    let host = threaded_host().service(service).build().unwrap();
    let other = threaded_host().service(Actor::new("other", &Log::default()).service()).build().unwrap();
    other.start().await.unwrap();
    host.start().await.unwrap();
    cell.set([host.handle(), other.handle()]).unwrap();
    until("both hosts have stopped", || [&host, &other].iter().all(|host| host.status().phase() == HostPhase::Stopped))
        .await;
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn service_requests_the_shutdown_with_a_reason() {
    let service = service_fn("actor", |cx| async move {
        cx.shutdown_host("the license has expired");
        cx.stopping().await;
        Ok(())
    });
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    soon("the stop", until("the host has stopped", || host.status().phase() == HostPhase::Stopped)).await;
    let report = host.shutdown().await.unwrap();
    assert!(
        matches!(report.trigger(), Trigger::Service { reason, .. } if &**reason == "the license has expired"),
        "{report:?}"
    );
    assert_eq!((report.trigger().service(), report.exit_code()), (Some("actor"), 0));
}

#[tokio::test]
async fn dropped_host_is_stopped_by_its_own_thread() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).stop(Act::after(MS * 20, Act::Succeed));
    let host = threaded_host().service(actor.service()).build().unwrap();
    host.start().await.unwrap();
    let handle = host.handle();
    drop(host);
    until("the host has stopped", || handle.status().phase() == HostPhase::Stopped).await;
    assert_eq!(log.lines(), ["start actor", "run actor", "stop actor"]);
    let report = handle.shutdown().await.unwrap();
    assert_eq!(*report.trigger(), Trigger::Dropped);
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn shutdown_before_the_start_fails_and_has_no_effect() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    assert!(matches!(host.shutdown().await, Err(HostError::NotStarted)));
    host.handle().request_shutdown();
    host.handle().force_shutdown();
    host.start().await.unwrap();
    assert!(host.status().is_ready());
    assert_eq!(host.shutdown().await.unwrap().forced_by(), None);
    // A host that is dropped without having been started.
    let host = virtual_host().service(Actor::new("actor", &Log::default()).service()).build().unwrap();
    let mut events = host.subscribe();
    let handle = host.handle();
    drop(host);
    assert!(events.recv().await.is_none());
    assert!(matches!(handle.shutdown().await, Err(HostError::NotStarted)));
}

#[tokio::test(start_paused = true)]
async fn start_continues_after_its_future_is_dropped() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).start(Act::after(SECOND * 5, Act::Succeed));
    let host = virtual_host().service(actor.service()).build().unwrap();
    assert!(timeout(SECOND, host.start()).await.is_err());
    assert_eq!(host.status().phase(), HostPhase::Starting);
    assert!(matches!(host.start().await, Err(HostError::AlreadyStarted)));
    sleep(SECOND * 5).await;
    assert!(host.status().is_ready());
    assert!(host.shutdown().await.unwrap().is_clean());
    assert_eq!(log.count("stop actor"), 1);
}

#[tokio::test(start_paused = true)]
async fn start_that_was_never_polled_has_no_effect() {
    let host = virtual_host().build().unwrap();
    drop(host.start());
    assert!(matches!(host.shutdown().await, Err(HostError::NotStarted)));
    host.start().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn forced_shutdown_drops_awaiting_futures_and_leaves_stop_a_moment() {
    let log = Log::default();
    let host = virtual_host()
        .service(Actor::new("base", &log).run(Act::Ignore).service())
        .service(
            Actor::new("unresponsive", &log)
                .run(Act::Ignore)
                .stop(Act::after(MS * 10, Act::Succeed))
                .service()
                .after("base"),
        )
        .service(Actor::new("slow", &log).stop(Act::after(SECOND, Act::Succeed)).service())
        .build()
        .unwrap();
    host.start().await.unwrap();
    let start = Instant::now();
    host.handle().force_shutdown();
    let report = host.shutdown().await.unwrap();
    assert_eq!((start.elapsed(), report.took()), (MS * 45, MS * 45));
    assert_eq!(report.forced_by(), Some(&Trigger::Requested));
    assert!(!report.is_clean() && report.exit_code() == 1);
    let kinds = ["base", "unresponsive", "slow"].map(|name| report.service(name).unwrap().clean_up().to_string());
    assert_eq!(kinds, ["done", "done", "timed out"]);
    assert_eq!(log.times(start, "dropped run unresponsive"), [0]);
    assert_eq!(log.times(start, "dropped stop slow"), [45]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_in_progress_can_be_forced() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("unresponsive", &log).run(Act::Ignore).service()).build().unwrap();
    host.start().await.unwrap();
    let (handle, start) = (host.handle(), Instant::now());
    let force = async {
        sleep(SECOND).await;
        handle.force_shutdown();
        handle.force_shutdown();
    };
    let (report, ()) = tokio::join!(host.shutdown(), force);
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(report.unwrap().service("unresponsive").unwrap().clean_up().to_string(), "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_shutdown_does_not_wait_for_blocked_threads() {
    let (log, gate) = (Log::default(), Gate::default());
    let blocks = |name: &str, placement| Actor::new(name, &log).run(Act::Block(gate.wait())).at(placement);
    let host = threaded_host()
        .service(blocks("blocking", Placement::Blocking))
        .service(blocks("thread", Placement::Thread))
        .build()
        .unwrap();
    host.start().await.unwrap();
    until("both services run", || log.count("run thread") + log.count("run blocking") == 2).await;
    let start = Clock::now();
    host.handle().force_shutdown();
    let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert!(start.elapsed() < MS * 50 + SLACK, "{:?}", start.elapsed());
    let report_of = |name: &str| report.service(name).unwrap().clone();
    assert!(matches!(report_of("blocking").clean_up(), CleanUp::Skipped));
    assert!(matches!(report_of("blocking").exit().unwrap().kind(), ExitKind::Leaked));
    assert!(matches!(report_of("thread").exit().unwrap().kind(), ExitKind::Leaked));
    assert_eq!(report.exit_code(), 1);
    assert_eq!(log.count("stop blocking"), 0);
    // On another thread, although there was no time left to wait for it.
    until("`stop` is called", || log.count("stop thread") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn report_lists_services_in_the_order_in_which_they_were_added() {
    let log = Log::default();
    let host = virtual_host()
        .service(Actor::new("z", &log).service().after("a"))
        .service(Actor::new("a", &log).stop(Act::after(SECOND * 2, Act::Succeed)).service())
        .build()
        .unwrap();
    host.start().await.unwrap();
    let report = host.shutdown().await.unwrap();
    assert_eq!(report.services().iter().map(|service| service.name()).collect::<Vec<_>>(), ["z", "a"]);
    assert_eq!(report.service("a").unwrap().took(), Some(SECOND * 2));
    assert!(report.service("unknown").is_none());
    assert_eq!(report.service("z").unwrap().generations(), 1);
}

/// The supervisor has its own thread, so it survives the runtime.
#[test]
fn host_stops_after_the_runtime_of_its_services_is_dropped() {
    let log = Log::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let host = ServiceHost::builder()
        .without_signals()
        .service(Actor::new("critical", &log).service())
        .service(Actor::new("degradable", &log).service().degradable())
        .build()
        .unwrap();
    runtime.block_on(host.start()).unwrap();
    drop(runtime);
    let start = Clock::now();
    let error = futures::executor::block_on(host.handle().shutdown());
    assert!(start.elapsed() < SECOND + SLACK, "{:?}", start.elapsed());
    while host.status().phase() != HostPhase::Stopped {
        assert!(start.elapsed() < PATIENCE, "{:?}", host.status());
        // The host ends on its own thread.
        std::thread::sleep(MS);
    }
    let report = error.as_ref().map_or_else(|error| error.report().unwrap().clone(), Clone::clone);
    for service in report.services().iter() {
        assert!(matches!(service.exit().unwrap().kind(), ExitKind::Aborted), "{service:?}");
        assert!(matches!(service.clean_up(), CleanUp::Done), "{service:?}");
        assert_eq!(service.generations(), 1);
    }
    assert_eq!((log.count("stop critical"), log.count("stop degradable")), (1, 1));
}

#[test]
fn host_stops_on_its_own_when_the_runtime_of_a_critical_service_is_dropped() {
    let log = Log::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host =
        ServiceHost::builder().without_signals().service(Actor::new("critical", &log).service()).build().unwrap();
    runtime.block_on(host.start()).unwrap();
    drop(runtime);
    let start = Clock::now();
    while host.status().phase() != HostPhase::Stopped {
        assert!(start.elapsed() < SECOND + SLACK, "{:?}", host.status());
        // The host ends on its own thread.
        std::thread::sleep(MS);
    }
    let error = futures::executor::block_on(host.shutdown()).unwrap_err();
    assert!(matches!(error, HostError::GaveUp { .. }));
    assert_eq!(log.count("stop critical"), 1);
}

#[test]
fn shutdown_fails_if_the_runtime_of_the_supervisor_is_dropped() {
    let log = Log::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    runtime.block_on(host.start()).unwrap();
    drop(runtime);
    let error = futures::executor::block_on(host.shutdown()).unwrap_err();
    assert!(matches!(error, HostError::SupervisorGone), "{error:?}");
    assert_eq!(error.exit_code(), 1);
}
