//! Runs of one key never overlap.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use futures::executor::block_on;
use futures::future::join_all;
use tokio::time::timeout;

use support::random::Random;
use support::runtimes::multi_thread;

use super::{Flight, WorkResult, assert_idle, flight};
use crate::SECOND;

const KEYS: usize = 3;
const THREADS: u64 = 8;
const CALLS: u64 = 40_000;

/// A record of the runs of one key.
#[derive(Default)]
struct Record {
    started: AtomicU64,
    inside: AtomicUsize,
    overlaps: AtomicUsize,
    /// The latest run whose value a caller has received. A later call gets the value of a later run.
    latest: AtomicU64,
}

/// Marks a run as in progress, from before its future is created until all of it is dropped.
struct Inside(Arc<Record>);

impl Inside {
    fn enter(record: &Arc<Record>) -> (Self, u64) {
        if record.inside.fetch_add(1, Ordering::SeqCst) > 0 {
            record.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        (Self(Arc::clone(record)), record.started.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Gives other threads the chance to start too early.
        thread::yield_now();
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns work whose value encodes the key and the number of the run.
fn work(record: &Arc<Record>, key: u32, yields: usize) -> impl Future<Output = WorkResult> + Send + 'static {
    let (inside, number) = Inside::enter(record);
    let mut left = yields;
    // Unlike an async block, this future drops its captures when it is dropped itself, and not when it completes.
    poll_fn(move |cx| {
        let _inside = &inside;
        let Some(less) = left.checked_sub(1) else { return Poll::Ready(Ok(u64::from(key) << 32 | number)) };
        left = less;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Counts how the calls ended.
#[derive(Default)]
struct Calls {
    completed: AtomicU64,
    cancelled: AtomicU64,
}

async fn calls(flight: &'static Flight, records: Arc<Vec<Arc<Record>>>, done: Arc<Calls>, thread: u64, cancels: bool) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (thread + 1));
    for _ in 0..CALLS {
        let key = random.below(KEYS) as u32;
        let record = &records[key as usize];
        let floor = record.latest.load(Ordering::SeqCst);
        let yields = random.below(4);
        let mut run = Box::pin(flight.run(key, || work(record, key, yields)));
        // The number of pending polls after which the call is dropped, if it is.
        let mut polls_left = if cancels && random.below(3) > 0 { Some(random.below(4)) } else { None };
        let output = poll_fn(|cx| match (run.as_mut().poll(cx), &mut polls_left) {
            (Poll::Ready(output), _) => Poll::Ready(Some(output)),
            (Poll::Pending, Some(0)) => Poll::Ready(None),
            (Poll::Pending, Some(left)) => {
                *left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Poll::Pending, None) => Poll::Pending,
        })
        .await;
        drop(run);
        let Some(output) = output else {
            done.cancelled.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let value = output.unwrap();
        let (value_key, number) = ((value >> 32) as u32, value & u64::from(u32::MAX));
        assert_eq!(value_key, key);
        assert!(number > floor, "run {number} had ended before this call started, as had run {floor}");
        record.latest.fetch_max(number, Ordering::SeqCst);
        done.completed.fetch_add(1, Ordering::Relaxed);
    }
}

fn assert_no_overlap(flight: &Flight, records: &[Arc<Record>], done: &Calls, cancels: bool) {
    let cancelled = done.cancelled.load(Ordering::Relaxed);
    assert_eq!(done.completed.load(Ordering::Relaxed) + cancelled, THREADS * CALLS);
    assert_eq!(cancelled > 0, cancels);
    for record in records {
        assert_eq!(record.overlaps.load(Ordering::SeqCst), 0);
        assert_eq!(record.inside.load(Ordering::SeqCst), 0);
    }
    let started: u64 = records.iter().map(|record| record.started.load(Ordering::SeqCst)).sum();
    let stats = flight.stats();
    assert_eq!(stats.runs, started);
    assert!(stats.shared > 0, "no run was shared: the test shows nothing");
    if cancels {
        assert!(stats.cancelled > 0, "no run was cancelled: the test shows nothing");
    } else {
        assert_eq!((stats.runs + stats.shared, stats.cancelled), (THREADS * CALLS, 0));
    }
    assert_eq!((stats.panicked, stats.refused, stats.timed_out), (0, 0, 0));
    assert_idle(flight);
}

fn records() -> Arc<Vec<Arc<Record>>> {
    Arc::new((0..KEYS).map(|_| Arc::default()).collect())
}

fn on_a_runtime(cancels: bool) {
    let (flight, records, done) = (flight(), records(), Arc::<Calls>::default());
    let runtime = multi_thread(THREADS as usize);
    runtime.block_on(async {
        let callers = (0..THREADS)
            .map(|thread| tokio::spawn(calls(flight, Arc::clone(&records), Arc::clone(&done), thread, cancels)));
        // Real time, because it only serves to fail a test that hangs.
        let ended = timeout(300 * SECOND, join_all(callers)).await.expect("a wake-up was lost");
        ended.into_iter().for_each(Result::unwrap);
    });
    // Ends the driver tasks of completed runs.
    drop(runtime);
    assert_no_overlap(flight, &records, &done, cancels);
}

fn without_a_runtime(cancels: bool) {
    let (flight, records, done) = (flight(), records(), Arc::<Calls>::default());
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let calls = calls(flight, Arc::clone(&records), Arc::clone(&done), thread, cancels);
            thread::spawn(move || block_on(calls))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_no_overlap(flight, &records, &done, cancels);
}

#[test]
fn runs_of_one_key_never_overlap_on_a_runtime() {
    on_a_runtime(false);
}

#[test]
fn runs_of_one_key_never_overlap_on_a_runtime_with_random_cancellations() {
    on_a_runtime(true);
}

#[test]
fn runs_of_one_key_never_overlap_without_a_runtime() {
    without_a_runtime(false);
}

#[test]
fn runs_of_one_key_never_overlap_without_a_runtime_with_random_cancellations() {
    without_a_runtime(true);
}
