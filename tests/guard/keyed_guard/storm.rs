//! Threads and tasks compete for a few keys.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use onelane::KeyedGuard;
use onelane::guard::GuardStats;
use tokio::task::yield_now;
use tokio::time::timeout;

use support::random::Random;
use support::runtimes::multi_thread;

use super::assert_idle;
use crate::SECOND;

const THREADS: u64 = 8;
const CALLS: usize = 40_000;
const KEYS: usize = 4;

/// The critical section of one key. Visits are counted in two steps, so that a visit is lost if two overlap.
#[derive(Default)]
struct CriticalSection {
    is_taken: AtomicBool,
    visits: AtomicUsize,
}

/// A caller inside a critical section.
struct Visit<'a>(&'a CriticalSection);

impl CriticalSection {
    fn enter(&self) -> Visit<'_> {
        assert!(!self.is_taken.swap(true, Ordering::Relaxed), "two callers overlap");
        Visit(self)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let visits = self.0.visits.load(Ordering::Relaxed);
        self.0.visits.store(visits + 1, Ordering::Relaxed);
        self.0.is_taken.store(false, Ordering::Relaxed);
    }
}

fn sections() -> Arc<[CriticalSection; KEYS]> {
    Arc::default()
}

fn visits(sections: &[CriticalSection]) -> u64 {
    sections.iter().map(|section| section.visits.load(Ordering::Relaxed) as u64).sum()
}

#[test]
fn callers_of_a_key_never_overlap_and_none_is_lost() {
    let guard = KeyedGuard::new("storm");
    let sections = sections();
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let (guard, sections) = (&guard, &sections);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..CALLS {
                    let key = random.below(KEYS);
                    let visit = || {
                        let visit = sections[key].enter();
                        if key == 0 {
                            thread::yield_now();
                        }
                        drop(visit);
                    };
                    match random.below(3) {
                        0 => {
                            let _permit = guard.acquire_blocking(key).unwrap();
                            visit();
                        }
                        1 => {
                            let _permit = futures::executor::block_on(guard.acquire(key)).unwrap();
                            visit();
                        }
                        _ => futures::executor::block_on(guard.run(key, async { visit() })).unwrap(),
                    }
                }
            });
        }
    });
    let calls = THREADS * CALLS as u64;
    assert_eq!(visits(&*sections), calls);
    let GuardStats { granted, queued, cancelled, refused, .. } = guard.stats();
    assert_eq!((granted, cancelled, refused), (calls, 0, 0));
    assert!(queued > 0, "no caller ever waited");
    assert_idle(&guard);
}

/// Returns `Pending` the given number of times.
async fn yields(times: usize) {
    let mut left = times;
    poll_fn(|_| match left.checked_sub(1) {
        Some(less) => {
            left = less;
            Poll::Pending
        }
        None => Poll::Ready(()),
    })
    .await;
}

#[test]
fn callers_polled_by_hand_and_dropped_anywhere_lose_no_permit() {
    let guard = KeyedGuard::new("storm");
    let sections = sections();
    let finished = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seed in 1..=THREADS {
            let (guard, sections, finished) = (&guard, &sections, &finished);
            scope.spawn(move || {
                let mut random = Random(seed);
                let mut cx = Context::from_waker(Waker::noop());
                let mut finished_here = 0;
                for _ in 0..CALLS {
                    let key = random.below(KEYS);
                    let (inside, as_run) = (random.below(3), random.below(2) == 0);
                    let mut caller = pin!(async {
                        if as_run {
                            let work = async {
                                let _visit = sections[key].enter();
                                yields(inside).await;
                            };
                            guard.run(key, work).await.unwrap();
                        } else {
                            let _permit = guard.acquire(key).await.unwrap();
                            let _visit = sections[key].enter();
                            yields(inside).await;
                        }
                    });
                    for _ in 0..random.below(6) {
                        if caller.as_mut().poll(&mut cx).is_ready() {
                            finished_here += 1;
                            break;
                        }
                        thread::yield_now();
                    }
                }
                finished.fetch_add(finished_here, Ordering::Relaxed);
            });
        }
    });
    assert_idle(&guard);
    let GuardStats { granted, cancelled, refused, .. } = guard.stats();
    let visits = visits(&*sections);
    // A grant whose waiter was then cancelled counts as granted without a visit.
    assert!((visits..=visits + cancelled).contains(&granted), "{visits} visits: {:?}", guard.stats());
    assert!(finished.load(Ordering::Relaxed) as u64 <= visits);
    assert!(finished.into_inner() > 0 && cancelled > 0, "{:?}", guard.stats());
    assert_eq!(refused, 0);
}

#[test]
fn tasks_cancelled_anywhere_never_keep_the_others_from_being_served() {
    const TASKS: u64 = 32;
    const ROUNDS: usize = 400;
    let guard = Arc::new(KeyedGuard::builder("storm").max_wait(1_000 * SECOND).build());
    let sections = sections();
    let runtime = multi_thread(4);
    let tasks = (1..=TASKS).map(|seed| {
        let (guard, sections) = (Arc::clone(&guard), Arc::clone(&sections));
        runtime.spawn(async move {
            let mut random = Random(seed);
            let mut finished = 0;
            for _ in 0..ROUNDS {
                let key = random.below(KEYS);
                let (kind, cancel_after) = (random.below(3), random.below(40));
                let work = {
                    let sections = Arc::clone(&sections);
                    async move {
                        let _visit = sections[key].enter();
                        yield_now().await;
                    }
                };
                let guard = Arc::clone(&guard);
                let call = async move {
                    match kind {
                        0 => {
                            let _permit = guard.acquire_owned(key).await.unwrap();
                            work.await;
                        }
                        1 => guard.run(key, work).await.unwrap(),
                        _ => guard.run_to_completion_owned(key, work).await.unwrap(),
                    }
                };
                let cancelled = async {
                    for _ in 0..cancel_after {
                        yield_now().await;
                    }
                    // Half of the callers are never cancelled.
                    if cancel_after % 2 == 0 {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = call => finished += 1,
                    () = cancelled => {}
                }
            }
            finished
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let finished: u64 = runtime.block_on(async {
        let all =
            timeout(120 * SECOND, futures::future::join_all(tasks)).await.expect("a permit or a wake-up was lost");
        guard.close();
        timeout(60 * SECOND, guard.drained()).await.expect("a permit was lost");
        all.into_iter().map(Result::unwrap).sum()
    });
    // Ends the tasks of detached runs.
    drop(runtime);
    assert_idle(&guard);
    let stats = guard.stats();
    let visits = visits(&*sections);
    assert!(finished <= visits && finished >= TASKS * ROUNDS as u64 / 3, "{finished} of {visits}: {stats:?}");
    assert!((visits..=visits + stats.cancelled).contains(&stats.granted), "{visits} visits: {stats:?}");
    assert!(stats.cancelled > 0 && stats.finished_detached > 0, "no caller was cancelled: {stats:?}");
    assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.panicked), (0, 0, 0, 0));
    assert_eq!(Arc::strong_count(&guard), 1);
}
