//! Tests of the start: its order, failures and limits.

use onelane::background::{
    ExitKind, HostError, HostPhase, Placement, ServiceHost, ServiceState, StartPhase, TimeLimit, Trigger, service_fn,
};
use tokio::time::{Instant, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, soon, threaded_host, virtual_host};
use support::waiting::{Gate, MS, PATIENCE, until};

#[tokio::test(start_paused = true)]
async fn services_start_level_by_level_and_concurrently_within_a_level() {
    let (log, start) = (Log::default(), Instant::now());
    let slow = |name: &str, wait: u32| Actor::new(name, &log).start(Act::after(MS * wait, Act::Succeed)).service();
    let host = virtual_host()
        .service(slow("top", 5).after("left").after("right"))
        .service(slow("left", 100).after("base"))
        .service(slow("right", 300).after("base"))
        .service(slow("base", 200))
        .service(slow("alone", 50))
        .build()
        .unwrap();
    assert_eq!(host.status().phase(), HostPhase::Built);
    host.start().await.unwrap();
    assert_eq!(start.elapsed(), MS * 505);
    let times = ["base", "alone", "left", "right", "top"].map(|name| log.times(start, &format!("start {name}")));
    assert_eq!(times, [[0], [0], [200], [200], [500]]);
    assert_eq!(log.times(start, "run left"), [300]);
    assert!(host.status().is_ready());
    let took = host.status().service("right").unwrap().start_duration();
    assert_eq!(took, Some(MS * 300));
    log.take();
    let _ = host.shutdown().await.unwrap();
    let mut lines = log.lines();
    lines.retain(|line| line.starts_with("stop"));
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(log.position("stop top") < log.position("stop left").min(log.position("stop right")), "{lines:?}");
    assert!(log.position("stop base") > log.position("stop left").max(log.position("stop right")), "{lines:?}");
}

/// Runs a chain a <- b <- c <- d <- e in which the service at `position` fails to start. Returns the log, the error,
/// and `true` if the server was polled.
async fn run_failing_chain(placement: Placement, position: usize, act: &Act) -> (Log, HostError, bool) {
    let (log, was_polled) = (Log::default(), std::cell::Cell::new(false));
    let is_virtual = placement == Placement::Shared;
    let mut builder = if is_virtual { virtual_host() } else { threaded_host() };
    for (index, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let mut actor = Actor::new(name, &log);
        if index == position {
            actor = actor.start(act.clone());
        }
        let mut service = actor.at(placement);
        if index == position && matches!(act, Act::Ignore | Act::Block(_)) {
            service = service.start_timeout(if is_virtual { SECOND } else { MS * 40 }).stop_timeout(MS * 40);
        }
        if index > 0 {
            service = service.after(["a", "b", "c", "d"][index - 1]);
        }
        builder = builder.service(service);
    }
    let server = async {
        was_polled.set(true);
        Ok::<(), std::io::Error>(())
    };
    let error = timeout(PATIENCE * 9, builder.build().unwrap().run_until(server)).await.unwrap().unwrap_err();
    (log, error, was_polled.get())
}

#[tokio::test(start_paused = true)]
async fn failed_start_at_any_position_stops_the_earlier_services_in_reverse() {
    for position in 0..5 {
        for act in [Act::Fail, Act::Panic, Act::Ignore] {
            let (log, error, was_polled) = run_failing_chain(Placement::Shared, position, &act).await;
            assert_rolled_back(&log, &error, position, &act, "dropped start");
            assert!(!was_polled, "the server ran");
        }
    }
}

#[tokio::test]
async fn failed_start_at_any_position_stops_the_earlier_services_in_reverse_on_threads() {
    for position in 0..5 {
        for act in [Act::Fail, Act::Panic, Act::Ignore] {
            let (log, error, was_polled) = run_failing_chain(Placement::Thread, position, &act).await;
            assert_rolled_back(&log, &error, position, &act, "dropped start");
            assert!(!was_polled, "the server ran");
        }
        let gate = Gate::default();
        for act in [Act::Fail, Act::Panic, Act::Block(gate.wait())] {
            let (log, error, was_polled) = run_failing_chain(Placement::Blocking, position, &act).await;
            assert_rolled_back(&log, &error, position, &act, "nothing");
            assert!(!was_polled, "the server ran");
        }
    }
}

fn assert_rolled_back(log: &Log, error: &HostError, position: usize, act: &Act, dropped: &str) {
    let names = ["a", "b", "c", "d", "e"];
    let culprit = names[position];
    let HostError::StartFailed { service, phase: StartPhase::Starting, reason, report, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(&**service, culprit);
    assert!(error.to_string().starts_with(&format!("the service {culprit:?} failed to start: ")), "{error}");
    assert!(matches!(report.trigger(), Trigger::StartFailed { .. }), "{report:?}");
    assert_eq!(report.trigger().service(), Some(culprit));
    assert_eq!(error.exit_code(), 1);
    let kind = reason.kind().unwrap();
    let is_expected = match act {
        Act::Fail => {
            matches!(kind, ExitKind::Failed(error) if error.to_string() == format!("{culprit} fails to start"))
        }
        Act::Panic => matches!(kind, ExitKind::Panicked(panic) if panic.location().is_some()),
        Act::Ignore => matches!(kind, ExitKind::TimedOut(TimeLimit::Start(_))),
        _ => matches!(kind, ExitKind::Leaked),
    };
    assert!(is_expected, "{kind:?} after {act:?}");
    // The services before the culprit started in order and stopped in reverse. The services after it did nothing.
    // (`run` is concurrent with the start of the next service, so it is not in this order.)
    let lines = log.lines();
    let names_after =
        |prefix: &str| -> Vec<&str> { lines.iter().filter_map(|line| line.strip_prefix(prefix)).collect() };
    assert_eq!(names_after("start "), names[..=position]);
    let reversed: Vec<&str> = names[..position].iter().rev().copied().collect();
    assert_eq!(names_after("stop "), reversed, "{lines:?}");
    assert_eq!(names_after(dropped).len(), usize::from(matches!(act, Act::Ignore)), "{lines:?}");
}

#[tokio::test]
async fn async_start_that_blocks_its_thread_is_abandoned() {
    let (log, gate) = (Log::default(), Gate::default());
    let blocks = Actor::new("stuck", &log).start(Act::Block(gate.wait()));
    let service = blocks.at(Placement::Thread).start_timeout(MS * 20).stop_timeout(MS * 20);
    let host = threaded_host().service(service).build().unwrap();
    let error = timeout(PATIENCE, host.start()).await.unwrap().unwrap_err();
    assert!(matches!(&error, HostError::StartFailed { reason, .. } if matches!(reason.kind(), Some(ExitKind::Leaked))));
    assert_eq!(log.count("stop stuck"), 0);
    // The start succeeds after all, too late, and its own thread calls `stop`.
    gate.open();
    until("`stop` is called", || log.count("stop stuck") == 1).await;
    assert_eq!(log.count("run stuck"), 0);
}

#[tokio::test]
async fn blocking_start_that_ends_too_late_has_failed_and_is_cleaned_up() {
    let log = Log::default();
    let late = Actor::new("late", &log).start(Act::after(MS * 60, Act::Succeed));
    let service = late.at(Placement::Blocking).start_timeout(MS * 10).stop_timeout(PATIENCE);
    let host = threaded_host().service(service).build().unwrap();
    let error = timeout(PATIENCE, host.start()).await.unwrap().unwrap_err();
    let HostError::StartFailed { reason, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(reason.kind(), Some(ExitKind::TimedOut(TimeLimit::Start(_)))), "{reason:?}");
    assert_eq!(log.lines(), ["start late", "stop late"]);
}

#[tokio::test(start_paused = true)]
async fn start_that_exceeds_the_startup_timeout_is_rolled_back() {
    let (log, start) = (Log::default(), Instant::now());
    let slow = |name: &str| Actor::new(name, &log).start(Act::after(SECOND * 4, Act::Succeed));
    let host = virtual_host()
        .startup_timeout(SECOND * 6)
        .service(slow("a").service())
        .service(slow("b").service().after("a").stop_timeout(SECOND))
        .service(slow("c").service().after("b"))
        .build()
        .unwrap();
    let error = host.start().await.unwrap_err();
    assert!(matches!(error, HostError::StartTimedOut { .. }), "{error:?}");
    assert_eq!((error.exit_code(), start.elapsed()), (1, SECOND * 7));
    assert_eq!(log.lines(), ["start a", "start b", "run a", "dropped start b", "stop a"].map(str::to_owned));
    assert_eq!(*host.status().service("c").unwrap().state(), ServiceState::Stopped);
    assert!(error.report().unwrap().service("c").unwrap().exit().is_none());
}

#[tokio::test(start_paused = true)]
async fn manual_readiness_delays_dependents_but_not_the_start() {
    let log = Log::default();
    let (become_ready, mut may_be_ready) = tokio::sync::watch::channel(false);
    may_be_ready.mark_unchanged();
    let slow = service_fn("slow", move |cx| {
        let mut may_be_ready = may_be_ready.clone();
        async move {
            may_be_ready.changed().await?;
            cx.ready();
            cx.stopping().await;
            Ok(())
        }
    });
    let host = virtual_host().service(slow.manual_ready()).build().unwrap();
    host.start().await.unwrap();
    assert!(!host.status().is_ready());
    assert!(matches!(host.status().service("slow").unwrap().state(), ServiceState::Running { ready: false, .. }));
    become_ready.send(true).unwrap();
    soon("readiness", until("the host is ready", || host.status().is_ready())).await;
    let _ = host.shutdown().await.unwrap();

    let ready_after = |cx: onelane::background::RunContext| async move {
        cx.sleep(SECOND).await;
        cx.ready();
        cx.stopping().await;
        Ok(())
    };
    let host = virtual_host()
        .service(service_fn("slow", ready_after).manual_ready())
        .service(Actor::new("waits", &log).service().after("slow"))
        .build()
        .unwrap();
    let start = Instant::now();
    host.start().await.unwrap();
    assert_eq!(log.times(start, "start waits"), [1_000]);
}

#[tokio::test(start_paused = true)]
async fn dependents_of_a_completed_service_start() {
    let log = Log::default();
    let host = virtual_host()
        .service(Actor::new("migrate", &log).run(Act::Succeed).service().manual_ready())
        .service(Actor::new("serve", &log).service().after("migrate"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    assert_eq!(log.lines()[..3], ["start migrate", "run migrate", "stop migrate"]);
    assert_eq!(log.count("start serve"), 1);
    assert!(host.status().is_ready(), "{:?}", host.status());
}

#[tokio::test(start_paused = true)]
async fn host_without_services_starts_and_stops() {
    let host = virtual_host().build().unwrap();
    host.start().await.unwrap();
    assert!(host.status().is_ready());
    let report = host.shutdown().await.unwrap();
    assert!(report.is_clean() && report.services().is_empty());
}

#[tokio::test(start_paused = true)]
async fn dependent_of_a_failed_service_does_not_delay_the_start() {
    let log = Log::default();
    let late = |cx: onelane::background::RunContext| async move {
        cx.sleep(SECOND * 5).await;
        cx.ready();
        cx.stopping().await;
        Ok(())
    };
    let host = virtual_host()
        .service(Actor::new("broken", &log).run(Act::Fail).at(Placement::Shared).degradable().restart(never()))
        .service(service_fn("late", late).manual_ready())
        .service(Actor::new("both", &log).service().restart_with("broken").after("late").degradable())
        .build()
        .unwrap();
    let start = Instant::now();
    host.start().await.unwrap();
    assert_eq!(start.elapsed(), SECOND * 5);
    assert_eq!(*host.status().service("both").unwrap().state(), ServiceState::Failed);
    assert_eq!(log.count("start both"), 0);
}

fn never() -> onelane::background::Restart {
    onelane::background::Restart::Never
}

#[tokio::test(start_paused = true)]
async fn critical_dependent_of_a_service_that_never_started_fails_the_start_as_waiting() {
    let log = Log::default();
    let host = virtual_host()
        .service(Actor::new("broken", &log).start(Act::Fail).service().degradable().restart(never()))
        .service(Actor::new("waits", &log).service().after("broken"))
        .build()
        .unwrap();
    let error = host.start().await.unwrap_err();
    let text = "the service \"waits\" could not begin to start: the host gave up on its dependency \"broken\": \
                failed: broken fails to start";
    assert_eq!(error.to_string(), text);
    let HostError::StartFailed { phase: StartPhase::Waiting, reason, .. } = &error else { panic!("{error:?}") };
    assert_eq!((reason.kind().is_none(), reason.dependency()), (true, Some("broken")));
    assert_eq!(log.lines(), ["start broken"]);
}

#[test]
fn long_chain_of_failed_dependents_does_not_overflow_the_stack() {
    const MANY: usize = 50_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let log = Log::default();
    let first = Actor::new("s0", &log).start(Act::Fail).service().degradable().restart(never());
    let mut builder: onelane::background::ServiceHostBuilder = virtual_host().service(first);
    for index in 1..MANY {
        let service = Actor::new(format!("s{index}"), &log).service();
        builder = builder.service(service.degradable().after(&format!("s{}", index - 1)));
    }
    let host = builder.build().unwrap();
    runtime.block_on(async {
        host.start().await.unwrap();
        assert!(host.status().services().all(|service| *service.state() == ServiceState::Failed));
        assert_eq!(log.lines(), ["start s0"]);
        let _ = host.shutdown().await.unwrap();
    });
}

#[tokio::test(start_paused = true)]
async fn host_starts_only_once() {
    let host = virtual_host().build().unwrap();
    host.start().await.unwrap();
    assert!(matches!(host.start().await, Err(HostError::AlreadyStarted)));
    let _ = host.shutdown().await.unwrap();
    assert!(matches!(host.start().await, Err(HostError::AlreadyStarted)));
}

#[test]
fn start_outside_of_a_runtime_fails_and_can_be_retried_inside_one() {
    let host = ServiceHost::builder().build().unwrap();
    let result = futures::executor::block_on(host.start());
    assert!(matches!(result, Err(HostError::NoRuntime)));
    assert!(matches!(futures::executor::block_on(host.shutdown()), Err(HostError::NotStarted)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        host.start().await.unwrap();
        let _ = host.shutdown().await.unwrap();
    });
}
