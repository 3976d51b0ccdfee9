//! The contract of [`SingleFlight`], one module per rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::any::Any;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn, ready};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::{join, join_all};
use onelane::{FlightError, FlightStats, SingleFlight};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::task;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};

use support::waiting::spin_until;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Flight<K = u32, T = u64> = SingleFlight<K, T, &'static str>;
type WorkResult = Result<u64, &'static str>;
type Shared = Result<u64, FlightError<&'static str>>;
type Call = Pin<Box<dyn Future<Output = Shared> + Send>>;
type Caller = task::Spawn<Call>;

/// Leaks a flight, so that it lives as long as one in a `static`.
fn leaked<K, T, E>(flight: SingleFlight<K, T, E>) -> &'static SingleFlight<K, T, E> {
    Box::leak(Box::new(flight))
}

fn flight() -> &'static Flight {
    leaked(Flight::new("flight"))
}

fn call(flight: &'static Flight, key: u32, work: impl Future<Output = WorkResult> + Send + 'static) -> Call {
    Box::pin(flight.run(key, move || work))
}

/// Returns a caller that is polled by hand.
fn caller(flight: &'static Flight, key: u32, work: impl Future<Output = WorkResult> + Send + 'static) -> Caller {
    task::spawn(call(flight, key, work))
}

/// Returns a caller that joins a run in progress once it is polled.
fn joiner(flight: &'static Flight, key: u32) -> Caller {
    caller(flight, key, async { panic!("the work of a follower never runs") })
}

/// Returns a caller that has joined a run in progress.
fn joined(flight: &'static Flight, key: u32) -> Caller {
    let mut caller = joiner(flight, key);
    assert_pending!(caller.poll());
    caller
}

/// Returns work that completes with the value that is sent to it.
fn on_demand() -> (oneshot::Sender<u64>, impl Future<Output = WorkResult> + Send + 'static) {
    let (sender, receiver) = oneshot::channel();
    (sender, async move { receiver.await.map_err(|_| "the sender was dropped") })
}

/// Calls a closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Panics without calling the panic hook, so that no message is printed.
fn quiet_panic(payload: impl Any + Send) -> ! {
    resume_unwind(Box::new(payload))
}

fn message(shared: Shared) -> String {
    match shared {
        Err(FlightError::Panicked { message, .. }) => message.to_string(),
        other => panic!("the work should have panicked: {other:?}"),
    }
}

/// Yields once. Unlike tokio's `yield_now`, it wakes its task before it returns.
async fn yield_once() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields to other tasks until `is_true` returns `true`. Paused time does not advance meanwhile.
async fn eventually(mut is_true: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_true() {
            return;
        }
        yield_now().await;
    }
    panic!("the condition was never met");
}

/// Yields often enough for the other tasks of the runtime to do all that needs no time.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

fn current_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn paused() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn workers(count: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(count).enable_time().build().unwrap()
}

fn assert_idle<K, T, E>(flight: &SingleFlight<K, T, E>)
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    let FlightStats { running, waiting, .. } = flight.stats();
    assert_eq!((running, waiting, flight.len()), (0, 0, 0));
    assert!(flight.is_empty());
}

/// Asserts that a call of the key starts a new run.
fn assert_starts_fresh(flight: &'static Flight, key: u32) {
    let before = flight.stats().runs;
    let mut fresh = caller(flight, key, ready(Ok(12_345)));
    assert_eq!(assert_ready_ok!(fresh.poll()), 12_345);
    assert_eq!(flight.stats().runs, before + 1);
}

/// Marsaglia's xorshift: random enough to choose what a caller does, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

mod exclusion {
    use super::*;

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

    /// Exists during a run: from before its future is created until all of it was dropped.
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
    fn work(record: &Arc<Record>, key: u32, yields: u64) -> impl Future<Output = WorkResult> + Send + 'static {
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
        answered: AtomicU64,
        cancelled: AtomicU64,
    }

    async fn calls(
        flight: &'static Flight,
        records: Arc<Vec<Arc<Record>>>,
        done: Arc<Calls>,
        thread: u64,
        cancels: bool,
    ) {
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (thread + 1));
        for _ in 0..CALLS {
            let key = random.below(KEYS as u64) as u32;
            let record = &records[key as usize];
            let floor = record.latest.load(Ordering::SeqCst);
            let yields = random.below(4);
            let mut run = Box::pin(flight.run(key, || work(record, key, yields)));
            // The number of pending polls after which the call is dropped, if it is.
            let mut patience = if cancels && random.below(3) > 0 { Some(random.below(4)) } else { None };
            let output = poll_fn(|cx| match (run.as_mut().poll(cx), &mut patience) {
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
            let (its_key, number) = ((value >> 32) as u32, value & u64::from(u32::MAX));
            assert_eq!(its_key, key);
            assert!(number > floor, "run {number} ended before this call started, because run {floor} had ended");
            record.latest.fetch_max(number, Ordering::SeqCst);
            done.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn assert_all_went_well(flight: &Flight, records: &[Arc<Record>], done: &Calls, cancels: bool) {
        let cancelled = done.cancelled.load(Ordering::Relaxed);
        assert_eq!(done.answered.load(Ordering::Relaxed) + cancelled, THREADS * CALLS);
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
        let runtime = workers(THREADS as usize);
        runtime.block_on(async {
            let callers = (0..THREADS)
                .map(|thread| tokio::spawn(calls(flight, Arc::clone(&records), Arc::clone(&done), thread, cancels)));
            // Real time, because it only serves to fail a test that hangs.
            let ended = timeout(300 * SECOND, join_all(callers)).await.expect("a wake-up was lost");
            ended.into_iter().for_each(Result::unwrap);
        });
        // Driver tasks of completed runs may still be ending.
        drop(runtime);
        assert_all_went_well(flight, &records, &done, cancels);
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
        assert_all_went_well(flight, &records, &done, cancels);
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
}

mod cancellation {
    use super::*;

    /// The number of await points of the work. Every second one takes time.
    const POINTS: usize = 6;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Dropped,
        /// Kept, but not polled again.
        Kept,
    }

    /// Work that reports which of its await points it has reached.
    async fn work(reached: watch::Sender<usize>, started: Arc<AtomicUsize>) -> WorkResult {
        started.fetch_add(1, Ordering::Relaxed);
        for point in 0..POINTS {
            reached.send_replace(point);
            if point % 2 == 0 {
                yield_now().await;
            } else {
                sleep(10 * MS).await;
            }
        }
        Ok(7)
    }

    /// Of `others + 1` callers, one is dropped or no longer polled while the work is at an await point. Returns the time
    /// at which each of the others got its value. `victim` 0 is the leader.
    async fn outputs_of_the_others(
        others: usize,
        victim: usize,
        point: usize,
        fate: Fate,
        exact: bool,
    ) -> Vec<Duration> {
        let flight = flight();
        let start = Instant::now();
        let (reached, mut at) = watch::channel(0);
        let started = Arc::new(AtomicUsize::new(0));
        let mut callers = Vec::new();
        for _ in 0..=others {
            let work = work(reached.clone(), Arc::clone(&started));
            callers.push(Some(Box::pin(flight.run(0, || work))));
        }
        drop(reached);
        // All in one poll, so that nothing else runs on this thread meanwhile.
        let first_polls = async {
            for caller in callers.iter_mut().flatten() {
                poll_fn(|cx| {
                    assert_pending!(caller.as_mut().poll(cx));
                    Poll::Ready(())
                })
                .await;
            }
        };
        unconstrained(first_polls).await;
        let before = *at.wait_for(|reached| *reached >= point).await.unwrap();
        if exact {
            assert_eq!(before, point);
        }
        let gone = callers[victim].take();
        let gone = (fate == Fate::Kept).then_some(gone);
        let others = callers.into_iter().flatten().map(|caller| async move {
            assert_eq!(caller.await.unwrap(), 7);
            start.elapsed()
        });
        let outputs = join_all(others).await;
        assert_eq!(started.load(Ordering::Relaxed), 1, "the work was run again");
        assert_eq!(flight.len(), 0);
        assert_eq!(flight.stats().waiting, usize::from(gone.is_some()));
        drop(gone);
        eventually(|| flight.stats().waiting == 0).await;
        let stats = flight.stats();
        assert_eq!((stats.runs, stats.shared, stats.cancelled), (1, outputs.len() as u64, 0));
        outputs
    }

    fn every_case(others: usize) -> impl Iterator<Item = (usize, usize, Fate)> {
        let mut victims = vec![0, others.div_ceil(2), others];
        victims.dedup();
        victims.into_iter().flat_map(|victim| {
            (0..POINTS).flat_map(move |point| [Fate::Dropped, Fate::Kept].map(|fate| (victim, point, fate)))
        })
    }

    fn play_paused(others: usize) {
        // The time at which the value arrives without a cancellation.
        let undisturbed = paused().block_on(async {
            let start = Instant::now();
            let (reached, _at) = watch::channel(0);
            work(reached, Arc::default()).await.unwrap();
            start.elapsed()
        });
        assert!(undisturbed >= 30 * MS);
        for (victim, point, fate) in every_case(others) {
            let outputs = outputs_of_the_others(others, victim, point, fate, true);
            // Fails at once instead of hanging, because time is paused.
            let outputs = paused().block_on(async { timeout(1_000 * SECOND, outputs).await.expect("a caller hangs") });
            assert_eq!(outputs, vec![undisturbed; others], "{victim} {fate:?} at {point}");
        }
    }

    #[test]
    fn one_of_two_callers_is_cancelled_at_any_point_and_the_other_gets_the_value_in_time() {
        play_paused(1);
    }

    #[test]
    fn one_of_ten_callers_is_cancelled_at_any_point_and_the_others_get_the_value_in_time() {
        play_paused(9);
    }

    #[test]
    fn one_of_a_thousand_callers_is_cancelled_at_any_point_and_the_others_get_the_value_in_time() {
        play_paused(1_000);
    }

    #[test]
    fn caller_is_cancelled_at_any_point_on_many_threads_and_the_others_get_the_value() {
        let runtime = workers(4);
        for others in [1, 9, 1_000] {
            for (victim, point, fate) in every_case(others) {
                // Real time, because a runtime with several threads has no other. It is not checked.
                let outputs = runtime.block_on(async {
                    let outputs = tokio::spawn(outputs_of_the_others(others, victim, point, fate, false));
                    timeout(60 * SECOND, outputs).await.expect("a caller hangs").unwrap()
                });
                assert_eq!(outputs.len(), others);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn leader_dropped_by_its_own_work_leaves_the_run_to_its_follower() {
        let flight = flight();
        let dropped_by_work = Arc::new(Mutex::new(None::<Caller>));
        let mut other = {
            let leader = Arc::clone(&dropped_by_work);
            let mut first = caller(flight, 0, async move {
                sleep(SECOND).await;
                assert!(leader.lock().unwrap().take().is_some());
                sleep(SECOND).await;
                Ok(7)
            });
            assert_pending!(first.poll());
            let other = joined(flight, 0);
            *dropped_by_work.lock().unwrap() = Some(first);
            other
        };
        assert_eq!((&mut other).await.unwrap(), 7);
        assert_eq!((flight.stats().runs, flight.stats().cancelled), (1, 0));
    }

    #[tokio::test]
    async fn ten_thousand_cancelled_leaders_leave_the_run_to_the_survivor() {
        cancel_ten_thousand(true).await;
    }

    #[test]
    fn ten_thousand_cancelled_leaders_pass_the_work_on_without_a_runtime() {
        block_on(cancel_ten_thousand(false));
    }

    async fn cancel_ten_thousand(has_runtime: bool) {
        const CANCELLED: usize = 10_000;
        let flight = flight();
        let (finish, work) = on_demand();
        let polls = Arc::new(AtomicUsize::new(0));
        let mut work = Box::pin(work);
        let counted = Arc::clone(&polls);
        let mut leader = caller(
            flight,
            0,
            poll_fn(move |cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                work.as_mut().poll(cx)
            }),
        );
        assert_pending!(leader.poll());
        let mut survivor = joined(flight, 0);
        for _ in 0..CANCELLED {
            let next = joined(flight, 0);
            drop(std::mem::replace(&mut leader, next));
            if has_runtime {
                yield_now().await;
            } else {
                // Becomes the driver, or finds that the survivor is.
                assert_pending!(leader.poll());
            }
        }
        drop(leader);
        if !has_runtime {
            assert!(survivor.is_woken());
            assert_pending!(survivor.poll());
            assert!(polls.load(Ordering::Relaxed) > CANCELLED, "each leader polled the work");
        }
        finish.send(7).unwrap();
        assert_eq!(survivor.await.unwrap(), 7);
        let stats = flight.stats();
        assert_eq!((stats.runs, stats.shared, stats.cancelled), (1, CANCELLED as u64 + 1, 0));
        assert_idle(flight);
    }
}

mod last_caller {
    use super::*;

    /// What the destructor of the work observed.
    #[derive(Default)]
    struct Dropped {
        times: AtomicUsize,
        keys: AtomicUsize,
    }

    /// Returns work that never completes, and whose destructor inspects the flight.
    fn endless(flight: &'static Flight, dropped: &Arc<Dropped>) -> impl Future<Output = WorkResult> + Send + 'static {
        let dropped = Arc::clone(dropped);
        let on_drop = OnDrop(move || {
            dropped.keys.store(flight.len(), Ordering::SeqCst);
            dropped.times.fetch_add(1, Ordering::SeqCst);
        });
        async move {
            let _on_drop = on_drop;
            pending().await
        }
    }

    fn cancel_all_callers(callers: usize, run_driver_task: impl Fn()) {
        let flight = flight();
        let dropped = Arc::new(Dropped::default());
        dropped.keys.store(usize::MAX, Ordering::SeqCst);
        let mut first = caller(flight, 0, endless(flight, &dropped));
        assert_pending!(first.poll());
        let mut all = vec![first];
        all.extend((1..callers).map(|_| joined(flight, 0)));
        run_driver_task();
        for remaining in (0..callers).rev() {
            assert_eq!((flight.len(), flight.stats().waiting), (1, remaining + 1));
            assert_eq!(dropped.times.load(Ordering::SeqCst), 0);
            drop(all.remove(remaining / 2));
        }
        assert_eq!(dropped.times.load(Ordering::SeqCst), 1, "the work is dropped during the drop of the last caller");
        assert_eq!(dropped.keys.load(Ordering::SeqCst), 0, "the key was removed before the work was dropped");
        assert_idle(flight);
        assert_eq!(flight.stats().cancelled, 1);
        assert_starts_fresh(flight, 0);
        run_driver_task();
        assert_eq!(flight.stats().runs, 2);
    }

    #[test]
    fn work_is_dropped_with_the_last_caller_without_a_runtime() {
        (1..=4).for_each(|callers| cancel_all_callers(callers, || ()));
    }

    #[test]
    fn work_is_dropped_with_the_last_caller_before_the_driver_task_has_run() {
        let runtime = current_thread();
        let _entered = runtime.enter();
        (1..=4).for_each(|callers| cancel_all_callers(callers, || ()));
    }

    #[test]
    fn work_is_dropped_with_the_last_caller_after_the_driver_task_has_polled_it() {
        let runtime = current_thread();
        let _entered = runtime.enter();
        (1..=4).for_each(|callers| cancel_all_callers(callers, || runtime.block_on(settle())));
    }

    /// Drops the last caller on another thread. The work's destructor blocks there until `test` returns.
    fn while_the_destructor_runs(flight: &'static Flight, test: impl FnOnce()) {
        let (started, has_started) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel();
        let on_drop = OnDrop(move || {
            started.send(()).unwrap();
            may_finish.recv().unwrap();
        });
        let mut first = caller(flight, 0, async move {
            let _on_drop = on_drop;
            pending().await
        });
        assert_pending!(first.poll());
        let dropping = thread::spawn(move || drop(first));
        has_started.recv().unwrap();
        test();
        finish.send(()).unwrap();
        dropping.join().unwrap();
    }

    /// Returns work that panics if it starts before `may_begin` is set.
    fn later(may_begin: &Arc<AtomicBool>) -> impl Future<Output = WorkResult> + Send + 'static {
        let may_begin = Arc::clone(may_begin);
        async move {
            assert!(may_begin.load(Ordering::SeqCst), "the run started before the previous one was dropped");
            Ok(8)
        }
    }

    #[test]
    fn caller_during_the_drop_of_the_work_waits_and_starts_a_new_run() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            let flight = flight();
            let may_begin = Arc::new(AtomicBool::new(false));
            let mut late = [0, 1].map(|_| caller(flight, 0, later(&may_begin)));
            while_the_destructor_runs(flight, || {
                for caller in &mut late {
                    assert_pending!(caller.poll());
                    assert_pending!(caller.poll());
                    assert!(!caller.is_woken());
                }
                assert_eq!((flight.len(), flight.stats().waiting, flight.stats().shared), (0, 2, 0));
                assert!(
                    !flight.forget(&0),
                    "there is no run to forget, and `forget` must not let a second run start"
                );
                assert_pending!(late[0].poll());
                may_begin.store(true, Ordering::SeqCst);
            });
            for caller in &mut late {
                assert!(caller.is_woken());
                assert_eq!(assert_ready_ok!(caller.poll()), 8);
            }
            assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (3, 0, 1));
            assert_idle(flight);
        }
    }

    #[test]
    fn caller_during_the_drop_of_the_work_can_be_cancelled() {
        let flight = flight();
        let mut kept = caller(flight, 0, ready(Ok(8)));
        while_the_destructor_runs(flight, || {
            let dropped = [0, 1].map(|_| joined(flight, 0));
            assert_pending!(kept.poll());
            drop(dropped);
            assert_eq!(flight.stats().waiting, 1);
        });
        assert!(kept.is_woken());
        assert_eq!(assert_ready_ok!(kept.poll()), 8);
        while_the_destructor_runs(flight, || drop(joined(flight, 0)));
        assert_idle(flight);
        assert_starts_fresh(flight, 0);
        assert_eq!(flight.stats().cancelled, 2);
    }

    #[test]
    fn limits_apply_while_the_work_is_dropped() {
        let runtime = paused();
        let _entered = runtime.enter();
        let flight = leaked(Flight::builder("limits").max_waiters(0).wait_timeout(SECOND).build());
        while_the_destructor_runs(flight, || {
            let mut waiter = joined(flight, 0);
            let refused = assert_ready!(joiner(flight, 0).poll());
            assert!(matches!(refused, Err(FlightError::TooManyWaiters)));
            runtime.block_on(advance(SECOND));
            assert!(waiter.is_woken());
            assert!(matches!(assert_ready!(waiter.poll()), Err(FlightError::Timeout { .. })));
            assert_eq!(flight.stats().waiting, 0);
        });
        assert_idle(flight);
        assert_starts_fresh(flight, 0);
        assert_eq!((flight.stats().refused, flight.stats().timed_out, flight.stats().cancelled), (1, 1, 1));
    }

    /// How the poll ends during which the last caller is dropped.
    #[derive(Clone, Copy, Debug)]
    enum PollEnd {
        Pending,
        WithValue,
        WithError,
        WithPanic,
    }

    #[test]
    fn caller_while_cancelled_work_is_polled_waits_and_starts_a_new_run() {
        let runtime = workers(1);
        let _entered = runtime.enter();
        for poll_end in [PollEnd::Pending, PollEnd::WithValue, PollEnd::WithError, PollEnd::WithPanic] {
            let flight = flight();
            let dropped = Arc::new(Dropped::default());
            let (started, has_started) = mpsc::channel();
            let (finish, may_finish) = mpsc::channel();
            let (polled_twice, second_poll) = oneshot::channel();
            let mut on_drop = Some(endless(flight, &dropped));
            let work = async move {
                second_poll.await.unwrap();
                started.send(()).unwrap();
                may_finish.recv().unwrap();
                match poll_end {
                    PollEnd::Pending => on_drop.take().unwrap().await,
                    PollEnd::WithValue => Ok(7),
                    PollEnd::WithError => Err("in the cancelled run"),
                    PollEnd::WithPanic => quiet_panic("in the cancelled run"),
                }
            };
            let mut first = caller(flight, 0, work);
            assert_pending!(first.poll());
            let second = joined(flight, 0);
            // From here on, the worker thread is inside a poll of the work.
            polled_twice.send(()).unwrap();
            has_started.recv().unwrap();
            drop(first);
            assert_eq!(flight.len(), 1);
            drop(second);
            assert_idle(flight);
            assert_eq!(dropped.times.load(Ordering::SeqCst), 0, "the work is being polled");
            let may_begin = Arc::new(AtomicBool::new(false));
            let mut late = caller(flight, 0, later(&may_begin));
            assert_pending!(late.poll());
            assert_pending!(late.poll());
            assert!(!late.is_woken());
            may_begin.store(true, Ordering::SeqCst);
            finish.send(()).unwrap();
            spin_until(|| late.is_woken());
            assert_eq!(dropped.times.load(Ordering::SeqCst), 1, "{poll_end:?}");
            assert_eq!(assert_ready_ok!(late.poll()), 8, "{poll_end:?}");
            let stats = flight.stats();
            assert_eq!((stats.runs, stats.shared, stats.cancelled), (2, 1, 1), "{poll_end:?}");
            assert_idle(flight);
        }
    }

    #[test]
    fn cancelled_work_is_dropped_when_the_task_that_polls_it_returns() {
        let runtime = workers(1);
        let _entered = runtime.enter();
        let flight = flight();
        let dropped = Arc::new(Dropped::default());
        let (started, has_started) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel();
        let (wake, woken) = oneshot::channel();
        let rest = endless(flight, &dropped);
        let mut first = caller(flight, 0, async move {
            woken.await.unwrap();
            started.send(()).unwrap();
            may_finish.recv().unwrap();
            rest.await
        });
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        wake.send(()).unwrap();
        has_started.recv().unwrap();
        drop((first, second));
        assert_eq!(dropped.times.load(Ordering::SeqCst), 0);
        finish.send(()).unwrap();
        spin_until(|| dropped.times.load(Ordering::SeqCst) == 1);
        spin_until(|| flight.stats().cancelled == 1);
        assert_starts_fresh(flight, 0);
    }
}

mod detached {
    use super::*;

    fn detached() -> &'static Flight {
        leaked(Flight::builder("detached").detached().build())
    }

    fn noted(
        work: impl Future<Output = WorkResult> + Send + 'static,
    ) -> (Arc<AtomicUsize>, impl Future<Output = WorkResult> + Send) {
        let ended = Arc::new(AtomicUsize::new(0));
        let note = Arc::clone(&ended);
        let work = async move {
            let output = work.await;
            note.fetch_add(1, Ordering::SeqCst);
            output
        };
        (ended, work)
    }

    #[tokio::test(start_paused = true)]
    async fn run_finishes_without_callers() {
        for callers in [1, 2, 5] {
            let flight = detached();
            let (ended, work) = noted(async {
                sleep(SECOND).await;
                Ok(7)
            });
            let mut first = caller(flight, 0, work);
            assert_pending!(first.poll());
            let others: Vec<_> = (1..callers).map(|_| joined(flight, 0)).collect();
            drop(others);
            drop(first);
            assert_eq!((flight.len(), flight.stats().waiting), (1, 0));
            sleep(SECOND - MS).await;
            assert_eq!((flight.len(), ended.load(Ordering::SeqCst)), (1, 0));
            sleep(2 * MS).await;
            assert_eq!(ended.load(Ordering::SeqCst), 1);
            assert_idle(flight);
            assert_eq!(flight.stats().cancelled, 0);
            assert_starts_fresh(flight, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn later_caller_joins_the_detached_run() {
        let flight = detached();
        let (finish, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        drop(first);
        settle().await;
        let late = [0, 1].map(|_| joined(flight, 0));
        let [one, other] = late;
        drop(one);
        finish.send(7).unwrap();
        assert_eq!(other.await.unwrap(), 7);
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (1, 2, 0));
        assert_idle(flight);
    }

    #[test]
    fn run_is_dropped_with_its_last_caller_without_a_runtime() {
        let flight = detached();
        let (ended, work) = noted(async {
            yield_once().await;
            Ok(7)
        });
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        drop(first);
        assert_eq!(flight.len(), 1);
        drop(second);
        assert_eq!(Arc::strong_count(&ended), 1, "the work is still there");
        assert_idle(flight);
        assert_eq!(flight.stats().cancelled, 1);
        assert_starts_fresh(flight, 0);
    }

    #[test]
    fn run_whose_runtime_is_shut_down_is_cancelled() {
        // It makes no difference if the driver task was polled.
        for is_polled in [false, true] {
            let runtime = current_thread();
            let flight = detached();
            let (ended, work) = noted(async {
                yield_once().await;
                pending().await
            });
            let mut first = caller(flight, 0, work);
            {
                let _entered = runtime.enter();
                assert_pending!(first.poll());
                drop(first);
            }
            if is_polled {
                runtime.block_on(settle());
            }
            assert_eq!((flight.len(), flight.stats().cancelled), (1, 0));
            drop(runtime);
            assert_eq!((flight.len(), flight.stats().cancelled), (0, 1));
            assert_eq!((ended.load(Ordering::SeqCst), Arc::strong_count(&ended)), (0, 1));
            assert_starts_fresh(flight, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn run_without_callers_can_panic_or_fail() {
        for end in [|| quiet_panic("without callers"), || Err("without callers")] as [fn() -> WorkResult; 2] {
            let flight = detached();
            let mut first = caller(flight, 0, async move {
                sleep(SECOND).await;
                end()
            });
            assert_pending!(first.poll());
            drop(first);
            sleep(2 * SECOND).await;
            assert_idle(flight);
            assert_starts_fresh(flight, 0);
        }
    }
}

mod failures {
    use super::*;

    const WAITERS: usize = 1_000;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Place {
        /// In the closure that creates the future.
        Making,
        FirstPoll,
        LaterPoll,
    }

    /// A panic payload that panics again when it is dropped.
    struct PanicsInDrop;

    impl Drop for PanicsInDrop {
        fn drop(&mut self) {
            quiet_panic("in the destructor of the panic's payload");
        }
    }

    const PANICS: [(fn(), &str); 4] = [
        (|| quiet_panic("a str"), "a str"),
        (|| quiet_panic(String::from("a String")), "a String"),
        (|| quiet_panic(7_u8), "(no message)"),
        (|| quiet_panic(PanicsInDrop), "(no message)"),
    ];

    /// Plays a run that ends at `place` with `end`, for a leader and a thousand followers that join before the end.
    fn share_an_outcome(place: Place, flight: &'static Flight, ending: fn() -> WorkResult) -> Vec<Shared> {
        let started = Arc::new(AtomicUsize::new(0));
        let waiters = Arc::new(Mutex::new(Vec::new()));
        let add_followers = {
            let waiters = Arc::clone(&waiters);
            move || {
                // On another thread, because on this one they would count as nested in the run.
                let add_followers = || waiters.lock().unwrap().extend((0..WAITERS).map(|_| joined(flight, 0)));
                thread::scope(|scope| scope.spawn(add_followers).join().unwrap());
            }
        };
        let work = {
            let started = Arc::clone(&started);
            move || {
                started.fetch_add(1, Ordering::Relaxed);
                if place == Place::Making {
                    add_followers();
                    let _never = ending();
                }
                async move {
                    if place == Place::LaterPoll {
                        yield_once().await;
                    }
                    add_followers();
                    ending()
                }
            }
        };
        let mut first = task::spawn(flight.run(0, work));
        if place == Place::LaterPoll {
            assert_pending!(first.poll());
        }
        let mut shared = vec![assert_ready!(first.poll())];
        assert_idle_but_for(flight, WAITERS);
        for mut waiter in waiters.lock().unwrap().drain(..) {
            assert!(waiter.is_woken());
            shared.push(assert_ready!(waiter.poll()));
        }
        assert_eq!(started.load(Ordering::Relaxed), 1);
        assert_idle(flight);
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (1, WAITERS as u64, 0));
        assert_starts_fresh(flight, 0);
        shared
    }

    fn assert_idle_but_for(flight: &Flight, waiting: usize) {
        assert_eq!((flight.len(), flight.stats().waiting), (0, waiting));
    }

    #[test]
    fn panic_reaches_every_caller_and_the_work_is_not_run_again() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            for place in [Place::Making, Place::FirstPoll, Place::LaterPoll] {
                for end in [0, 1, 2, 3] {
                    let panics: fn() -> WorkResult = match end {
                        0 => || quiet_panic("a str"),
                        1 => || quiet_panic(String::from("a String")),
                        2 => || quiet_panic(7_u8),
                        _ => || quiet_panic(PanicsInDrop),
                    };
                    let flight = flight();
                    let shared = share_an_outcome(place, flight, panics);
                    assert_eq!(shared.len(), 1 + WAITERS);
                    for one in shared {
                        assert_eq!(message(one), PANICS[end].1, "{place:?}");
                    }
                    assert_eq!(flight.stats().panicked, 1);
                }
            }
        }
    }

    #[tokio::test]
    async fn panic_in_the_driver_task_reaches_every_caller() {
        for (panic, expected) in PANICS {
            let flight = flight();
            let (finish, receiver) = oneshot::channel::<()>();
            let mut first = caller(flight, 0, async move {
                receiver.await.unwrap();
                panic();
                Ok(7)
            });
            assert_pending!(first.poll());
            let mut all: Vec<_> = unconstrained(async { (0..WAITERS).map(|_| joined(flight, 0)).collect() }).await;
            all.push(first);
            settle().await;
            finish.send(()).unwrap();
            settle().await;
            assert!(all.iter().all(|caller| caller.is_woken()));
            for one in join_all(all).await {
                assert_eq!(message(one), expected);
            }
            assert_eq!((flight.stats().runs, flight.stats().panicked), (1, 1));
            assert_starts_fresh(flight, 0);
        }
    }

    #[test]
    fn all_callers_share_one_error() {
        for place in [Place::FirstPoll, Place::LaterPoll] {
            let flight = flight();
            let shared = share_an_outcome(place, flight, || Err("closed"));
            let errors = shared.into_iter().map(|one| match one {
                Err(FlightError::Failed(error)) => error,
                other => panic!("the work should have failed: {other:?}"),
            });
            let errors: Vec<_> = errors.collect();
            assert_eq!((errors.len(), *errors[0]), (1 + WAITERS, "closed"));
            assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));
            assert_eq!(Arc::strong_count(&errors[0]), errors.len(), "another reference to the error remains");
            assert_eq!(flight.stats().panicked, 0);
        }
    }

    #[test]
    fn error_of_an_unshared_run_is_returned_at_once() {
        let mut only = caller(flight(), 0, ready(Err("closed")));
        let Err(error) = assert_ready!(only.poll()) else { panic!("the work should have failed") };
        assert_eq!(error.failure(), Some(&"closed"));
    }

    /// Returns work whose destructor panics, and which completes at once or never.
    fn brittle(completes: bool) -> impl Future<Output = WorkResult> + Send + 'static {
        let on_drop = OnDrop(|| quiet_panic("in the destructor of the work"));
        poll_fn(move |cx| {
            let _in_it = &on_drop;
            cx.waker().wake_by_ref();
            if completes { Poll::Ready(Ok(7)) } else { Poll::Pending }
        })
    }

    #[test]
    fn panic_in_the_destructor_of_completed_work_does_not_reach_the_callers() {
        let flight = flight();
        let (finish, receiver) = oneshot::channel::<()>();
        let mut first = caller(flight, 0, async move {
            let brittle = brittle(true);
            receiver.await.unwrap();
            brittle.await
        });
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        finish.send(()).unwrap();
        // The async block drops the inner future before its own poll returns, so this is a panic of the work.
        assert_eq!(message(assert_ready!(first.poll())), "in the destructor of the work");
        assert_eq!(message(assert_ready!(second.poll())), "in the destructor of the work");

        let mut only = caller(flight, 0, brittle(true));
        assert_eq!(assert_ready_ok!(only.poll()), 7);
        assert_eq!(flight.stats().panicked, 1);
        assert_starts_fresh(flight, 0);
    }

    #[test]
    fn panic_in_the_destructor_of_cancelled_work_does_not_reach_the_cancelled_caller() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            let flight = flight();
            let mut first = caller(flight, 0, brittle(false));
            assert_pending!(first.poll());
            let second = joined(flight, 0);
            drop(first);
            drop(second);
            assert_idle(flight);
            assert_eq!((flight.stats().cancelled, flight.stats().panicked), (1, 0));
            assert_starts_fresh(flight, 0);
        }
    }

    #[test]
    fn panic_reaches_callers_that_joined_before_the_driver_task_was_polled() {
        let runtime = current_thread();
        let flight = flight();
        runtime.block_on(async {
            let callers = (0..10).map(|_| {
                flight.run(0, || async {
                    yield_now().await;
                    quiet_panic("in the task")
                })
            });
            for one in join_all(callers).await {
                assert_eq!(message(one), "in the task");
            }
        });
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().panicked), (1, 9, 1));
    }
}

mod limits {
    use super::*;

    fn is_refused(poll: &Poll<Shared>) -> bool {
        matches!(poll, Poll::Ready(Err(FlightError::TooManyWaiters)))
    }

    fn is_late(poll: &Poll<Shared>, expected: Duration) -> bool {
        matches!(poll, Poll::Ready(Err(FlightError::Timeout { waited, .. })) if *waited == expected)
    }

    #[test]
    fn waiters_are_admitted_up_to_the_limit_and_a_cancelled_one_makes_room() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            for most in [0, 1, 2, 7] {
                let flight = leaked(Flight::builder("bounded").max_waiters(most).build());
                let (finish, work) = on_demand();
                let mut first = caller(flight, 0, work);
                assert_pending!(first.poll());
                let mut waiters: Vec<_> = (0..most).map(|_| joined(flight, 0)).collect();
                for _ in 0..3 {
                    assert!(is_refused(&joiner(flight, 0).poll()));
                }
                assert_pending!(caller(flight, 1, pending()).poll());
                if let Some(cancelled) = waiters.pop() {
                    drop(cancelled);
                    waiters.push(joined(flight, 0));
                    assert!(is_refused(&joiner(flight, 0).poll()));
                }
                assert_eq!(flight.stats().waiting, 1 + most);
                finish.send(7).unwrap();
                if has_runtime {
                    runtime.block_on(settle());
                }
                assert_eq!(assert_ready_ok!(first.poll()), 7);
                for mut waiter in waiters {
                    assert_eq!(assert_ready_ok!(waiter.poll()), 7);
                }
                assert_eq!(flight.stats().refused, 3 + u64::from(most > 0));
                assert_starts_fresh(flight, 0);
            }
        }
    }

    #[test]
    fn cancelled_leader_makes_room_for_a_follower() {
        let flight = leaked(Flight::builder("bounded").max_waiters(1).build());
        let mut first = caller(flight, 0, pending());
        assert_pending!(first.poll());
        let _second = joined(flight, 0);
        drop(first);
        let _third = joined(flight, 0);
        assert!(is_refused(&joiner(flight, 0).poll()));
    }

    #[test]
    fn concurrent_waiters_are_admitted_up_to_the_limit() {
        const MOST: usize = 50;
        const THREADS: usize = 8;
        const CALLERS: usize = 100;
        let flight = leaked(Flight::builder("bounded").max_waiters(MOST).build());
        let mut first = caller(flight, 0, pending());
        assert_pending!(first.poll());
        for round in 1..=20 {
            let (start, all_polled) = (Barrier::new(THREADS), Barrier::new(THREADS));
            let arrive = || {
                start.wait();
                let mut callers: Vec<_> = (0..CALLERS).map(|_| joiner(flight, 0)).collect();
                let refused = callers.iter_mut().map(|caller| caller.poll()).filter(is_refused).count();
                all_polled.wait();
                CALLERS - refused
            };
            let admitted: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(arrive)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(admitted, MOST);
            assert_eq!(flight.stats().refused, round * (THREADS * CALLERS - MOST) as u64);
            assert_eq!(flight.stats().waiting, 1);
        }
    }

    fn impatient() -> &'static Flight {
        leaked(Flight::builder("impatient").wait_timeout(SECOND).build())
    }

    #[tokio::test(start_paused = true)]
    async fn timed_out_leader_leaves_the_run_to_its_followers() {
        let flight = impatient();
        let (finish, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        advance(SECOND / 2).await;
        let mut second = joined(flight, 0);
        advance(SECOND / 2 - MS).await;
        assert!(!first.is_woken());
        assert_pending!(first.poll());
        advance(MS).await;
        assert!(first.is_woken());
        assert!(is_late(&first.poll(), SECOND));
        assert_eq!((flight.stats().timed_out, flight.stats().waiting, flight.len()), (1, 1, 1));
        let late = joined(flight, 0);
        advance(SECOND / 2 - MS).await;
        assert_pending!(second.poll());
        finish.send(7).unwrap();
        settle().await;
        assert_eq!(assert_ready_ok!(second.poll()), 7);
        assert_eq!(late.await.unwrap(), 7);
        assert_eq!((flight.stats().runs, flight.stats().cancelled, flight.stats().timed_out), (1, 0, 1));
        assert_idle(flight);
    }

    #[tokio::test(start_paused = true)]
    async fn last_caller_that_times_out_cancels_the_run() {
        for callers in [1, 2, 9] {
            let flight = impatient();
            let dropped = Arc::new(AtomicBool::new(false));
            let note = Arc::clone(&dropped);
            let on_drop = OnDrop(move || note.store(true, Ordering::SeqCst));
            let mut first = caller(flight, 0, async move {
                let _on_drop = on_drop;
                pending().await
            });
            assert_pending!(first.poll());
            let mut all = vec![first];
            all.extend((1..callers).map(|_| joined(flight, 0)));
            advance(SECOND).await;
            for mut caller in all {
                assert!(!dropped.load(Ordering::SeqCst));
                assert!(is_late(&caller.poll(), SECOND));
            }
            assert!(dropped.load(Ordering::SeqCst));
            assert_idle(flight);
            assert_eq!((flight.stats().timed_out, flight.stats().cancelled), (callers, 1));
            assert_starts_fresh(flight, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn detached_run_continues_after_all_callers_timed_out() {
        let flight = leaked(Flight::builder("impatient").wait_timeout(SECOND).detached().build());
        let slow = || async {
            sleep(2 * SECOND + SECOND / 2).await;
            Ok(7)
        };
        assert!(is_late(&Poll::Ready(flight.run(0, slow).await), SECOND));
        assert!(is_late(&Poll::Ready(flight.run(0, slow).await), SECOND));
        assert_eq!(flight.run(0, || ready(Ok(8))).await.unwrap(), 7);
        assert_eq!((flight.stats().runs, flight.stats().timed_out), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn value_that_arrives_at_the_deadline_wins() {
        // The caller polls the work itself, which is as slow as it may be.
        let flight = impatient();
        let slow = || async {
            sleep(SECOND).await;
            Ok(7)
        };
        assert_eq!(flight.run(0, slow).await.unwrap(), 7);
        // The task has it, and the callers are polled when the run has landed and their time is over.
        let (finish, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        settle().await;
        advance(SECOND).await;
        finish.send(8).unwrap();
        settle().await;
        assert_eq!(assert_ready_ok!(first.poll()), 8);
        assert_eq!(assert_ready_ok!(second.poll()), 8);
        assert_eq!(flight.stats().timed_out, 0);
    }

    #[test]
    fn outside_a_runtime_only_a_caller_that_waits_needs_a_timer() {
        let flight = impatient();
        assert_starts_fresh(flight, 0);
        let mut first = caller(flight, 0, pending());
        let polled = catch_unwind(AssertUnwindSafe(|| first.poll()));
        assert!(polled.is_err(), "a timer needs a runtime");
        let mut second = joiner(flight, 0);
        assert!(catch_unwind(AssertUnwindSafe(|| second.poll())).is_err());
        assert_eq!(flight.stats().waiting, 2);
        drop((first, second));
        assert_idle(flight);
        assert_starts_fresh(flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_beyond_the_range_of_the_clock_never_expires() {
        let flight = leaked(Flight::builder("patient").wait_timeout(Duration::MAX).build());
        let slow = || async {
            sleep(1_000_000 * SECOND).await;
            Ok(7)
        };
        assert_eq!(flight.run(0, slow).await.unwrap(), 7);
    }

    #[test]
    fn builder_rejects_limits_that_admit_no_waiter() {
        let zero = catch_unwind(|| Flight::<u32, u64>::builder("hasty").wait_timeout(Duration::ZERO).build());
        assert!(zero.is_err());
        let all = catch_unwind(|| Flight::<u32, u64>::builder("bounded").max_waiters(usize::MAX).build());
        assert!(all.is_err());
    }
}

mod forget {
    use super::*;

    #[test]
    fn next_call_starts_another_run_and_each_run_keeps_its_own_callers() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            let flight = flight();
            assert!(!flight.forget(&0), "nothing was ever called");
            let (finish_old, old_work) = on_demand();
            let (finish_new, new_work) = on_demand();
            let mut old = caller(flight, 0, old_work);
            assert_pending!(old.poll());
            let mut shares_old = joined(flight, 0);
            assert!(!flight.forget(&1));
            assert!(flight.forget(&0));
            assert!(!flight.forget(&0), "it is forgotten already");
            assert_eq!((flight.len(), flight.stats().waiting), (0, 2));
            let mut new = caller(flight, 0, new_work);
            assert_pending!(new.poll());
            let mut shares_new = joined(flight, 0);
            assert_eq!((flight.len(), flight.stats().waiting, flight.stats().runs), (1, 4, 2));
            // The new run completes first, which does not affect the old one.
            finish_new.send(2).unwrap();
            if has_runtime {
                runtime.block_on(settle());
            }
            assert_eq!(assert_ready_ok!(new.poll()), 2);
            assert_eq!(assert_ready_ok!(shares_new.poll()), 2);
            assert_pending!(old.poll());
            assert_starts_fresh(flight, 0);
            finish_old.send(1).unwrap();
            if has_runtime {
                runtime.block_on(settle());
            }
            assert_eq!(assert_ready_ok!(old.poll()), 1);
            assert_eq!(assert_ready_ok!(shares_old.poll()), 1);
            assert_idle(flight);
        }
    }

    #[test]
    fn completion_of_a_forgotten_run_does_not_remove_the_new_one() {
        let flight = flight();
        let (finish_old, old_work) = on_demand();
        let (finish_new, new_work) = on_demand();
        let mut old = caller(flight, 0, old_work);
        assert_pending!(old.poll());
        flight.forget(&0);
        let mut new = caller(flight, 0, new_work);
        assert_pending!(new.poll());
        finish_old.send(1).unwrap();
        assert_eq!(assert_ready_ok!(old.poll()), 1);
        assert_eq!((flight.len(), flight.stats().waiting), (1, 1));
        let mut shares_new = joined(flight, 0);
        finish_new.send(2).unwrap();
        assert_eq!(assert_ready_ok!(new.poll()), 2);
        assert_eq!(assert_ready_ok!(shares_new.poll()), 2);
        assert_idle(flight);
    }

    #[test]
    fn forgotten_run_whose_callers_are_all_dropped_is_cancelled() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            for callers in [1, 2, 3] {
                let flight = flight();
                let marker = Arc::new(());
                let captured = Arc::clone(&marker);
                let mut first = caller(flight, 0, async move {
                    let _held = captured;
                    pending().await
                });
                assert_pending!(first.poll());
                let mut all = vec![first];
                all.extend((1..callers).map(|_| joined(flight, 0)));
                assert!(flight.forget(&0));
                let mut new = caller(flight, 0, pending());
                assert_pending!(new.poll());
                drop(all);
                assert_eq!(Arc::strong_count(&marker), 1);
                assert_eq!((flight.len(), flight.stats().waiting, flight.stats().cancelled), (1, 1, 1));
                let shares_new = joined(flight, 0);
                drop((new, shares_new));
                assert_eq!(flight.stats().cancelled, 2);
                assert_idle(flight);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forgotten_detached_run_finishes() {
        let flight = leaked(Flight::builder("detached").detached().build());
        let (finish, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        flight.forget(&0);
        drop(first);
        assert_starts_fresh(flight, 0);
        assert!(!finish.is_closed());
        finish.send(7).unwrap();
        settle().await;
        assert_eq!((flight.len(), flight.stats().cancelled), (0, 0));
    }

    #[test]
    fn work_of_a_forgotten_run_may_call_its_key() {
        let flight = flight();
        let mut only = caller(flight, 0, async {
            assert!(flight.forget(&0));
            flight.run(0, || async { Ok(8) }).await.map_err(|_| "the forgotten run still owns the key")
        });
        assert_eq!(assert_ready_ok!(only.poll()), 8);
        assert_eq!(flight.stats().runs, 2);
        assert_idle(flight);
    }
}

mod nesting {
    use super::*;

    fn deadlocks<T>(result: &Result<T, FlightError<&'static str>>) -> bool {
        matches!(result, Err(FlightError::WouldDeadlock))
    }

    async fn calls_its_own_key(flight: &'static Flight, delay: Duration) -> WorkResult {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        assert!(deadlocks(&call(flight, 0, ready(Ok(1))).await));
        let (own, other) = join(call(flight, 0, ready(Ok(1))), call(flight, 1, ready(Ok(2)))).await;
        assert!(deadlocks(&own));
        Ok(other.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_calls_its_own_key_is_refused() {
        // In the first poll, and in a later one, which a driver task makes if the run has two callers.
        for delay in [Duration::ZERO, SECOND] {
            let flight = flight();
            assert_eq!(call(flight, 0, calls_its_own_key(flight, delay)).await.unwrap(), 2);
            assert_eq!((flight.stats().runs, flight.stats().refused), (2, 2));
            assert_idle(flight);
        }
        let flight = flight();
        let first = call(flight, 0, calls_its_own_key(flight, SECOND));
        let (one, other) = join(first, joiner(flight, 0)).await;
        assert_eq!((one.unwrap(), other.unwrap()), (2, 2));
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().refused), (2, 1, 2));
        assert_idle(flight);
    }

    #[tokio::test]
    async fn nested_run_of_another_key_refuses_both_keys() {
        let flight = flight();
        let only = flight.run(0, || async {
            let inner = flight.run(1, || async {
                assert!(deadlocks(&flight.run(0, || ready(Ok(1))).await));
                assert!(deadlocks(&flight.run(1, || ready(Ok(1))).await));
                Ok(flight.run(2, || ready(Ok(3))).await.unwrap())
            });
            let inner = inner.await.unwrap();
            // The inner run is complete, so its key is allowed again. The key of the outer run is not.
            assert_eq!(flight.run(1, || ready(Ok(4))).await.unwrap(), 4);
            assert!(deadlocks(&flight.run(0, || ready(Ok(1))).await));
            Ok(inner)
        });
        assert_eq!(only.await.unwrap(), 3);
        assert_idle(flight);
    }

    #[tokio::test]
    async fn same_key_of_another_flight_is_allowed() {
        let (one, other) = (flight(), flight());
        let nested = one.run(0, || async { other.run(0, || ready(Ok(7))).await.map_err(|_| "the other flight refused it") });
        assert_eq!(nested.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn two_concurrent_calls_of_one_task_share_the_run() {
        let flight = flight();
        let work = || async {
            yield_once().await;
            Ok(7)
        };
        let (one, other) = join(flight.run(0, work), flight.run(0, work)).await;
        assert_eq!((one.unwrap(), other.unwrap()), (7, 7));
        assert_eq!((flight.stats().runs, flight.stats().shared), (1, 1));
    }

    #[test]
    fn destructor_of_the_work_that_calls_its_own_key_is_refused() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            // When the work completes, when it is cancelled, and when it is cancelled in the driver task.
            for completes in [true, false] {
                for callers in [1, 2] {
                    let flight = flight();
                    let (refusals, other) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
                    let notes = (Arc::clone(&refusals), Arc::clone(&other));
                    let on_drop = OnDrop(move || {
                        let own = assert_ready!(task::spawn(flight.run(0, || ready(Ok(1)))).poll());
                        notes.0.fetch_add(usize::from(deadlocks(&own)), Ordering::SeqCst);
                        let other = assert_ready!(task::spawn(flight.run(1, || ready(Ok(1)))).poll());
                        notes.1.fetch_add(usize::from(other.is_ok()), Ordering::SeqCst);
                    });
                    let mut is_first_poll = true;
                    let mut first = caller(
                        flight,
                        0,
                        poll_fn(move |_| {
                            let _in_it = &on_drop;
                            let is_ready = completes && !std::mem::replace(&mut is_first_poll, false);
                            if is_ready { Poll::Ready(Ok(7)) } else { Poll::Pending }
                        }),
                    );
                    assert_pending!(first.poll());
                    let mut all = vec![first];
                    all.extend((1..callers).map(|_| joined(flight, 0)));
                    if has_runtime {
                        runtime.block_on(settle());
                    }
                    if completes {
                        let polled: Vec<_> = all.iter_mut().map(|caller| caller.poll()).collect();
                        if !has_runtime || callers == 1 {
                            polled.into_iter().for_each(|poll| assert_eq!(assert_ready_ok!(poll), 7));
                        }
                    }
                    drop(all);
                    let seen = (refusals.load(Ordering::SeqCst), other.load(Ordering::SeqCst));
                    assert_eq!(seen, (1, 1), "{completes} {callers}");
                    assert_idle(flight);
                    assert_starts_fresh(flight, 0);
                }
            }
        }
    }
}

mod runtimes {
    use super::*;

    /// Wakes work from outside, so that the work needs no runtime.
    #[derive(Default)]
    struct Signal {
        signals: AtomicUsize,
        waker: Mutex<Option<Waker>>,
        polls: AtomicUsize,
        starts: AtomicUsize,
    }

    impl Signal {
        fn send(&self) {
            self.signals.fetch_add(1, Ordering::SeqCst);
            if let Some(waker) = self.waker.lock().unwrap().take() {
                waker.wake();
            }
        }

        fn work(self: &Arc<Self>, steps: usize) -> impl Future<Output = WorkResult> + Send + 'static + use<> {
            self.starts.fetch_add(1, Ordering::SeqCst);
            let signal = Arc::clone(self);
            poll_fn(move |cx| {
                signal.polls.fetch_add(1, Ordering::SeqCst);
                *signal.waker.lock().unwrap() = Some(cx.waker().clone());
                if signal.signals.load(Ordering::SeqCst) >= steps { Poll::Ready(Ok(7)) } else { Poll::Pending }
            })
        }
    }

    #[test]
    fn caller_on_another_runtime_takes_over_when_the_runtime_of_the_driver_task_is_shut_down() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let (doomed, survivor) = (workers(1), current_thread());
        // The first caller runs on the runtime that is shut down later, and is dropped with it.
        let work = signal.work(2);
        let first = doomed.spawn(async move { flight.run(0, || work).await });
        spin_until(|| flight.len() == 1);
        // The driver task runs there, too, because the caller that spawned it does.
        let on_doomed = doomed.spawn(async move { flight.run(0, pending).await });
        spin_until(|| flight.stats().waiting == 2);
        let mut other = {
            let _entered = survivor.enter();
            joined(flight, 0)
        };
        signal.send();
        drop((first, on_doomed));
        drop(doomed);
        assert_eq!(flight.stats().waiting, 1);
        assert!(other.is_woken(), "the run has no driver, so this caller has to drive it");
        let _entered = survivor.enter();
        assert_pending!(other.poll());
        signal.send();
        assert!(other.is_woken());
        assert_eq!(assert_ready_ok!(other.poll()), 7);
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().runs, flight.stats().cancelled), (1, 1, 0));
        assert_idle(flight);
    }

    #[test]
    fn callers_on_another_runtime_get_a_new_driver_task_when_the_first_runtime_is_shut_down() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let (doomed, survivor) = (workers(1), workers(1));
        let work = signal.work(2);
        drop(doomed.spawn(async move { flight.run(0, || work).await }));
        spin_until(|| flight.len() == 1);
        drop(doomed.spawn(async move { flight.run(0, pending).await }));
        spin_until(|| flight.stats().waiting == 2);
        let others: Vec<_> = (0..3).map(|_| survivor.spawn(async move { flight.run(0, pending).await })).collect();
        spin_until(|| flight.stats().waiting == 5);
        let polls = signal.polls.load(Ordering::SeqCst);
        drop(doomed);
        spin_until(|| signal.polls.load(Ordering::SeqCst) > polls);
        signal.send();
        signal.send();
        for other in survivor.block_on(join_all(others)) {
            assert_eq!(other.unwrap().unwrap(), 7);
        }
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().runs, flight.stats().cancelled), (1, 1, 0));
        assert_idle(flight);
    }

    #[test]
    fn repeated_runtime_shutdowns_lose_no_run() {
        for round in 0..50 {
            let flight = flight();
            let signal = Arc::<Signal>::default();
            let survivor = workers(1);
            let doomed = workers(2);
            let work = signal.work(3);
            drop(doomed.spawn(async move { flight.run(0, || work).await }));
            spin_until(|| flight.len() == 1);
            let other = survivor.spawn(async move { flight.run(0, pending).await });
            let more = (round % 2 == 0).then(|| survivor.spawn(async move { flight.run(0, pending).await }));
            spin_until(|| flight.stats().waiting == 2 + usize::from(more.is_some()));
            let sender = {
                let signal = Arc::clone(&signal);
                thread::spawn(move || (0..3).for_each(|_| signal.send()))
            };
            drop(doomed);
            sender.join().unwrap();
            assert_eq!(survivor.block_on(other).unwrap().unwrap(), 7);
            if let Some(more) = more {
                assert_eq!(survivor.block_on(more).unwrap().unwrap(), 7);
            }
            assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
            assert_idle(flight);
        }
    }

    /// The handle of a runtime that was shut down accepts tasks and drops them at once.
    #[test]
    fn callers_inside_a_runtime_that_was_shut_down_drive_the_run_themselves() {
        let runtime = current_thread();
        let handle = runtime.handle().clone();
        let _entered = handle.enter();
        drop(runtime);
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        for _ in 0..10 {
            assert_pending!(first.poll());
            assert_pending!(second.poll());
        }
        signal.send();
        // The caller that drives the run completes it.
        let mut all = [Some(first), Some(second)];
        spin_until(|| {
            for caller in &mut all {
                if caller.as_mut().is_some_and(|caller| caller.is_woken()) {
                    match caller.as_mut().unwrap().poll() {
                        Poll::Ready(output) => {
                            assert_eq!(output.unwrap(), 7);
                            *caller = None;
                        }
                        Poll::Pending => {}
                    }
                }
            }
            all.iter().all(Option::is_none)
        });
        assert_eq!((flight.stats().runs, flight.stats().cancelled), (1, 0));
        assert_idle(flight);
    }

    #[test]
    fn callers_take_over_from_a_driver_task_of_another_runtime() {
        for is_polled in [false, true] {
            let flight = flight();
            let signal = Arc::<Signal>::default();
            let runtime = current_thread();
            let mut first = caller(flight, 0, signal.work(1));
            assert_pending!(first.poll());
            let mut second = {
                let _entered = runtime.enter();
                joined(flight, 0)
            };
            if is_polled {
                runtime.block_on(settle());
                assert_eq!(signal.polls.load(Ordering::SeqCst), 2, "the driver task has polled the work");
            }
            assert!(!first.is_woken() && !second.is_woken());
            drop(runtime);
            assert!(first.is_woken() && second.is_woken(), "one of them has to drive the run");
            assert_pending!(second.poll());
            assert_pending!(first.poll());
            signal.send();
            assert!(second.is_woken());
            assert_eq!(assert_ready_ok!(second.poll()), 7);
            assert_eq!(assert_ready_ok!(first.poll()), 7);
            assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
        }
    }

    #[test]
    fn driver_task_spawned_while_a_caller_polls_the_work_continues_it() {
        let flight = flight();
        let runtime = current_thread();
        let signal = Arc::<Signal>::default();
        let (starts, has_started) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel();
        let mut work = Box::pin(signal.work(1));
        let mut is_first = true;
        let mut first = caller(
            flight,
            0,
            poll_fn(move |cx| {
                if std::mem::replace(&mut is_first, false) {
                    starts.send(()).unwrap();
                    may_finish.recv().unwrap();
                }
                work.as_mut().poll(cx)
            }),
        );
        let polls = thread::spawn(move || {
            assert_pending!(first.poll());
            first
        });
        has_started.recv().unwrap();
        let _entered = runtime.enter();
        let mut second = joined(flight, 0);
        runtime.block_on(settle());
        finish.send(()).unwrap();
        // The first caller is kept, but not polled again.
        let _first = polls.join().unwrap();
        runtime.block_on(settle());
        assert_eq!(signal.polls.load(Ordering::SeqCst), 2, "the driver task has not polled the work");
        signal.send();
        runtime.block_on(settle());
        assert!(second.is_woken());
        assert_eq!(assert_ready_ok!(second.poll()), 7);
    }

    #[test]
    fn caller_that_polls_on_a_runtime_spawns_a_driver_task() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        let runtime = current_thread();
        let _entered = runtime.enter();
        assert_pending!(first.poll());
        // The first caller is kept, but not polled again.
        signal.send();
        runtime.block_on(settle());
        assert!(second.is_woken());
        assert_eq!(assert_ready_ok!(second.poll()), 7);
    }

    #[test]
    fn callers_on_two_runtimes_share_a_run() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let runtimes = [workers(1), workers(1)];
        let callers: Vec<_> = (0..10)
            .map(|i| {
                let signal = Arc::clone(&signal);
                let caller = runtimes[i % 2].spawn(async move { flight.run(0, || signal.work(1)).await });
                spin_until(|| flight.stats().waiting == i + 1);
                caller
            })
            .collect();
        signal.send();
        for (i, caller) in callers.into_iter().enumerate() {
            assert_eq!(runtimes[i % 2].block_on(caller).unwrap().unwrap(), 7);
        }
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().shared), (1, 9));
    }

    #[test]
    fn callers_on_plain_threads_share_a_run() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let signal = Arc::clone(&signal);
                thread::spawn(move || block_on(flight.run(0, || signal.work(1))))
            })
            .collect();
        spin_until(|| flight.stats().waiting == 8);
        signal.send();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), 7);
        }
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().shared), (1, 7));
        assert_idle(flight);
    }

    #[test]
    fn without_a_runtime_a_cancelled_driver_passes_the_work_to_another_caller() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut callers = vec![caller(flight, 0, signal.work(1))];
        assert_pending!(callers[0].poll());
        callers.extend((0..3).map(|_| joined(flight, 0)));
        while callers.len() > 1 {
            drop(callers.remove(0));
            assert!(callers.iter().all(|caller| caller.is_woken()), "each of them may have to drive the run");
            let polls = signal.polls.load(Ordering::SeqCst);
            for caller in &mut callers {
                assert_pending!(caller.poll());
            }
            assert_eq!(signal.polls.load(Ordering::SeqCst), polls + 1, "one of them drives the run");
        }
        signal.send();
        assert!(callers[0].is_woken());
        assert_eq!(assert_ready_ok!(callers[0].poll()), 7);
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
    }

    #[test]
    fn without_a_runtime_a_caller_that_joins_a_run_without_a_driver_drives_at_once() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        drop(first);
        assert!(second.is_woken(), "the second caller may drive now");
        // The second caller is not polled again, but a third one joins.
        let polls = signal.polls.load(Ordering::SeqCst);
        let mut third = joined(flight, 0);
        assert_eq!(signal.polls.load(Ordering::SeqCst), polls + 1, "no other caller would drive the run");
        signal.send();
        assert!(third.is_woken());
        assert_eq!(assert_ready_ok!(third.poll()), 7);
    }

    #[test]
    fn caller_with_a_runtime_spawns_a_driver_task_for_callers_without() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        let runtime = current_thread();
        let third = {
            let _entered = runtime.enter();
            joined(flight, 0)
        };
        signal.send();
        assert_eq!(runtime.block_on(third).unwrap(), 7);
        assert!(first.is_woken() && second.is_woken());
        assert_eq!(assert_ready_ok!(first.poll()), 7);
        assert_eq!(assert_ready_ok!(second.poll()), 7);
    }

    #[test]
    fn work_that_completes_at_once_needs_no_runtime() {
        assert_eq!(block_on(flight().run(0, || ready(Ok(7)))).unwrap(), 7);
    }

    #[test]
    fn latest_waker_is_the_one_that_is_woken() {
        struct Flag(AtomicUsize);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut second = Box::pin(flight.run(0, pending));
        let flags = [0, 1, 2].map(|_| Arc::new(Flag(AtomicUsize::new(0))));
        for flag in &flags {
            let waker = Waker::from(Arc::clone(flag));
            assert_pending!(second.as_mut().poll(&mut Context::from_waker(&waker)));
            assert_pending!(second.as_mut().poll(&mut Context::from_waker(&waker)));
        }
        assert_eq!(flags.each_ref().map(Arc::strong_count), [1, 1, 2], "the caller keeps only its latest waker");
        signal.send();
        assert_eq!(assert_ready_ok!(first.poll()), 7);
        assert_eq!(flags.each_ref().map(|flag| flag.0.load(Ordering::SeqCst)), [0, 0, 1]);
    }

    #[test]
    fn panicking_waker_keeps_the_outcome_from_no_other_caller() {
        struct PanicsWhenWoken;
        impl Wake for PanicsWhenWoken {
            fn wake(self: Arc<Self>) {
                quiet_panic("woken");
            }
        }
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut panics = Box::pin(flight.run(0, pending));
        let waker = Waker::from(Arc::new(PanicsWhenWoken));
        assert_pending!(panics.as_mut().poll(&mut Context::from_waker(&waker)));
        let mut third = joined(flight, 0);
        signal.send();
        // The first caller polls the work and wakes the others, and the panic of the waker passes through it.
        assert!(catch_unwind(AssertUnwindSafe(|| first.poll())).is_err());
        drop(first);
        assert!(third.is_woken());
        assert_eq!(assert_ready_ok!(third.poll()), 7);
        drop(panics);
        assert_idle(flight);
    }
}

mod values {
    use super::*;

    /// A value that counts its clones. The clone with the number `panics_at` panics.
    #[derive(Debug)]
    struct Costly {
        clones: Arc<AtomicUsize>,
        panics_at: usize,
    }

    impl Clone for Costly {
        fn clone(&self) -> Self {
            if self.clones.fetch_add(1, Ordering::SeqCst) + 1 == self.panics_at {
                quiet_panic("in clone");
            }
            Self { clones: Arc::clone(&self.clones), panics_at: self.panics_at }
        }
    }

    fn costly(callers: usize, panics_at: usize) -> (Arc<AtomicUsize>, Vec<bool>) {
        let flight = leaked(SingleFlight::<u32, Costly>::new("costly"));
        let clones = Arc::new(AtomicUsize::new(0));
        let (finish, receiver) = oneshot::channel::<()>();
        let made = Arc::clone(&clones);
        let mut first = task::spawn(flight.run(0, move || async move {
            receiver.await.unwrap();
            Ok(Costly { clones: made, panics_at })
        }));
        assert_pending!(first.poll());
        let mut others: Vec<_> = (1..callers)
            .map(|_| {
                let mut other = task::spawn(flight.run(0, pending::<Result<Costly, Infallible>>));
                assert_pending!(other.poll());
                other
            })
            .collect();
        finish.send(()).unwrap();
        let mut has_value =
            vec![catch_unwind(AssertUnwindSafe(|| assert_ready!(first.poll()).is_ok())).unwrap_or(false)];
        for other in &mut others {
            assert!(other.is_woken());
            let polled = catch_unwind(AssertUnwindSafe(|| assert_ready!(other.poll()).is_ok()));
            has_value.push(polled.unwrap_or(false));
        }
        drop((first, others));
        assert_idle(flight);
        assert_eq!((flight.stats().panicked, flight.stats().cancelled), (0, 0));
        (clones, has_value)
    }

    #[test]
    fn value_is_cloned_for_every_caller_but_the_last() {
        for callers in [1, 2, 10] {
            let (clones, has_value) = costly(callers, usize::MAX);
            assert_eq!(clones.load(Ordering::SeqCst), callers - 1);
            assert_eq!(has_value, vec![true; callers]);
        }
    }

    #[test]
    fn panicking_clone_affects_only_its_own_caller() {
        for panics_at in 1..=3 {
            let (_, mut has_value) = costly(5, panics_at);
            assert!(!has_value.remove(panics_at - 1));
            assert_eq!(has_value, [true; 4]);
        }
    }
}

mod keys {
    use super::*;

    thread_local! {
        static HASH_PANICS: Cell<bool> = const { Cell::new(false) };
        static EQ_PANICS: Cell<bool> = const { Cell::new(false) };
    }

    #[derive(Debug)]
    struct Fragile(u32);

    impl Hash for Fragile {
        fn hash<H: Hasher>(&self, state: &mut H) {
            if HASH_PANICS.get() {
                quiet_panic("in hash");
            }
            // All hashes are equal, so that all keys share one table.
            0.hash(state);
        }
    }

    impl PartialEq for Fragile {
        fn eq(&self, other: &Self) -> bool {
            if EQ_PANICS.get() {
                quiet_panic("in eq");
            }
            self.0 == other.0
        }
    }

    impl Eq for Fragile {}

    #[test]
    fn key_that_panics_in_hash_or_eq_affects_only_its_own_caller() {
        let flight = leaked(Flight::<Fragile>::new("fragile"));
        for panics in [&HASH_PANICS, &EQ_PANICS] {
            let (senders, works): (Vec<_>, Vec<_>) = (0..3).map(|_| on_demand()).unzip();
            let mut callers: Vec<_> = (0..3)
                .zip(works)
                .map(|(key, work)| {
                    let mut caller = task::spawn(flight.run(Fragile(key), || work));
                    assert_pending!(caller.poll());
                    caller
                })
                .collect();
            panics.set(true);
            let before = flight.stats();
            let mut hit = task::spawn(flight.run(Fragile(1), pending));
            assert!(catch_unwind(AssertUnwindSafe(|| hit.poll())).is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| flight.forget(&Fragile(1)))).is_err());
            assert_eq!(flight.stats(), before);
            // The other runs complete without hashing or comparing their keys.
            for (sender, caller) in senders.into_iter().zip(&mut callers) {
                sender.send(7).unwrap();
                assert_eq!(assert_ready_ok!(caller.poll()), 7);
            }
            panics.set(false);
            assert_idle(flight);
            // The affected caller can still be polled.
            assert_pending!(hit.poll());
            assert_eq!(flight.len(), 1);
            drop(hit);
            assert_idle(flight);
        }
    }

    type Chatty = SingleFlight<CallsBack, u64>;

    static CHATTY: OnceLock<&'static Chatty> = OnceLock::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    /// A key whose destructor calls the flight, which would deadlock under a lock of the flight.
    #[derive(PartialEq, Eq)]
    struct CallsBack {
        key: u32,
        calls: bool,
    }

    impl Hash for CallsBack {
        fn hash<H: Hasher>(&self, state: &mut H) {
            0.hash(state);
        }
    }

    impl Drop for CallsBack {
        fn drop(&mut self) {
            if self.calls {
                let flight = CHATTY.get().unwrap();
                flight.forget(&Self { key: u32::MAX, calls: false });
                let key = Self { key: self.key, calls: false };
                let mut call = task::spawn(flight.run(key, || ready(Ok(CALLS.fetch_add(1, Ordering::SeqCst) as u64))));
                // The key may belong to a run that is still in progress.
                let _may_wait = call.poll();
            }
        }
    }

    #[test]
    fn destructor_of_a_key_may_call_the_flight() {
        let flight = *CHATTY.get_or_init(|| leaked(Chatty::new("chatty")));
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            let key = |key| CallsBack { key, calls: true };
            let calls = CALLS.load(Ordering::SeqCst);
            // A run that completes at once, one that completes later and is shared, one that is cancelled, one never polled.
            assert_eq!(assert_ready!(task::spawn(flight.run(key(0), || ready(Ok(7)))).poll()).unwrap(), 7);
            assert_eq!(CALLS.load(Ordering::SeqCst), calls + 1);
            let (sender, receiver) = oneshot::channel::<()>();
            let mut first = task::spawn(flight.run(key(0), || async move {
                receiver.await.unwrap();
                Ok(7)
            }));
            assert_pending!(first.poll());
            let mut second = task::spawn(flight.run(key(0), pending::<Result<u64, Infallible>>));
            assert_pending!(second.poll());
            sender.send(()).unwrap();
            if has_runtime {
                runtime.block_on(settle());
            }
            assert_eq!(assert_ready!(first.poll()).unwrap(), 7);
            assert_eq!(assert_ready!(second.poll()).unwrap(), 7);
            drop((first, second));
            assert_eq!(CALLS.load(Ordering::SeqCst), calls + 3);
            let mut cancelled = task::spawn(flight.run(key(0), pending::<Result<u64, Infallible>>));
            assert_pending!(cancelled.poll());
            drop(cancelled);
            drop(flight.run(key(0), pending::<Result<u64, Infallible>>));
            assert_eq!(CALLS.load(Ordering::SeqCst), calls + 5);
            assert_idle(flight);
        }
    }

    #[test]
    fn keys_with_equal_hashes_are_distinguished() {
        let flight = leaked(Flight::<Fragile>::new("crowded"));
        let (senders, works): (Vec<_>, Vec<_>) = (0..100).map(|_| on_demand()).unzip();
        let mut callers = Vec::new();
        for (key, work) in (0..100).zip(works) {
            let mut caller = task::spawn(flight.run(Fragile(key), || work));
            assert_pending!(caller.poll());
            callers.push(caller);
        }
        assert_eq!(flight.len(), 100);
        for (key, sender) in senders.into_iter().enumerate() {
            sender.send(key as u64).unwrap();
        }
        for key in (0..100).map(|i| i * 37 % 100) {
            assert_eq!(assert_ready_ok!(callers[key].poll()), key as u64);
        }
        assert_idle(flight);
    }
}

mod reporting {
    use tracing::Instrument;

    use super::*;

    #[test]
    fn stats_are_exact_after_every_kind_of_outcome() {
        let runtime = paused();
        let _entered = runtime.enter();
        let flight = leaked(Flight::builder("mixed").max_waiters(2).wait_timeout(10 * SECOND).build());
        assert_eq!((flight.name(), flight.stats().name), ("mixed", "mixed"));
        for round in 1..=10_u64 {
            // One caller each, with a value, an error and a panic.
            let endings: [fn() -> WorkResult; 3] = [|| Ok(1), || Err("failed"), || quiet_panic("panicked")];
            for end in endings {
                assert!(caller(flight, 0, async move { end() }).poll().is_ready());
            }
            // Three callers share a run, and a fourth is refused.
            let (finish, work) = on_demand();
            let mut first = caller(flight, 1, work);
            assert_pending!(first.poll());
            let others = [0, 1].map(|_| joined(flight, 1));
            assert!(joiner(flight, 1).poll().is_ready());
            let mut alone = caller(flight, 2, pending());
            assert_pending!(alone.poll());
            assert_eq!((flight.stats().running, flight.stats().waiting), (2, 4));
            finish.send(1).unwrap();
            runtime.block_on(settle());
            assert_eq!((flight.stats().running, flight.stats().waiting), (1, 4));
            // The leader takes the value. Its followers are dropped without taking theirs.
            assert_eq!(assert_ready_ok!(first.poll()), 1);
            drop(others);
            // A caller times out.
            runtime.block_on(advance(10 * SECOND));
            assert!(alone.poll().is_ready());
            // A caller is cancelled.
            let mut cancelled = caller(flight, 3, pending());
            assert_pending!(cancelled.poll());
            drop(cancelled);
            // A run calls its own key.
            assert!(
                caller(flight, 4, async { flight.run(4, || ready(Ok(1))).await.map_err(|_| "refused") }).poll().is_ready()
            );
            // A caller is never polled.
            drop(joiner(flight, 5));
            // A run is forgotten, then cancelled.
            let mut forgotten = caller(flight, 6, pending());
            assert_pending!(forgotten.poll());
            assert!(flight.forget(&6));
            assert_eq!((flight.stats().running, flight.stats().waiting), (0, 1));
            drop(forgotten);

            let stats = flight.stats();
            assert_eq!((stats.running, stats.waiting), (0, 0));
            assert_eq!((stats.runs, stats.shared), (8 * round, 2 * round));
            assert_eq!((stats.cancelled, stats.panicked), (3 * round, round));
            assert_eq!((stats.refused, stats.timed_out), (2 * round, round));
        }
    }

    #[test]
    fn debug_output_shows_name_and_settings() {
        let flight: &Flight = leaked(Flight::builder("pages").max_waiters(3).build());
        let shown = format!("{flight:?}");
        assert!(shown.contains("pages") && shown.contains("max_waiters: 3"), "{shown}");
        let shown = format!("{:?}", Flight::<u32, u64>::builder("pages").detached());
        assert!(shown.contains("pages") && shown.contains("detached: true"), "{shown}");
        let mut run = task::spawn(flight.run(0, pending));
        let shown = format!("{:?}", *run);
        assert!(shown.contains("pages") && shown.contains("waiting: false"), "{shown}");
        assert_pending!(run.poll());
        let shown = format!("{:?}", *run);
        assert!(shown.contains("waiting: true"), "{shown}");
        let shown = format!("{:?}", flight.stats());
        assert!(shown.contains("running: 1"), "{shown}");
    }

    #[test]
    fn errors_say_what_to_do_next_and_keep_their_source() {
        use std::error::Error;

        let failed = FlightError::Failed(Arc::new("no".parse::<u32>().unwrap_err()));
        assert!(failed.source().is_some() && failed.failure().is_some());
        assert!(FlightError::<Infallible>::WouldDeadlock.failure().is_none());
        assert!(FlightError::<Infallible>::TooManyWaiters.to_string().contains("max_waiters"));
        assert!(FlightError::<Infallible>::WouldDeadlock.to_string().contains("same key"));
    }

    #[tokio::test(start_paused = true)]
    async fn try_into_failure_returns_other_errors_unchanged() {
        let own = Arc::new("closed");
        let taken = FlightError::Failed(Arc::clone(&own)).try_into_failure();
        assert!(taken.is_ok_and(|taken| Arc::ptr_eq(&taken, &own)));

        let flight: Flight = SingleFlight::builder("others").wait_timeout(SECOND).build();
        let panicked = flight.run(0, || async { quiet_panic("on purpose") }).await.unwrap_err();
        let late = flight.run(0, pending).await.unwrap_err();
        for error in [panicked, late, FlightError::TooManyWaiters, FlightError::WouldDeadlock] {
            let shown = format!("{error:?}");
            assert_eq!(format!("{:?}", error.try_into_failure().unwrap_err()), shown);
        }
    }

    #[test]
    #[should_panic(expected = "not polled after it completed")]
    fn polling_a_completed_run_panics() {
        let mut only = caller(flight(), 0, ready(Ok(7)));
        assert_eq!(assert_ready_ok!(only.poll()), 7);
        let _panics = only.poll();
    }

    #[tokio::test]
    async fn calls_that_complete_at_once_yield_to_other_tasks() {
        let flight = flight();
        let other = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&other);
        tokio::spawn(async move { note.store(true, Ordering::SeqCst) });
        for _ in 0..10_000 {
            flight.run(0, || ready(Ok(7))).await.unwrap();
        }
        assert!(other.load(Ordering::SeqCst));
    }

    fn span_name() -> Option<&'static str> {
        tracing::Span::current().metadata().map(tracing::Metadata::name)
    }

    /// Work that records the span of each of its polls.
    async fn record_spans(spans: Arc<Mutex<Vec<Option<&'static str>>>>) -> WorkResult {
        for _ in 0..3 {
            spans.lock().unwrap().push(span_name());
            yield_once().await;
        }
        Ok(7)
    }

    #[test]
    fn work_runs_in_the_span_of_its_leader_when_the_driver_task_polls_it() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let runtime = current_thread();
            let flight = flight();
            let spans = Arc::<Mutex<Vec<_>>>::default();
            let leader = flight.run(0, || record_spans(Arc::clone(&spans))).instrument(tracing::info_span!("leader"));
            let others = async { join_all((0..3).map(|_| flight.run(0, pending))).await };
            let others = others.instrument(tracing::info_span!("others"));
            let (first, others) = runtime.block_on(join(leader, others));
            assert_eq!(first.unwrap(), 7);
            assert!(others.into_iter().all(|other| other.unwrap() == 7));
            assert_eq!(*spans.lock().unwrap(), [Some("leader"); 3]);
            assert_eq!(span_name(), None);
        });
    }

    #[test]
    fn work_runs_in_the_span_of_its_leader_when_a_follower_polls_it() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let flight = flight();
            let spans = Arc::<Mutex<Vec<_>>>::default();
            let work = record_spans(Arc::clone(&spans));
            let mut leader = task::spawn(flight.run(0, || work).instrument(tracing::info_span!("leader")));
            assert_pending!(leader.poll());
            let mut other = task::spawn(flight.run(0, pending).instrument(tracing::info_span!("other")));
            assert_pending!(other.poll());
            drop(leader);
            assert_eq!(block_on(other).unwrap(), 7);
            assert_eq!(*spans.lock().unwrap(), [Some("leader"); 3]);
        });
    }

    #[test]
    fn work_started_outside_a_span_runs_outside_of_spans() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let runtime = current_thread();
            let flight = flight();
            let spans = Arc::<Mutex<Vec<_>>>::default();
            runtime.block_on(async {
                let first = flight.run(0, || record_spans(Arc::clone(&spans)));
                let other = flight.run(0, pending).instrument(tracing::info_span!("other"));
                let (first, other) = join(first, other).await;
                assert_eq!((first.unwrap(), other.unwrap()), (7, 7));
            });
            assert_eq!(*spans.lock().unwrap(), [None; 3]);
        });
    }
}
