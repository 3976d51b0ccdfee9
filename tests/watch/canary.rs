//! The moments at which tokio updates the counters of a worker. A watch relies on these moments, but the documentation
//! of `RuntimeMetrics` does not promise them, so these tests fail if a release of tokio changes them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use support::runtimes::{current_thread, multi_thread};
use support::waiting::{Gate, MS, PATIENCE};
use tokio::runtime::Handle;
use tokio::task::{block_in_place, yield_now};

const A_WHILE: Duration = Duration::from_millis(100);

/// The counters that a watch reads: parks and unparks, and the time that the worker was busy.
fn counters(handle: &Handle) -> (u64, Duration) {
    let metrics = handle.metrics();
    (metrics.worker_park_unpark_count(0), metrics.worker_total_busy_duration(0))
}

fn is_active(handle: &Handle) -> bool {
    counters(handle).0.is_multiple_of(2)
}

fn wait_until(is_true: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE);
        sleep(MS);
    }
}

/// Returns two runtimes that run until the test ends.
fn runtimes() -> [Handle; 2] {
    [multi_thread(1), current_thread()].map(|runtime| {
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    })
}

#[test]
fn parked_worker_has_an_odd_count_and_an_active_one_an_even_count() {
    for handle in runtimes() {
        wait_until(|| !is_active(&handle));
        let gate = Gate::default();
        let wait = gate.wait();
        handle.spawn(async move { wait.block() });
        wait_until(|| gate.inside() == 1);
        assert!(is_active(&handle), "the unpark is published before the first poll");
        gate.open();
        wait_until(|| !is_active(&handle));
    }
}

#[test]
fn counters_stand_still_during_a_poll() {
    for handle in runtimes() {
        let gate = Gate::default();
        let wait = gate.wait();
        handle.spawn(async move { wait.block() });
        wait_until(|| gate.inside() == 1);
        let before = counters(&handle);
        sleep(A_WHILE);
        assert_eq!(counters(&handle), before);
        gate.open();
        wait_until(|| counters(&handle) != before);
    }
}

#[test]
fn counters_of_a_worker_at_full_load_change() {
    for handle in runtimes() {
        let spinning = handle.spawn(async {
            let start = Instant::now();
            while start.elapsed() < A_WHILE * 50 {
                yield_now().await;
            }
        });
        sleep(A_WHILE);
        for _ in 0..5 {
            let before = counters(&handle);
            wait_until(|| counters(&handle) != before);
        }
        assert!(!spinning.is_finished(), "the counters did not move while the worker was busy");
        spinning.abort();
    }
}

#[test]
fn counters_of_a_worker_change_during_block_in_place() {
    let [handle, _] = runtimes();
    let gate = Gate::default();
    let wait = gate.wait();
    handle.spawn(async move { block_in_place(|| wait.block()) });
    wait_until(|| gate.inside() == 1);
    // Another thread has taken over the worker, and parks.
    wait_until(|| !is_active(&handle));
    gate.open();
}

/// A watch can't name the threads of a runtime without the index.
#[test]
fn index_of_the_worker_is_known_in_a_poll() {
    for handle in runtimes() {
        let index = handle.spawn(async { tokio::runtime::worker_index() });
        assert_eq!(futures::executor::block_on(index).unwrap(), Some(0));
    }
}
