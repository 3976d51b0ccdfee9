//! Tests of restarts: which exits cause them, when they happen, and how often.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use onelane::background::{
    Backoff, ExitKind, HostError, HostPhase, Intensity, Placement, Restart, ServiceState, TimeLimit, Trigger,
    blocking_fn, service_fn,
};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, threaded_host, virtual_host};
use support::waiting::{Gate, MS, PATIENCE, until};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(start_paused = true)]
async fn delays_double_up_to_their_limit() {
    let (log, start) = (Log::default(), Instant::now());
    let backoff = Backoff::new(SECOND).limit(SECOND * 10).jitter(0.0);
    let service = Actor::new("actor", &log).run(Act::Fail).service().backoff(backoff);
    let host = virtual_host().service(service.intensity(Intensity::unlimited())).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 50).await;
    assert_eq!(log.times(start, "start actor"), [0, 1_000, 3_000, 7_000, 15_000, 25_000, 35_000, 45_000]);
    let status = host.status();
    let state = status.service("actor").unwrap().state();
    assert!(matches!(state, ServiceState::BackingOff { failures: 8, delay, .. } if *delay == SECOND * 10), "{state:?}");
    assert!(!status.is_ready());
    assert_eq!(status.service("actor").unwrap().restarts(), 8);
}

#[tokio::test(start_paused = true)]
async fn jitter_adds_at_most_its_fraction() {
    let mut seen = Vec::new();
    for _ in 0..20 {
        let (log, start) = (Log::default(), Instant::now());
        let service = Actor::new("actor", &log).run(Act::Fail).service().backoff(Backoff::new(SECOND));
        let host = virtual_host().service(service).build().unwrap();
        host.start().await.unwrap();
        sleep(SECOND * 2).await;
        seen.push(log.times(start, "start actor")[1]);
        let _ = host.shutdown().await.unwrap();
    }
    assert!(seen.iter().all(|at| (1_000..=1_501).contains(at)), "{seen:?}");
    assert!(seen.iter().any(|at| *at != seen[0]), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn restart_never_gives_up_at_the_first_failure_but_not_at_completion() {
    for (act, state) in
        [(Act::Fail, ServiceState::Failed), (Act::Panic, ServiceState::Failed), (Act::Succeed, ServiceState::Completed)]
    {
        let log = Log::default();
        let service = Actor::new("actor", &log).run(act).service().restart(Restart::Never).degradable();
        let host = virtual_host().service(service).build().unwrap();
        host.start().await.unwrap();
        sleep(DAY).await;
        assert_eq!(*host.status().service("actor").unwrap().state(), state);
        assert_eq!((log.count("start actor"), log.count("stop actor")), (1, 1));
        assert!(host.status().is_ready(), "the host does not need a degradable service");
        assert_eq!(host.shutdown().await.unwrap().exit_code(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn service_that_keeps_completing_with_restart_always_backs_off_until_the_host_gives_up() {
    let (log, start) = (Log::default(), Instant::now());
    let service = Actor::new("actor", &log).run(Act::Succeed).service().restart(Restart::Always);
    let host = virtual_host().service(service.backoff(Backoff::new(SECOND).jitter(0.0))).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 100).await;
    assert_eq!(log.times(start, "start actor"), [0, 1_000, 3_000, 7_000, 15_000, 31_000]);
    let error = host.shutdown().await.unwrap_err();
    assert!(matches!(error, HostError::GaveUp { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 1);
}

#[tokio::test(start_paused = true)]
async fn host_gives_up_on_a_crash_loop_even_if_each_generation_is_ready_for_a_moment() {
    let (log, start) = (Log::default(), Instant::now());
    let service = Actor::new("actor", &log).run(Act::after(SECOND, Act::Panic)).service();
    let host = virtual_host().service(service.backoff(Backoff::none())).build().unwrap();
    host.start().await.unwrap();
    sleep(MS * 500).await;
    assert!(host.status().is_ready());
    sleep(SECOND * 20).await;
    assert_eq!(log.times(start, "start actor"), [0, 1_000, 2_000, 3_000, 4_000, 5_000]);
    assert_eq!(log.count("stop actor"), 6);
    let error = host.shutdown().await.unwrap_err();
    let HostError::GaveUp { service, reason, report, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(report.trigger(), Trigger::GaveUp { .. }), "{report:?}");
    assert_eq!((&**service, report.trigger().service()), ("actor", Some("actor")));
    assert!(matches!(reason.kind(), Some(ExitKind::Panicked(_))));
    assert!(
        error.to_string().starts_with("the host gave up on the service \"actor\": panicked: actor panics in run, at ")
    );
    assert_eq!(host.status().phase(), HostPhase::Stopped);
    assert_eq!(*host.status().service("actor").unwrap().state(), ServiceState::Failed);
}

#[tokio::test(start_paused = true)]
async fn one_crash_a_day_never_exceeds_the_intensity() {
    let log = Log::default();
    let service = Actor::new("actor", &log).run(Act::after(DAY - SECOND, Act::Panic)).service();
    let service = service.backoff(Backoff::new(SECOND).jitter(0.0));
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(DAY * 1_000 + SECOND).await;
    let status = host.status();
    let service = status.service("actor").unwrap();
    assert_eq!((service.restarts(), service.generation()), (1_000, 1_001));
    assert!(status.is_ready());
    assert_eq!(service.last_failure().unwrap().ran_for(), DAY - SECOND);
}

#[tokio::test(start_paused = true)]
async fn delay_is_reset_after_a_stable_generation() {
    let (log, start) = (Log::default(), Instant::now());
    let runs = [
        Act::Fail,
        Act::Fail,
        Act::after(SECOND * 29, Act::Fail),
        Act::after(SECOND * 30, Act::Fail),
        Act::UntilStopped,
    ];
    let service = Actor::new("actor", &log).runs(runs).service().backoff(Backoff::new(SECOND).jitter(0.0));
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 100).await;
    // Delays of 1 s and 2 s, 29 s of running and a delay of 4 s, 30 s of running, which is stable, and a delay of 1 s.
    assert_eq!(log.times(start, "start actor"), [0, 1_000, 3_000, 36_000, 67_000]);
}

#[tokio::test(start_paused = true)]
async fn time_spent_not_ready_does_not_make_a_generation_stable() {
    let starts = Arc::new(Mutex::new(Vec::new()));
    let (seen, start) = (starts.clone(), Instant::now());
    let service = service_fn("actor", move |cx| {
        seen.lock().unwrap().push((Instant::now() - start).as_secs());
        async move {
            cx.sleep(SECOND * 20).await;
            cx.not_ready("no connection");
            cx.sleep(SECOND * 20).await;
            Err("lost".into())
        }
    });
    let host = virtual_host().service(service.backoff(Backoff::new(SECOND).jitter(0.0))).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 30).await;
    let status = host.status();
    assert_eq!(status.service("actor").unwrap().state().to_string(), "not ready: no connection");
    assert!(!status.is_ready());
    sleep(SECOND * 100).await;
    assert_eq!(*starts.lock().unwrap(), [0, 41, 83, 127]);
}

#[tokio::test(start_paused = true)]
async fn next_generation_sees_how_the_last_one_failed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let records = seen.clone();
    let service = service_fn("actor", move |cx| {
        let failure = cx.last_failure().map(|exit| (exit.generation(), exit.kind().to_string(), exit.ran_for()));
        records.lock().unwrap().push((cx.generation(), failure));
        async move {
            cx.sleep(SECOND * 3).await;
            match cx.generation() {
                1 => Err(std::io::Error::other("disk full").into()),
                2 => Ok(()),
                _ => {
                    cx.stopping().await;
                    Ok(())
                }
            }
        }
    });
    let host = virtual_host().service(service.restart(Restart::Always)).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 60).await;
    let failure = Some((1, "failed: disk full".to_owned(), SECOND * 3));
    assert_eq!(*seen.lock().unwrap(), [(1, None), (2, failure.clone()), (3, failure)]);
    let status = host.status();
    let service = status.service("actor").unwrap();
    assert!(matches!(service.last_exit().unwrap().kind(), ExitKind::Completed));
    assert!(matches!(service.last_failure().unwrap().kind(), ExitKind::Failed(_)));
}

#[tokio::test(start_paused = true)]
async fn failed_start_of_a_later_generation_is_retried() {
    let (log, start) = (Log::default(), Instant::now());
    let actor = Actor::new("actor", &log).starts([Act::Succeed, Act::Fail, Act::Panic, Act::Ignore, Act::Succeed]);
    let service = actor.runs([Act::Fail, Act::UntilStopped]).service().start_timeout(SECOND * 2);
    let host = virtual_host().service(service.backoff(Backoff::new(SECOND).jitter(0.0))).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 40).await;
    assert_eq!(log.times(start, "start actor"), [0, 1_000, 3_000, 7_000, 17_000]);
    assert_eq!(log.count("stop actor"), 1, "only a successful start is cleaned up");
    assert!(host.status().is_ready());
    let status = host.status();
    let failure = status.service("actor").unwrap().last_failure().unwrap();
    assert!(matches!(failure.kind(), ExitKind::TimedOut(TimeLimit::Start(limit)) if *limit == SECOND * 2));
}

#[tokio::test(start_paused = true)]
async fn failed_first_start_of_a_degradable_service_is_retried() {
    let log = Log::default();
    let service = Actor::new("actor", &log).starts([Act::Fail, Act::Succeed]).service().degradable();
    let host = virtual_host().service(service.backoff(Backoff::new(SECOND).jitter(0.0))).build().unwrap();
    host.start().await.unwrap();
    assert!(host.status().is_ready(), "the host does not need the service");
    assert!(matches!(host.status().service("actor").unwrap().state(), ServiceState::BackingOff { failures: 1, .. }));
    sleep(SECOND * 2).await;
    assert!(host.status().service("actor").unwrap().is_ready());
}

#[tokio::test(start_paused = true)]
async fn each_restart_clears_readiness() {
    let ready_at_once = service_fn("actor", |cx| async move {
        if cx.generation() > 1 {
            cx.sleep(SECOND * 10).await;
        }
        cx.ready();
        cx.sleep(SECOND * 5).await;
        Err("again".into())
    });
    let service = ready_at_once.manual_ready().backoff(Backoff::none());
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    let mut seen = Vec::new();
    sleep(MS * 500).await;
    for _ in 0..20 {
        seen.push(u8::from(host.status().is_ready()));
        sleep(SECOND).await;
    }
    assert_eq!(seen, [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn missed_heartbeat_ends_the_generation_and_begins_another() {
    let start = Instant::now();
    let log = Log::default();
    let records = log.clone();
    let service = service_fn("actor", move |cx| {
        records.record("run");
        async move {
            for _ in 0..10 {
                cx.sleep(MS * 900).await;
                cx.heartbeat();
            }
            if cx.generation() == 1 {
                std::future::pending::<()>().await;
            }
            while cx.sleep(MS * 900).await {
                cx.heartbeat();
            }
            Ok(())
        }
    });
    let service = service.heartbeat(SECOND).stop_timeout(SECOND * 2).backoff(Backoff::new(SECOND).jitter(0.0));
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 100).await;
    // Ten heartbeats 900 ms apart, a missed one, the stop timeout, the delay.
    assert_eq!(log.times(start, "run"), [0, 13_000]);
    let status = host.status();
    let failure = status.service("actor").unwrap().last_failure().unwrap();
    assert!(matches!(failure.kind(), ExitKind::TimedOut(TimeLimit::Heartbeat(limit)) if *limit == SECOND));
    assert!(host.status().service("actor").unwrap().heartbeat_age().unwrap() <= SECOND);
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test]
async fn host_gives_up_on_a_thread_that_misses_its_heartbeat_and_does_not_return() {
    let gate = Gate::default();
    let wait = gate.wait();
    let beats = blocking_fn("beats", |cx| {
        while !cx.wait_stopping(MS * 5) {
            cx.heartbeat();
        }
        Ok(())
    });
    let stuck = blocking_fn("stuck", move |_| {
        wait.block();
        Ok(())
    });
    let host = threaded_host()
        .service(beats.heartbeat(PATIENCE))
        .service(stuck.heartbeat(MS * 20).stop_timeout(MS * 20).degradable())
        .build()
        .unwrap();
    host.start().await.unwrap();
    until("the host gives up on it", || *host.status().service("stuck").unwrap().state() == ServiceState::Failed).await;
    let status = host.status();
    let stuck = status.service("stuck").unwrap();
    assert!(matches!(stuck.last_exit().unwrap().kind(), ExitKind::Leaked));
    assert_eq!((stuck.generation(), stuck.restarts()), (1, 0));
    assert!(status.is_ready() && status.service("beats").unwrap().generation() == 1);
    gate.open();
    let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn thread_that_misses_its_heartbeat_and_returns_is_restarted() {
    let service = blocking_fn("actor", |cx| {
        while !cx.wait_stopping(MS) {
            if cx.generation() > 1 {
                cx.heartbeat();
            }
        }
        Ok(())
    });
    let service = service.heartbeat(MS * 500).backoff(Backoff::none());
    let host = threaded_host().service(service.placement(Placement::Blocking)).build().unwrap();
    host.start().await.unwrap();
    until("the service is restarted", || host.status().service("actor").unwrap().generation() == 2).await;
    let status = host.status();
    let failure = status.service("actor").unwrap().last_failure().unwrap();
    assert!(matches!(failure.kind(), ExitKind::TimedOut(TimeLimit::Heartbeat(_))), "{failure:?}");
    let _ = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn heartbeat_of_an_ended_generation_does_not_count_for_the_next_one() {
    let service = service_fn("hangs", |cx| async move {
        if cx.generation() == 1 {
            tokio::spawn(async move {
                loop {
                    cx.heartbeat();
                    sleep(MS * 100).await;
                }
            });
            return Err("a task keeps running".into());
        }
        std::future::pending().await
    });
    let service = service.heartbeat(SECOND).stop_timeout(SECOND).backoff(Backoff::none()).degradable();
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 5).await;
    assert!(
        host.status().service("hangs").unwrap().generation() > 2,
        "a heartbeat of the first generation counted for the second"
    );
    let _ = host.shutdown().await.unwrap();
}
