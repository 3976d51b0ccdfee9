//! The reports of a watch about blocked workers.

use std::future::pending;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use onelane::watch::{Watch, WatchError, register_thread, watch};
use support::runtimes::{current_thread, multi_thread};
use support::waiting::{Gate, MS, PATIENCE};
use tokio::task::LocalSet;

use crate::inbox::{Inbox, THRESHOLD};

const BLOCK: Duration = Duration::from_millis(300);

#[test]
fn blocked_worker_of_a_multi_thread_runtime_is_reported_while_it_is_blocked() {
    let (inbox, runtime, gate) = (Inbox::default(), multi_thread(2), Gate::default());
    let watch_of_runtime = inbox.watch(runtime.handle());
    let wait = gate.wait();
    runtime.spawn(watch("import", async move { wait.block() }));
    let blocked = inbox.wait_for(1).remove(0);
    assert_eq!(blocked.label(), Some("import"), "{blocked:?}");
    assert!(blocked.thread().is_some() && blocked.worker() < 2 && blocked.blocked_for() >= THRESHOLD, "{blocked:?}");
    assert_eq!(watch_of_runtime.blocked().len(), 1);
    gate.open();
    let recovered = inbox.wait_for_recovered(1).remove(0);
    assert!(recovered.total() >= THRESHOLD && recovered.last().label() == Some("import"), "{recovered:?}");
    let stats = watch_of_runtime.stats();
    assert_eq!((stats.blocked, stats.blocked_now, stats.labels[0].label), (1, 0, "import"), "{stats:?}");
    assert_eq!(stats.labels[0].longest, stats.blocked_for, "{stats:?}");
}

#[test]
fn blocked_current_thread_runtime_is_reported() {
    let (inbox, runtime) = (Inbox::default(), current_thread());
    let _watch = inbox.watch(runtime.handle());
    runtime.block_on(async {
        tokio::spawn(watch("task", async { sleep(BLOCK) })).await.unwrap();
        watch("main", async { sleep(BLOCK) }).await;
        tokio::time::sleep(MS * 100).await;
    });
    let labels: Vec<_> = inbox.wait_for(2).iter().map(|blocked| blocked.label()).collect();
    assert_eq!(labels, [Some("task"), Some("main")]);
}

#[test]
fn blocked_local_set_is_reported() {
    let (inbox, runtime) = (Inbox::default(), current_thread());
    let _watch = inbox.watch(runtime.handle());
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(watch("local", async { sleep(BLOCK) })).await.unwrap();
    });
    assert_eq!(inbox.wait_for(1)[0].label(), Some("local"));
}

/// The limit is generous, because the machine may run other tests.
#[test]
fn report_comes_soon_after_the_threshold() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    // After this pause, the runtime is idle and the watch runs.
    sleep(MS * 100);
    let start = Instant::now();
    let blocking = runtime.spawn(async { sleep(BLOCK * 10) });
    inbox.wait_for(1);
    let delay = inbox.blocked()[0].0 - start;
    assert!(delay >= THRESHOLD && delay < THRESHOLD + BLOCK * 3, "{delay:?}");
    assert!(!blocking.is_finished());
}

#[test]
fn block_is_reported_again_each_time_its_time_has_doubled() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    runtime.spawn(async { sleep(THRESHOLD * 20) });
    let recovered = inbox.wait_for_recovered(1).remove(0);
    // Reports come at 1, 2, 4, 8 and 16 times the threshold. On a busy machine, one report may stand for two.
    assert!((3..=4).contains(&recovered.last().repeats()), "{:?}", inbox.all());
    assert!(recovered.total() >= THRESHOLD * 16, "{recovered:?}");
}

#[test]
fn two_workers_that_are_blocked_at_once_are_reported_each_with_its_label() {
    let (inbox, runtime, gate) = (Inbox::default(), multi_thread(2), Gate::default());
    let watch_of_runtime = inbox.watch(runtime.handle());
    for label in ["one", "two"] {
        let wait = gate.wait();
        runtime.spawn(watch(label, async move { wait.block() }));
    }
    let blocked = inbox.wait_for(2);
    let mut labels: Vec<_> = blocked.iter().map(|blocked| blocked.label()).collect();
    labels.sort_unstable();
    assert_eq!(labels, [Some("one"), Some("two")]);
    assert_ne!(blocked[0].worker(), blocked[1].worker());
    assert_eq!(watch_of_runtime.blocked().len(), 2);
    gate.open();
    inbox.wait_for_recovered(2);
    assert!(watch_of_runtime.blocked().is_empty());
}

#[test]
fn worker_that_is_blocked_from_its_start_is_reported() {
    let (inbox, gate) = (Inbox::default(), Gate::default());
    let wait = Arc::new(gate.wait());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(move || wait.block())
        .build()
        .unwrap();
    let _watch = inbox.watch(runtime.handle());
    assert_eq!(inbox.wait_for(1)[0].worker(), 0);
    gate.open();
    inbox.wait_for_recovered(1);
}

#[test]
fn thread_of_a_blocked_task_without_label_is_known_once_it_is_registered() {
    let inbox = Inbox::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("worker of the test")
        .on_thread_park(register_thread)
        .build()
        .unwrap();
    let _watch = inbox.watch(runtime.handle());
    let gate = Gate::default();
    let wait = gate.wait();
    // Both workers have parked.
    sleep(MS * 100);
    runtime.spawn(async move { wait.block() });
    let blocked = inbox.wait_for(1).remove(0);
    assert_eq!((blocked.label(), blocked.thread()), (None, Some("worker of the test")));
    gate.open();
}

#[test]
fn two_watches_of_one_runtime_report_by_their_own_thresholds() {
    let (inbox, patient, runtime) = (Inbox::default(), Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let _patient = patient.builder().threshold(PATIENCE).start(runtime.handle()).unwrap();
    let other = Inbox::default();
    let _other = other.builder().threshold(THRESHOLD * 2).start(runtime.handle()).unwrap();
    runtime.spawn(watch("import", async { sleep(BLOCK) }));
    inbox.wait_for_recovered(1);
    other.wait_for_recovered(1);
    assert!(patient.all().is_empty(), "{:?}", patient.all());
}

#[test]
fn one_watch_watches_several_runtimes() {
    let (inbox, [one, two]) = (Inbox::default(), [1, 2].map(multi_thread));
    let watches = inbox.watch(one.handle());
    watches.add(two.handle());
    watches.add(one.handle());
    one.spawn(watch("one", async { sleep(BLOCK) }));
    two.spawn(watch("two", async { sleep(BLOCK) }));
    inbox.wait_for_recovered(2);
    assert_eq!(inbox.blocked().len(), 2, "{:?}", inbox.all());
}

/// No counter changes after the last poll of a runtime.
#[test]
fn worker_whose_runtime_shuts_down_recovers() {
    let inbox = Inbox::default();
    let watches = inbox.builder().threshold(THRESHOLD).build().unwrap();
    let runtime = current_thread();
    watches.add(runtime.handle());
    runtime.block_on(watch("last poll", async { sleep(BLOCK) }));
    drop(runtime);
    inbox.wait_for_recovered(1);

    let (runtime, gate) = (multi_thread(2), Gate::default());
    watches.add(runtime.handle());
    let wait = gate.wait();
    runtime.spawn(watch("blocks on", async move { wait.block() }));
    inbox.wait_for(2);
    runtime.shutdown_background();
    let recovered = inbox.wait_for_recovered(2);
    assert_eq!(recovered[1].last().label(), Some("blocks on"));
    let stats = watches.stats();
    assert!(stats.blocked_now == 0 && watches.blocked().is_empty() && watches.lag().is_zero(), "{stats:?}");
}

#[test]
fn callback_that_panics_does_not_end_the_watch() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let builder = Watch::builder().threshold(THRESHOLD).on_report(|_| panic!("the callback panics"));
    let reports = inbox.clone();
    let _watch = builder.on_report(move |report| reports.take(report)).start(runtime.handle()).unwrap();
    runtime.spawn(async { sleep(BLOCK) });
    inbox.wait_for_recovered(1);
}

#[test]
fn watch_ends_when_its_last_clone_is_dropped() {
    let (inbox, runtime, gate) = (Inbox::default(), multi_thread(1), Gate::default());
    let one = inbox.watch(runtime.handle());
    drop(one.clone());
    let wait = gate.wait();
    runtime.spawn(async move { wait.block() });
    inbox.wait_for(1);
    drop(one);
    // After this pause, a sample that had begun has ended.
    sleep(BLOCK);
    gate.open();
    sleep(BLOCK);
    assert!(inbox.recovered().is_empty(), "{:?}", inbox.all());
}

#[test]
fn threshold_that_is_out_of_range_is_an_error_that_names_the_range() {
    for threshold in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        let error = Watch::builder().threshold(threshold).build().unwrap_err();
        assert!(matches!(error, WatchError::Threshold(_)) && error.to_string().contains("use 1 ms to 1 h"), "{error}");
    }
}

#[test]
fn lag_is_the_time_that_a_task_waits() {
    let (runtime, gate) = (multi_thread(1), Gate::default());
    let watches = Watch::builder().start(runtime.handle()).unwrap();
    let wait = gate.wait();
    runtime.spawn(async move { wait.block() });
    let start = Instant::now();
    while watches.lag() < MS * 150 {
        assert!(start.elapsed() < PATIENCE);
        // A watch measures real time.
        sleep(MS);
    }
    gate.open();
    while watches.lag() > MS * 50 {
        assert!(start.elapsed() < PATIENCE);
        sleep(MS);
    }
    runtime.spawn(pending::<()>());
}
