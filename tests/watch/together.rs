//! Watches together with guards, flights, pools and hosts.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use onelane::background::{HostStatus, Placement, ServiceHostBuilder, Supervision, service_fn};
use onelane::watch::{Watch, watch};
use onelane::{EndpointGuard, KeyedGuard, ServiceHost, SingleFlight, run_blocking, run_cpu};
use support::runtimes::multi_thread;
use support::waiting::{Gate, MS, PATIENCE};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::inbox::{Inbox, THRESHOLD};

const A_WHILE: Duration = Duration::from_millis(300);

fn block(runtime: &Runtime, label: &'static str, gate: &Gate) {
    let wait = gate.wait();
    runtime.spawn(watch(label, async move { wait.block() }));
}

fn wait_until(is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE);
        // A watch measures real time.
        sleep(MS);
    }
}

/// Starts a host without services, with a watch of its own unless `builder` says otherwise.
fn started(runtime: &Runtime, builder: ServiceHostBuilder) -> ServiceHost {
    let host = builder.without_signals().build().unwrap();
    runtime.block_on(host.start()).unwrap();
    host
}

fn stop(runtime: &Runtime, host: &ServiceHost) -> Arc<HostStatus> {
    let report = runtime.block_on(host.shutdown()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    host.status()
}

#[test]
fn waits_for_guards_flights_and_pools_are_no_blocks() {
    static GUARD: EndpointGuard = EndpointGuard::new("guard");
    static KEYED: KeyedGuard<u32> = KeyedGuard::new("keyed");
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    runtime
        .block_on(runtime.spawn(watch("waits", async {
            let flight = Arc::new(SingleFlight::<u32, u32>::new("flight"));
            let (held, held_key) = (GUARD.acquire().await.unwrap(), KEYED.acquire(1).await.unwrap());
            let waits = watch("waits for guards", async {
                let _permit = GUARD.acquire().await.unwrap();
                let _key = KEYED.acquire(1).await.unwrap();
            });
            let waits = tokio::spawn(waits);
            let run = || async {
                run_blocking(|| sleep(A_WHILE)).await.unwrap();
                run_cpu(|| sleep(A_WHILE)).await.unwrap();
                Ok::<_, std::convert::Infallible>(7)
            };
            let (one, two) = tokio::join!(flight.run(1, run), watch("follows", flight.run(1, run)));
            assert_eq!((one.unwrap(), two.unwrap()), (7, 7));
            drop((held, held_key));
            waits.await.unwrap();
        })))
        .unwrap();
    assert!(inbox.all().is_empty(), "{:?}", inbox.all());
}

#[test]
fn work_behind_a_guard_that_blocks_is_reported_with_its_label() {
    static GUARD: EndpointGuard = EndpointGuard::new("guard");
    let (inbox, runtime) = (Inbox::default(), multi_thread(2));
    let _watch = inbox.watch(runtime.handle());
    for label in ["first", "second"] {
        runtime.spawn(async move {
            let work = watch(label, async { sleep(A_WHILE) });
            GUARD.run_to_completion(work).await.unwrap();
        });
    }
    inbox.wait_for_recovered(2);
    let mut labels: Vec<_> = inbox.blocked().iter().map(|(_, blocked)| blocked.label().unwrap()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["first", "second"]);
}

#[test]
fn status_and_probes_of_a_host_show_the_blocked_worker() {
    let (runtime, gate) = (multi_thread(1), Gate::default());
    let host = started(&runtime, ServiceHost::builder());
    assert!(host.status().blocked().is_empty());
    block(&runtime, "GET /report", &gate);
    wait_until(|| !host.status().blocked().is_empty());
    let status = host.status();
    assert_eq!(status.blocked()[0].label(), Some("GET /report"));
    wait_until(|| host.status().runtime_lag() >= MS * 100);
    let json = serde_json::to_value(&*status).unwrap();
    assert_eq!(json["blocked"][0]["label"], "GET /report", "{json}");
    assert!(json["blocked"][0]["blocked_for_seconds"].as_f64().unwrap() >= 0.1, "{json}");
    let probe = status.probe("/readyz?verbose").unwrap();
    assert!(probe.is_ok() && probe.body().contains("warn: worker 0 (tokio-rt-worker) is blocked for "), "{probe:?}");
    assert!(probe.body().contains(" by GET /report\nreadyz check passed\n"), "{probe:?}");
    gate.open();
    wait_until(|| host.status().blocked().is_empty());
    assert!(stop(&runtime, &host).blocked().is_empty());
}

#[test]
fn host_uses_the_watch_of_its_builder() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let watches = inbox.builder().threshold(THRESHOLD).build().unwrap();
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        let builder = ServiceHost::builder().watch(&watches).supervision(supervision);
        let host = started(&runtime, builder);
        let recovered = inbox.recovered().len();
        runtime.spawn(async { sleep(A_WHILE) });
        inbox.wait_for_recovered(recovered + 1);
        stop(&runtime, &host);
    }
    // The watch does not end with the host.
    runtime.spawn(async { sleep(A_WHILE) });
    inbox.wait_for_recovered(3);
}

/// With two watches, each block would be reported twice.
#[test]
fn host_uses_the_watch_of_its_runtime() {
    let (runtime, gate) = (multi_thread(1), Gate::default());
    let watches = Watch::builder().threshold(THRESHOLD).start(runtime.handle()).unwrap();
    let host = started(&runtime, ServiceHost::builder());
    block(&runtime, "GET /report", &gate);
    wait_until(|| watches.blocked().len() == 1);
    assert_eq!(host.status().blocked()[0].since(), watches.blocked()[0].since());
    gate.open();
    stop(&runtime, &host);
}

#[test]
fn host_without_watch_reports_nothing() {
    let runtime = multi_thread(1);
    let shared = ServiceHost::builder().supervision(Supervision::ServerRuntime);
    for builder in [ServiceHost::builder().without_watch(), shared] {
        let host = started(&runtime, builder);
        let blocks = runtime.spawn(async { sleep(A_WHILE) });
        while !blocks.is_finished() {
            assert!(host.status().blocked().is_empty() && host.status().runtime_lag().is_zero());
            sleep(MS);
        }
        stop(&runtime, &host);
    }
}

#[test]
fn service_that_blocks_a_worker_is_named_and_one_on_its_own_thread_is_not() {
    let (inbox, runtime, start) = (Inbox::default(), multi_thread(2), Arc::new(Notify::new()));
    let watches = inbox.builder().threshold(THRESHOLD).build().unwrap();
    let blocks = |name| {
        let start = Arc::clone(&start);
        service_fn(name, move |cx| {
            let start = Arc::clone(&start);
            async move {
                start.notified().await;
                sleep(A_WHILE);
                cx.stopping().await;
                Ok(())
            }
        })
    };
    let builder = ServiceHost::builder()
        .watch(&watches)
        .service(blocks("shared"))
        .service(blocks("separate").placement(Placement::Thread));
    let host = started(&runtime, builder);
    wait_until(|| host.status().is_ready());
    // The services wait for the notification.
    sleep(MS * 50);
    start.notify_waiters();
    inbox.wait_for_recovered(1);
    sleep(A_WHILE);
    let labels: Vec<_> = inbox.blocked().iter().map(|(_, blocked)| blocked.label()).collect();
    assert_eq!(labels, [Some("service shared")]);
    stop(&runtime, &host);
}

#[test]
fn host_stops_while_a_worker_is_blocked() {
    let (runtime, gate) = (multi_thread(2), Gate::default());
    let watches = Watch::builder().build().unwrap();
    let host = started(&runtime, ServiceHost::builder().watch(&watches));
    block(&runtime, "GET /report", &gate);
    wait_until(|| watches.stats().blocked_now == 1);
    stop(&runtime, &host);
    assert_eq!(watches.stats().blocked_now, 1);
    gate.open();
}
