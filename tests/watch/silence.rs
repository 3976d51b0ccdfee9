//! The cases that a watch does not report.

use std::thread::sleep;
use std::time::{Duration, Instant};

use onelane::watch::{register_thread, watch};
use onelane::{run_blocking, run_cpu};
use support::runtimes::{current_thread, multi_thread, paused};
use support::waiting::MS;
use tokio::task::{JoinSet, block_in_place, yield_now};

use crate::inbox::{Inbox, THRESHOLD};

const A_WHILE: Duration = Duration::from_millis(400);

fn assert_silent(inbox: &Inbox) {
    sleep(THRESHOLD * 4);
    assert!(inbox.all().is_empty(), "{:?}", inbox.all());
}

async fn spin_for(duration: Duration, poll: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let end_of_poll = Instant::now() + poll;
        while Instant::now() < end_of_poll {
            std::hint::spin_loop();
        }
        yield_now().await;
    }
}

/// The runtime has one worker, so that the machine has a second processor for the watch. `ONELANE_LONG_TESTS=1` makes
/// the test run for a minute.
#[test]
fn worker_at_full_load_of_short_polls_is_not_reported() {
    let duration = std::env::var("ONELANE_LONG_TESTS").map_or(2, |_| 60);
    for runtime in [multi_thread(1), current_thread()] {
        let inbox = Inbox::default();
        // The threshold is above the time for which a thread of a busy machine waits for a processor.
        let _watch = inbox.builder().threshold(MS * 500).start(runtime.handle()).unwrap();
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..8 {
                tasks.spawn(spin_for(Duration::from_secs(duration), Duration::from_micros(20)));
            }
            tasks.join_all().await;
        });
        assert!(inbox.all().is_empty(), "{:?}", inbox.all());
    }
}

/// tokio updates its counters only after 61 polls, and 61 polls of 5 ms take longer than the threshold. The labels show
/// that no single poll does.
#[test]
fn worker_whose_labelled_polls_end_in_time_is_not_reported() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.builder().threshold(MS * 250).start(runtime.handle()).unwrap();
    let spinning = (0..2).map(|_| watch("short", spin_for(MS * 1_500, MS * 5)));
    let tasks: Vec<_> = spinning.map(|future| runtime.spawn(future)).collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert!(inbox.all().is_empty(), "{:?}", inbox.all());
}

#[test]
fn block_in_place_is_not_reported() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let task = runtime.spawn(watch("in place", async { block_in_place(|| sleep(A_WHILE)) }));
    runtime.block_on(task).unwrap();
    assert_silent(&inbox);
}

#[test]
fn work_on_pools_is_not_reported() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    runtime.block_on(async {
        let blocking = tokio::spawn(watch("blocking", async { run_blocking(|| sleep(A_WHILE)).await.unwrap() }));
        let computing = watch("computing", async { run_cpu(|| sleep(A_WHILE)).await.unwrap() });
        tokio::spawn(computing).await.unwrap();
        blocking.await.unwrap();
    });
    assert_silent(&inbox);
}

#[test]
fn idle_runtime_is_not_reported() {
    let (inbox, runtime, local) = (Inbox::default(), multi_thread(2), current_thread());
    let watches = inbox.watch(runtime.handle());
    watches.add(local.handle());
    local.block_on(async { tokio::time::sleep(A_WHILE).await });
    assert!(inbox.all().is_empty(), "{:?}", inbox.all());
    assert_eq!(watches.lag(), Duration::ZERO);
}

#[test]
fn paused_clock_is_not_reported() {
    let (inbox, runtime) = (Inbox::default(), paused());
    // The threshold is above the time for which a thread of a busy machine waits for a processor.
    let _watch = inbox.builder().threshold(MS * 500).start(runtime.handle()).unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        while start.elapsed() < A_WHILE * 4 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
    assert!(inbox.all().is_empty(), "{:?}", inbox.all());
}

#[test]
fn runtime_that_has_shut_down_is_not_reported() {
    for runtime in [multi_thread(2), current_thread()] {
        let inbox = Inbox::default();
        let watches = inbox.watch(runtime.handle());
        runtime.block_on(async { tokio::spawn(yield_now()).await.unwrap() });
        drop(runtime);
        assert_silent(&inbox);
        assert!(watches.lag().is_zero());
        // The watch still reports other runtimes.
        let other = multi_thread(1);
        watches.add(other.handle());
        other.spawn(async { sleep(A_WHILE) });
        inbox.wait_for_recovered(1);
    }
}

#[test]
fn thread_that_is_not_a_worker_is_not_reported() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    register_thread();
    runtime.block_on(watch("main", async { sleep(A_WHILE) }));
    assert_silent(&inbox);
}
