//! Tests of the status, events and report of a host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant as Clock;

use onelane::background::{
    HostEvent, HostPhase, Placement, Restart, RunContext, ServiceHostBuilder, ServiceState, service_fn,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, soon, threaded_host, virtual_host};
use support::waiting::{MS, PATIENCE, until};

/// In the order in which a host enters them.
const PHASES: [HostPhase; 6] = [
    HostPhase::Built,
    HostPhase::Starting,
    HostPhase::Running,
    HostPhase::Draining,
    HostPhase::Stopping,
    HostPhase::Stopped,
];

#[test]
fn host_is_stopping_from_the_drain_on() {
    assert_eq!(PHASES.map(HostPhase::is_stopping), [false, false, false, true, true, true]);
    assert_eq!(PHASES.map(HostPhase::is_stopped), [false, false, false, false, false, true]);
}

fn text(event: &HostEvent) -> String {
    match event {
        HostEvent::Phase(phase) => phase.to_string(),
        HostEvent::Service(service) => format!("{} {}", service.name(), service.state()),
        HostEvent::Missed(missed) => format!("missed {missed}"),
        _ => "unknown".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn events_arrive_in_order_and_end_with_the_host() {
    let log = Log::default();
    let actor = Actor::new("b", &log).runs([Act::after(SECOND, Act::Fail), Act::UntilStopped]).service().after("a");
    let backoff = onelane::background::Backoff::new(SECOND).jitter(0.0);
    let host = virtual_host().service(Actor::new("a", &log).service()).service(actor.backoff(backoff)).build().unwrap();
    let mut events = host.subscribe();
    host.start().await.unwrap();
    sleep(SECOND * 3).await;
    let _ = host.shutdown().await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = soon("an event", events.recv()).await {
        seen.push(text(&event));
    }
    let expected = [
        "starting",
        "a starting",
        "a running",
        "b starting",
        "b running",
        "running",
        "b stopping",
        "b backing off for 1s after 1 failures",
        "b starting",
        "b running",
        "stopping",
        "b stopping",
        "b stopped",
        "a stopping",
        "a stopped",
        "stopped",
    ];
    assert_eq!(seen, expected);
    assert!(host.subscribe().recv().await.is_none(), "the host sends no more events");
}

#[tokio::test(start_paused = true)]
async fn late_subscriber_receives_all_later_events() {
    let host = virtual_host().service(Actor::new("a", &Log::default()).service()).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    let mut events = host.subscribe();
    let _ = host.shutdown().await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = soon("an event", events.recv()).await {
        seen.push(text(&event));
    }
    assert_eq!(seen, ["stopping", "a stopping", "a stopped", "stopped"]);
}

#[tokio::test(start_paused = true)]
async fn slow_receiver_gets_the_number_of_missed_events() {
    let service = service_fn("flaps", |cx: RunContext| async move {
        for _ in 0..1_000 {
            cx.not_ready("down");
            cx.sleep(MS).await;
            cx.ready();
            cx.sleep(MS).await;
        }
        cx.stopping().await;
        Ok(())
    });
    let host = virtual_host().service(service).build().unwrap();
    let mut events = host.subscribe();
    host.start().await.unwrap();
    sleep(SECOND * 10).await;
    let Some(HostEvent::Missed(missed)) = events.recv().await else { panic!("the receiver must lag") };
    let mut received = 0;
    while timeout(SECOND, events.recv()).await.is_ok() {
        received += 1;
    }
    assert_eq!(received, 1_024);
    assert!(missed > 900, "{missed}");
}

#[tokio::test(start_paused = true)]
async fn condition_is_the_last_one_that_the_service_reported() {
    let service = service_fn("actor", |cx: RunContext| async move {
        cx.degraded("slow disk");
        cx.sleep(SECOND).await;
        cx.not_ready("no disk");
        cx.sleep(SECOND).await;
        cx.ready();
        cx.stopping().await;
        Ok(())
    });
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        sleep(MS * 500).await;
        let status = host.status();
        seen.push((status.service("actor").unwrap().state().to_string(), status.is_ready()));
        sleep(MS * 500).await;
    }
    let expected = [("degraded: slow disk", true), ("not ready: no disk", false), ("running", true)];
    assert_eq!(seen, expected.map(|(text, is_ready)| (text.to_owned(), is_ready)));
}

#[tokio::test(start_paused = true)]
async fn snapshot_never_changes() {
    let host = virtual_host().service(Actor::new("a", &Log::default()).service()).build().unwrap();
    let built = host.status();
    host.start().await.unwrap();
    let running = host.status();
    let _ = host.shutdown().await.unwrap();
    assert_eq!(
        [built.phase(), running.phase(), host.status().phase()],
        [HostPhase::Built, HostPhase::Running, HostPhase::Stopped]
    );
    assert_eq!(*built.service("a").unwrap().state(), ServiceState::Registered);
    assert!(running.is_ready() && running.service("a").unwrap().is_ready());
    assert_eq!(*host.status().service("a").unwrap().state(), ServiceState::Stopped);
    assert!(host.status().service("a").unwrap().is_ended());
    assert!(host.status().service("unknown").is_none());
    assert!(host.status().service("").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_consistent_whenever_they_are_taken() {
    let log = Log::default();
    let mut builder = threaded_host();
    for index in 0..200 {
        let mut service = Actor::new(format!("s{index}"), &log).run(Act::after(MS, Act::Fail)).service().degradable();
        if index > 0 {
            service = service.after(&format!("s{}", index / 2));
        }
        if index == 0 {
            service = Actor::new("s0", &log).service();
        }
        builder = builder.service(service.backoff(onelane::background::Backoff::none()).restart(Restart::OnFailure));
    }
    let host = builder.build().map_err(|error| error.to_string());
    // 1 / 2 is 0, and 1 depends on 0: there is no cycle.
    let host = host.unwrap();
    let (handle, is_over) = (host.handle(), Arc::new(AtomicBool::new(false)));
    let taken = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (over, counter) = (is_over.clone(), taken.clone());
    let reader = std::thread::spawn(move || {
        let (mut last, start) = (HostPhase::Built, Clock::now());
        let rank = |phase| PHASES.iter().position(|other| *other == phase).unwrap();
        while !over.load(Ordering::Relaxed) {
            assert!(start.elapsed() < PATIENCE * 5, "the host never stops");
            let status = handle.status();
            assert!(rank(status.phase()) >= rank(last), "{last} and then {}", status.phase());
            last = status.phase();
            let counted = status.services().filter(|service| service.is_ended()).count();
            assert!(status.phase() != HostPhase::Stopped || counted == 200);
            for (index, service) in status.services().enumerate() {
                assert_eq!(*service.name(), *format!("s{index}"));
                assert!(service.restarts() <= service.generation());
                if let Some(exit) = service.last_exit() {
                    assert!(exit.generation() <= service.generation());
                }
            }
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    timeout(PATIENCE, host.start()).await.unwrap().unwrap();
    until("some restarts", || log.count("run s7") > 3).await;
    until("some snapshots", || taken.load(Ordering::Relaxed) > 10).await;
    let _ = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    is_over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_and_report_are_json() {
    let log = Log::default();
    let fails = Actor::new("fails", &log).run(Act::Fail).service().degradable();
    let host = virtual_host()
        .service(Actor::new("runs", &log).service().heartbeat(SECOND * 100))
        .service(fails.backoff(onelane::background::Backoff::new(SECOND * 8).jitter(0.0)))
        .build()
        .unwrap();
    // The time before the start does not count towards the age of a heartbeat.
    sleep(SECOND * 5).await;
    host.start().await.unwrap();
    sleep(SECOND).await;
    let status: Value = serde_json::to_value(&*host.status()).unwrap();
    assert_eq!((&status["phase"], &status["is_ready"]), (&json!("running"), &json!(true)));
    let [runs, fails] = &status["services"].as_array().unwrap()[..] else { panic!("{status:#}") };
    assert_eq!(runs["name"], "runs");
    assert_eq!(
        (&runs["state"], &runs["ready"], &runs["placement"]),
        (&json!("running"), &json!(true), &json!("shared"))
    );
    assert_eq!(runs["heartbeat_age_seconds"], 1.0);
    assert_eq!((&fails["state"], &fails["delay"], &fails["failures"]), (&json!("backing_off"), &json!(8.0), &json!(1)));
    let failure = &fails["last_failure"];
    assert_eq!([&failure["kind"], &failure["message"]], ["failed", "failed: fails fails to run"]);
    assert_eq!(
        (&fails["generation"], &fails["restarts"], &fails["is_critical"]),
        (&json!(1), &json!(1), &json!(false))
    );
    let report: Value = serde_json::to_value(host.shutdown().await.unwrap()).unwrap();
    assert_eq!((&report["trigger"], &report["forced_by"]), (&json!("requested"), &Value::Null));
    assert_eq!(
        (&report["services"][0]["exit"]["kind"], &report["services"][0]["clean_up"]),
        (&json!("stopped"), &json!("done"))
    );
}

fn many(mut builder: ServiceHostBuilder, count: usize) -> ServiceHostBuilder {
    for index in 0..count {
        builder = builder.service(service_fn(&format!("s{index}"), |cx| async move {
            cx.stopping().await;
            Ok(())
        }));
    }
    builder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_services_start_and_stop() {
    let host = many(threaded_host(), 10_000).build().unwrap();
    timeout(PATIENCE, host.start()).await.unwrap().unwrap();
    assert!(host.status().is_ready());
    assert_eq!(host.status().services().count(), 10_000);
    let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert!(report.is_clean());
    assert!(report.services().iter().all(|service| service.exit().is_some() && service.generations() == 1));
}

#[tokio::test(start_paused = true)]
async fn failed_degradable_service_is_visible_and_the_host_stays_ready() {
    let log = Log::default();
    let service = Actor::new("extra", &log).run(Act::Fail).at(Placement::Shared).restart(Restart::Never).degradable();
    let host = virtual_host().service(service).service(Actor::new("core", &log).service()).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    let status = host.status();
    assert!(status.is_ready() && status.phase() == HostPhase::Running);
    assert_eq!(*status.service("extra").unwrap().state(), ServiceState::Failed);
    assert!(!status.service("extra").unwrap().is_ready());
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_before_a_snapshot_misses_no_change_after_it() {
    // A race with the supervisor's thread: without the catch-up events, about one round in a hundred misses the change.
    for round in 0..300_u32 {
        let flip = Arc::new(tokio::sync::Notify::new());
        let flipped = Arc::clone(&flip);
        let service = service_fn("flips", move |cx: RunContext| {
            let flipped = Arc::clone(&flipped);
            async move {
                flipped.notified().await;
                cx.not_ready("now");
                cx.stopping().await;
                Ok(())
            }
        });
        let host = threaded_host().service(service).build().unwrap();
        host.start().await.unwrap();
        flip.notify_one();
        for _ in 0..(round * 37) % 2_000 {
            std::hint::spin_loop();
        }
        let mut events = host.subscribe();
        if host.status().service("flips").unwrap().is_ready() {
            let event = timeout(PATIENCE, events.recv()).await.expect("the change is sent").unwrap();
            assert_eq!(text(&event), "flips not ready: now");
        }
        let _ = host.shutdown().await.unwrap();
    }
}
