//! The rules of [`SingleFlight`], one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

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
type Answer = Result<u64, &'static str>;
type Shared = Result<u64, FlightError<&'static str>>;
type Call = Pin<Box<dyn Future<Output = Shared> + Send>>;
type Caller = task::Spawn<Call>;

/// A flight for the length of the test run, as in a `static`.
fn leaked<K, T, E>(flight: SingleFlight<K, T, E>) -> &'static SingleFlight<K, T, E> {
    Box::leak(Box::new(flight))
}

fn flight() -> &'static Flight {
    leaked(Flight::new("flight"))
}

fn call(flight: &'static Flight, key: u32, work: impl Future<Output = Answer> + Send + 'static) -> Call {
    Box::pin(flight.run(key, move || work))
}

/// A caller that is polled by hand.
fn caller(flight: &'static Flight, key: u32, work: impl Future<Output = Answer> + Send + 'static) -> Caller {
    task::spawn(call(flight, key, work))
}

/// A caller that comes while another one's run goes on.
fn joiner(flight: &'static Flight, key: u32) -> Caller {
    caller(flight, key, async { panic!("a joiner's work is not run") })
}

fn joined(flight: &'static Flight, key: u32) -> Caller {
    let mut caller = joiner(flight, key);
    assert_pending!(caller.poll());
    caller
}

/// Work that ends when it is told to.
fn on_demand() -> (oneshot::Sender<u64>, impl Future<Output = Answer> + Send + 'static) {
    let (sender, receiver) = oneshot::channel();
    (sender, async move { receiver.await.map_err(|_| "nobody tells it to end") })
}

/// Does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A panic, without its message on the screen.
fn quiet_panic(payload: impl Any + Send) -> ! {
    resume_unwind(Box::new(payload))
}

fn message(shared: Shared) -> String {
    match shared {
        Err(FlightError::Panicked { message, .. }) => message.to_string(),
        other => panic!("the work panicked: {other:?}"),
    }
}

/// Once not ready. Unlike tokio's, it is woken before it returns.
async fn nap() {
    let mut is_rested = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_rested, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets other tasks run until they have done what is waited for. Paused time stands still meanwhile.
async fn eventually(mut is_true: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_true() {
            return;
        }
        yield_now().await;
    }
    panic!("the other tasks did not get there");
}

/// Lets the tasks of a paused runtime do what they can do without time.
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

/// The key works as if nothing had been before.
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

    /// What is known of the runs of one key.
    #[derive(Default)]
    struct Record {
        begun: AtomicU64,
        inside: AtomicUsize,
        overlaps: AtomicUsize,
        /// The latest run whose value somebody has: a later call gets a later one's.
        latest: AtomicU64,
    }

    /// Inside a run: from before its work was made until after all of it was dropped.
    struct Inside(Arc<Record>);

    impl Inside {
        fn enter(record: &Arc<Record>) -> (Self, u64) {
            if record.inside.fetch_add(1, Ordering::SeqCst) > 0 {
                record.overlaps.fetch_add(1, Ordering::SeqCst);
            }
            (Self(Arc::clone(record)), record.begun.fetch_add(1, Ordering::SeqCst) + 1)
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            // Others get a chance to come in too early.
            thread::yield_now();
            self.0.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The value is the key and the number of the run.
    fn work(record: &Arc<Record>, key: u32, naps: u64) -> impl Future<Output = Answer> + Send + 'static {
        let (inside, number) = Inside::enter(record);
        let mut left = naps;
        // Unlike an async block's, what it holds is dropped with it and not as it returns.
        poll_fn(move |cx| {
            let _inside = &inside;
            let Some(less) = left.checked_sub(1) else { return Poll::Ready(Ok(u64::from(key) << 32 | number)) };
            left = less;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// What the callers did.
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
            let naps = random.below(4);
            let mut run = Box::pin(flight.run(key, || work(record, key, naps)));
            // How often it is not ready until it is dropped, if it is.
            let mut patience = if cancels && random.below(3) > 0 { Some(random.below(4)) } else { None };
            let answer = poll_fn(|cx| match (run.as_mut().poll(cx), &mut patience) {
                (Poll::Ready(answer), _) => Poll::Ready(Some(answer)),
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
            let Some(answer) = answer else {
                done.cancelled.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let value = answer.unwrap();
            let (its_key, number) = ((value >> 32) as u32, value & u64::from(u32::MAX));
            assert_eq!(its_key, key);
            assert!(number > floor, "run {number} had ended before this call, as had {floor}");
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
        let begun: u64 = records.iter().map(|record| record.begun.load(Ordering::SeqCst)).sum();
        let stats = flight.stats();
        assert_eq!(stats.runs, begun);
        assert!(stats.shared > 0, "nobody shared a run: the test shows nothing");
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
            // Real time: it only ends what hangs.
            let ended = timeout(300 * SECOND, join_all(callers)).await.expect("a wake-up was lost");
            ended.into_iter().for_each(Result::unwrap);
        });
        // Tasks of runs that have ended end on their own.
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
    fn runs_of_one_key_never_overlap_on_a_runtime_where_callers_leave_at_random() {
        on_a_runtime(true);
    }

    #[test]
    fn runs_of_one_key_never_overlap_without_a_runtime() {
        without_a_runtime(false);
    }

    #[test]
    fn runs_of_one_key_never_overlap_without_a_runtime_where_callers_leave_at_random() {
        without_a_runtime(true);
    }
}

mod leaving {
    use super::*;

    /// Await points of the work. Every second one takes time.
    const POINTS: usize = 6;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Fate {
        Dropped,
        /// Still there, but not polled again.
        Kept,
    }

    /// Work that tells which of its await points it has reached.
    async fn work(reached: watch::Sender<usize>, begun: Arc<AtomicUsize>) -> Answer {
        begun.fetch_add(1, Ordering::Relaxed);
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

    /// Of `others + 1` callers, one leaves as the work is at an await point. Returns when each of the others had its
    /// answer. `victim` 0 is the caller that began the run.
    async fn answers_of_the_others(
        others: usize,
        victim: usize,
        point: usize,
        fate: Fate,
        exact: bool,
    ) -> Vec<Duration> {
        let flight = flight();
        let start = Instant::now();
        let (reached, mut at) = watch::channel(0);
        let begun = Arc::new(AtomicUsize::new(0));
        let mut callers = Vec::new();
        for _ in 0..=others {
            let work = work(reached.clone(), Arc::clone(&begun));
            callers.push(Some(Box::pin(flight.run(0, || work))));
        }
        drop(reached);
        // All in one poll: nothing else happens on this thread meanwhile.
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
        let answers = join_all(others).await;
        assert_eq!(begun.load(Ordering::Relaxed), 1, "the work was run again");
        assert_eq!(flight.len(), 0);
        assert_eq!(flight.stats().waiting, usize::from(gone.is_some()));
        drop(gone);
        eventually(|| flight.stats().waiting == 0).await;
        let stats = flight.stats();
        assert_eq!((stats.runs, stats.shared, stats.cancelled), (1, answers.len() as u64, 0));
        answers
    }

    fn every_case(others: usize) -> impl Iterator<Item = (usize, usize, Fate)> {
        let mut victims = vec![0, others.div_ceil(2), others];
        victims.dedup();
        victims.into_iter().flat_map(|victim| {
            (0..POINTS).flat_map(move |point| [Fate::Dropped, Fate::Kept].map(|fate| (victim, point, fate)))
        })
    }

    fn play_paused(others: usize) {
        // When it would have come anyway.
        let undisturbed = paused().block_on(async {
            let start = Instant::now();
            let (reached, _at) = watch::channel(0);
            work(reached, Arc::default()).await.unwrap();
            start.elapsed()
        });
        assert!(undisturbed >= 30 * MS);
        for (victim, point, fate) in every_case(others) {
            let answers = answers_of_the_others(others, victim, point, fate, true);
            // Fails at once instead of hanging: the time is paused.
            let answers = paused().block_on(async { timeout(1_000 * SECOND, answers).await.expect("a caller hangs") });
            assert_eq!(answers, vec![undisturbed; others], "{victim} {fate:?} at {point}");
        }
    }

    #[test]
    fn any_of_two_callers_leaves_at_any_point_and_the_other_has_the_answer_in_time() {
        play_paused(1);
    }

    #[test]
    fn any_of_ten_callers_leaves_at_any_point_and_the_others_have_the_answer_in_time() {
        play_paused(9);
    }

    #[test]
    fn any_of_a_thousand_callers_leaves_at_any_point_and_the_others_have_the_answer_in_time() {
        play_paused(1_000);
    }

    #[test]
    fn any_caller_leaves_at_any_point_on_many_threads_and_the_others_have_the_answer() {
        let runtime = workers(4);
        for others in [1, 9, 1_000] {
            for (victim, point, fate) in every_case(others) {
                // Real time, for what runs on several threads has no other. It is not looked at.
                let answers = runtime.block_on(async {
                    let answers = tokio::spawn(answers_of_the_others(others, victim, point, fate, false));
                    timeout(60 * SECOND, answers).await.expect("a caller hangs").unwrap()
                });
                assert_eq!(answers.len(), others);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_the_work_itself_drops_leaves_like_any_other() {
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
    async fn ten_thousand_callers_that_leave_in_a_row_leave_the_run_to_the_survivor() {
        ten_thousand_leave(true).await;
    }

    #[test]
    fn ten_thousand_callers_that_leave_in_a_row_hand_on_the_work_without_a_runtime() {
        block_on(ten_thousand_leave(false));
    }

    async fn ten_thousand_leave(has_runtime: bool) {
        const LEAVERS: usize = 10_000;
        let flight = flight();
        let (tell, work) = on_demand();
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
        for _ in 0..LEAVERS {
            let next = joined(flight, 0);
            drop(std::mem::replace(&mut leader, next));
            if has_runtime {
                yield_now().await;
            } else {
                // Takes the work over, or finds that the survivor has it.
                assert_pending!(leader.poll());
            }
        }
        drop(leader);
        if !has_runtime {
            assert!(survivor.is_woken());
            assert_pending!(survivor.poll());
            assert!(polls.load(Ordering::Relaxed) > LEAVERS, "each of them had the work for a while");
        }
        tell.send(7).unwrap();
        assert_eq!(survivor.await.unwrap(), 7);
        let stats = flight.stats();
        assert_eq!((stats.runs, stats.shared, stats.cancelled), (1, LEAVERS as u64 + 1, 0));
        assert_idle(flight);
    }
}

mod the_last_leaves {
    use super::*;

    /// What the destructor of the work saw.
    #[derive(Default)]
    struct Dropped {
        times: AtomicUsize,
        keys: AtomicUsize,
    }

    /// Work that never ends, and looks at the flight as it is dropped.
    fn endless(flight: &'static Flight, dropped: &Arc<Dropped>) -> impl Future<Output = Answer> + Send + 'static {
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

    fn everyone_leaves(callers: usize, may_task_run: impl Fn()) {
        let flight = flight();
        let dropped = Arc::new(Dropped::default());
        dropped.keys.store(usize::MAX, Ordering::SeqCst);
        let mut first = caller(flight, 0, endless(flight, &dropped));
        assert_pending!(first.poll());
        let mut all = vec![first];
        all.extend((1..callers).map(|_| joined(flight, 0)));
        may_task_run();
        for left in (0..callers).rev() {
            assert_eq!((flight.len(), flight.stats().waiting), (1, left + 1));
            assert_eq!(dropped.times.load(Ordering::SeqCst), 0);
            drop(all.remove(left / 2));
        }
        assert_eq!(dropped.times.load(Ordering::SeqCst), 1, "the work is dropped within the drop of the last caller");
        assert_eq!(dropped.keys.load(Ordering::SeqCst), 0, "the key was still there when the work was dropped");
        assert_idle(flight);
        assert_eq!(flight.stats().cancelled, 1);
        assert_starts_fresh(flight, 0);
        may_task_run();
        assert_eq!(flight.stats().runs, 2);
    }

    #[test]
    fn the_work_is_dropped_with_the_last_caller_without_a_runtime() {
        (1..=4).for_each(|callers| everyone_leaves(callers, || ()));
    }

    #[test]
    fn the_work_is_dropped_with_the_last_caller_before_the_task_has_run() {
        let runtime = current_thread();
        let _entered = runtime.enter();
        (1..=4).for_each(|callers| everyone_leaves(callers, || ()));
    }

    #[test]
    fn the_work_is_dropped_with_the_last_caller_after_the_task_has_polled_it() {
        let runtime = current_thread();
        let _entered = runtime.enter();
        (1..=4).for_each(|callers| everyone_leaves(callers, || runtime.block_on(settle())));
    }

    /// The last caller leaves, on another thread. The work's destructor waits there until the test is done.
    fn while_the_destructor_runs(flight: &'static Flight, test: impl FnOnce()) {
        let (begins, has_begun) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let on_drop = OnDrop(move || {
            begins.send(()).unwrap();
            ends.recv().unwrap();
        });
        let mut first = caller(flight, 0, async move {
            let _on_drop = on_drop;
            pending().await
        });
        assert_pending!(first.poll());
        let leaver = thread::spawn(move || drop(first));
        has_begun.recv().unwrap();
        test();
        end.send(()).unwrap();
        leaver.join().unwrap();
    }

    /// Work that must not begin before it may.
    fn later(may_begin: &Arc<AtomicBool>) -> impl Future<Output = Answer> + Send + 'static {
        let may_begin = Arc::clone(may_begin);
        async move {
            assert!(may_begin.load(Ordering::SeqCst), "it begins while the run before it is still there");
            Ok(8)
        }
    }

    #[test]
    fn who_comes_while_the_work_is_dropped_waits_and_begins_anew() {
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
                    "there is no run to forget, and forgetting it must not let a second one in"
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
    fn who_comes_while_the_work_is_dropped_can_leave_again() {
        let flight = flight();
        let mut stays = caller(flight, 0, ready(Ok(8)));
        while_the_destructor_runs(flight, || {
            let leaves = [0, 1].map(|_| joined(flight, 0));
            assert_pending!(stays.poll());
            drop(leaves);
            assert_eq!(flight.stats().waiting, 1);
        });
        assert!(stays.is_woken());
        assert_eq!(assert_ready_ok!(stays.poll()), 8);
        while_the_destructor_runs(flight, || drop(joined(flight, 0)));
        assert_idle(flight);
        assert_starts_fresh(flight, 0);
        assert_eq!(flight.stats().cancelled, 2);
    }

    #[test]
    fn limits_count_while_the_work_is_dropped_too() {
        let runtime = paused();
        let _entered = runtime.enter();
        let flight = leaked(Flight::builder("limits").max_waiters(0).wait_timeout(SECOND).build());
        while_the_destructor_runs(flight, || {
            let mut waits = joined(flight, 0);
            let refused = assert_ready!(joiner(flight, 0).poll());
            assert!(matches!(refused, Err(FlightError::TooManyWaiters)));
            runtime.block_on(advance(SECOND));
            assert!(waits.is_woken());
            assert!(matches!(assert_ready!(waits.poll()), Err(FlightError::Timeout { .. })));
            assert_eq!(flight.stats().waiting, 0);
        });
        assert_idle(flight);
        assert_starts_fresh(flight, 0);
        assert_eq!((flight.stats().refused, flight.stats().timed_out, flight.stats().cancelled), (1, 1, 1));
    }

    /// How the poll ends during which the last caller leaves.
    #[derive(Clone, Copy, Debug)]
    enum Ends {
        NotReady,
        WithValue,
        WithError,
        WithPanic,
    }

    #[test]
    fn who_comes_while_cancelled_work_is_polled_waits_and_begins_anew() {
        let runtime = workers(1);
        let _entered = runtime.enter();
        for ends in [Ends::NotReady, Ends::WithValue, Ends::WithError, Ends::WithPanic] {
            let flight = flight();
            let dropped = Arc::new(Dropped::default());
            let (begins, has_begun) = mpsc::channel();
            let (end, may_end) = mpsc::channel();
            let (polled_twice, second_poll) = oneshot::channel();
            let mut on_drop = Some(endless(flight, &dropped));
            let work = async move {
                second_poll.await.unwrap();
                begins.send(()).unwrap();
                may_end.recv().unwrap();
                match ends {
                    Ends::NotReady => on_drop.take().unwrap().await,
                    Ends::WithValue => Ok(7),
                    Ends::WithError => Err("of the cancelled run"),
                    Ends::WithPanic => quiet_panic("of the cancelled run"),
                }
            };
            let mut first = caller(flight, 0, work);
            assert_pending!(first.poll());
            let second = joined(flight, 0);
            // The task's worker is inside the work.
            polled_twice.send(()).unwrap();
            has_begun.recv().unwrap();
            drop(first);
            assert_eq!(flight.len(), 1);
            drop(second);
            assert_idle(flight);
            assert_eq!(dropped.times.load(Ordering::SeqCst), 0, "it is being polled");
            let may_begin = Arc::new(AtomicBool::new(false));
            let mut late = caller(flight, 0, later(&may_begin));
            assert_pending!(late.poll());
            assert_pending!(late.poll());
            assert!(!late.is_woken());
            may_begin.store(true, Ordering::SeqCst);
            end.send(()).unwrap();
            spin_until(|| late.is_woken());
            assert_eq!(dropped.times.load(Ordering::SeqCst), 1, "{ends:?}");
            assert_eq!(assert_ready_ok!(late.poll()), 8, "{ends:?}");
            let stats = flight.stats();
            assert_eq!((stats.runs, stats.shared, stats.cancelled), (2, 1, 1), "{ends:?}");
            assert_idle(flight);
        }
    }

    #[test]
    fn the_work_is_dropped_when_the_task_that_polls_it_returns() {
        let runtime = workers(1);
        let _entered = runtime.enter();
        let flight = flight();
        let dropped = Arc::new(Dropped::default());
        let (begins, has_begun) = mpsc::channel();
        let (end, may_end) = mpsc::channel();
        let (wake, woken) = oneshot::channel();
        let rest = endless(flight, &dropped);
        let mut first = caller(flight, 0, async move {
            woken.await.unwrap();
            begins.send(()).unwrap();
            may_end.recv().unwrap();
            rest.await
        });
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        wake.send(()).unwrap();
        has_begun.recv().unwrap();
        drop((first, second));
        assert_eq!(dropped.times.load(Ordering::SeqCst), 0);
        end.send(()).unwrap();
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
        work: impl Future<Output = Answer> + Send + 'static,
    ) -> (Arc<AtomicUsize>, impl Future<Output = Answer> + Send) {
        let ended = Arc::new(AtomicUsize::new(0));
        let note = Arc::clone(&ended);
        let work = async move {
            let answer = work.await;
            note.fetch_add(1, Ordering::SeqCst);
            answer
        };
        (ended, work)
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_finishes_without_callers() {
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
    async fn who_comes_meanwhile_shares_the_run() {
        let flight = detached();
        let (tell, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        drop(first);
        settle().await;
        let late = [0, 1].map(|_| joined(flight, 0));
        let [one, other] = late;
        drop(one);
        tell.send(7).unwrap();
        assert_eq!(other.await.unwrap(), 7);
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (1, 2, 0));
        assert_idle(flight);
    }

    #[test]
    fn a_run_is_dropped_where_there_is_no_runtime() {
        let flight = detached();
        let (ended, work) = noted(async {
            nap().await;
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
    fn a_run_whose_runtime_is_shut_down_is_cancelled() {
        // Whether the task has been polled makes no difference.
        for is_polled in [false, true] {
            let runtime = current_thread();
            let flight = detached();
            let (ended, work) = noted(async {
                nap().await;
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
    async fn a_run_of_which_nobody_knows_any_more_can_panic_or_fail() {
        for ends in [|| quiet_panic("unheard"), || Err("unheard")] as [fn() -> Answer; 2] {
            let flight = detached();
            let mut first = caller(flight, 0, async move {
                sleep(SECOND).await;
                ends()
            });
            assert_pending!(first.poll());
            drop(first);
            sleep(2 * SECOND).await;
            assert_idle(flight);
            assert_starts_fresh(flight, 0);
        }
    }
}

mod failing {
    use super::*;

    const WAITERS: usize = 1_000;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Place {
        /// In the closure that makes the future.
        Making,
        FirstPoll,
        LaterPoll,
    }

    /// A payload that panics once more.
    struct PanicsAsItIsDropped;

    impl Drop for PanicsAsItIsDropped {
        fn drop(&mut self) {
            quiet_panic("in the destructor of the panic's payload");
        }
    }

    const PANICS: [(fn(), &str); 4] = [
        (|| quiet_panic("a str"), "a str"),
        (|| quiet_panic(String::from("a String")), "a String"),
        (|| quiet_panic(7_u8), "(no message)"),
        (|| quiet_panic(PanicsAsItIsDropped), "(no message)"),
    ];

    /// One run that ends at `place` with `end`, for a caller that begins it and a thousand more who come before the end.
    fn share_an_end(place: Place, flight: &'static Flight, end: fn() -> Answer) -> Vec<Shared> {
        let begun = Arc::new(AtomicUsize::new(0));
        let waiters = Arc::new(Mutex::new(Vec::new()));
        let come = {
            let waiters = Arc::clone(&waiters);
            move || {
                // On another thread: on this one they would be inside the run.
                let come = || waiters.lock().unwrap().extend((0..WAITERS).map(|_| joined(flight, 0)));
                thread::scope(|scope| scope.spawn(come).join().unwrap());
            }
        };
        let work = {
            let begun = Arc::clone(&begun);
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                if place == Place::Making {
                    come();
                    let _never = end();
                }
                async move {
                    if place == Place::LaterPoll {
                        nap().await;
                    }
                    come();
                    end()
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
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_idle(flight);
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (1, WAITERS as u64, 0));
        assert_starts_fresh(flight, 0);
        shared
    }

    fn assert_idle_but_for(flight: &Flight, waiting: usize) {
        assert_eq!((flight.len(), flight.stats().waiting), (0, waiting));
    }

    #[test]
    fn a_panic_reaches_everyone_and_the_work_is_not_run_again() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            for place in [Place::Making, Place::FirstPoll, Place::LaterPoll] {
                for end in [0, 1, 2, 3] {
                    let panics: fn() -> Answer = match end {
                        0 => || quiet_panic("a str"),
                        1 => || quiet_panic(String::from("a String")),
                        2 => || quiet_panic(7_u8),
                        _ => || quiet_panic(PanicsAsItIsDropped),
                    };
                    let flight = flight();
                    let shared = share_an_end(place, flight, panics);
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
    async fn a_panic_in_the_task_reaches_everyone() {
        for (panic, expected) in PANICS {
            let flight = flight();
            let (tell, told) = oneshot::channel::<()>();
            let mut first = caller(flight, 0, async move {
                told.await.unwrap();
                panic();
                Ok(7)
            });
            assert_pending!(first.poll());
            let mut all: Vec<_> = unconstrained(async { (0..WAITERS).map(|_| joined(flight, 0)).collect() }).await;
            all.push(first);
            settle().await;
            tell.send(()).unwrap();
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
    fn an_error_is_the_same_one_for_all() {
        for place in [Place::FirstPoll, Place::LaterPoll] {
            let flight = flight();
            let shared = share_an_end(place, flight, || Err("it is closed"));
            let errors = shared.into_iter().map(|one| match one {
                Err(FlightError::Failed(error)) => error,
                other => panic!("the work failed: {other:?}"),
            });
            let errors: Vec<_> = errors.collect();
            assert_eq!((errors.len(), *errors[0]), (1 + WAITERS, "it is closed"));
            assert!(errors.iter().all(|error| Arc::ptr_eq(error, &errors[0])));
            assert_eq!(Arc::strong_count(&errors[0]), errors.len(), "someone else still has it");
            assert_eq!(flight.stats().panicked, 0);
        }
    }

    #[test]
    fn an_error_that_nobody_shares_comes_at_once() {
        let mut only = caller(flight(), 0, ready(Err("it is closed")));
        let Err(error) = assert_ready!(only.poll()) else { panic!("the work failed") };
        assert_eq!(error.failure(), Some(&"it is closed"));
    }

    /// Work whose destructor panics, at its end or when it is cancelled.
    fn brittle(ends: bool) -> impl Future<Output = Answer> + Send + 'static {
        let on_drop = OnDrop(|| quiet_panic("in the destructor of the work"));
        poll_fn(move |cx| {
            let _in_it = &on_drop;
            cx.waker().wake_by_ref();
            if ends { Poll::Ready(Ok(7)) } else { Poll::Pending }
        })
    }

    #[test]
    fn a_panic_in_the_destructor_after_the_end_changes_nothing_for_the_callers() {
        let flight = flight();
        let (tell, told) = oneshot::channel::<()>();
        let mut first = caller(flight, 0, async move {
            let brittle = brittle(true);
            told.await.unwrap();
            brittle.await
        });
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        tell.send(()).unwrap();
        // The future in the async block is dropped as the block's poll ends: that one is a panic of the work.
        assert_eq!(message(assert_ready!(first.poll())), "in the destructor of the work");
        assert_eq!(message(assert_ready!(second.poll())), "in the destructor of the work");

        let mut only = caller(flight, 0, brittle(true));
        assert_eq!(assert_ready_ok!(only.poll()), 7);
        assert_eq!(flight.stats().panicked, 1);
        assert_starts_fresh(flight, 0);
    }

    #[test]
    fn a_panic_in_the_destructor_of_cancelled_work_does_not_reach_who_leaves() {
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
    fn a_panic_reaches_who_came_before_the_task_was_polled() {
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
    fn as_many_wait_as_may_and_who_leaves_makes_room() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            for most in [0, 1, 2, 7] {
                let flight = leaked(Flight::builder("bounded").max_waiters(most).build());
                let (tell, work) = on_demand();
                let mut first = caller(flight, 0, work);
                assert_pending!(first.poll());
                let mut waiters: Vec<_> = (0..most).map(|_| joined(flight, 0)).collect();
                for _ in 0..3 {
                    assert!(is_refused(&joiner(flight, 0).poll()));
                }
                assert_pending!(caller(flight, 1, pending()).poll());
                if let Some(leaves) = waiters.pop() {
                    drop(leaves);
                    waiters.push(joined(flight, 0));
                    assert!(is_refused(&joiner(flight, 0).poll()));
                }
                assert_eq!(flight.stats().waiting, 1 + most);
                tell.send(7).unwrap();
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
    fn the_place_of_the_caller_that_began_the_run_can_be_taken_when_it_leaves() {
        let flight = leaked(Flight::builder("bounded").max_waiters(1).build());
        let mut first = caller(flight, 0, pending());
        assert_pending!(first.poll());
        let _second = joined(flight, 0);
        drop(first);
        let _third = joined(flight, 0);
        assert!(is_refused(&joiner(flight, 0).poll()));
    }

    #[test]
    fn as_many_wait_as_may_however_many_come_at_once() {
        const MOST: usize = 50;
        const THREADS: usize = 8;
        const CALLERS: usize = 100;
        let flight = leaked(Flight::builder("bounded").max_waiters(MOST).build());
        let mut first = caller(flight, 0, pending());
        assert_pending!(first.poll());
        for round in 1..=20 {
            let (start, all_came) = (Barrier::new(THREADS), Barrier::new(THREADS));
            let come = || {
                start.wait();
                let mut callers: Vec<_> = (0..CALLERS).map(|_| joiner(flight, 0)).collect();
                let refused = callers.iter_mut().map(|caller| caller.poll()).filter(is_refused).count();
                all_came.wait();
                CALLERS - refused
            };
            let admitted: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(come)).collect();
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
    async fn a_caller_waits_as_long_as_it_may_and_the_run_goes_on_for_the_others() {
        let flight = impatient();
        let (tell, work) = on_demand();
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
        tell.send(7).unwrap();
        settle().await;
        assert_eq!(assert_ready_ok!(second.poll()), 7);
        assert_eq!(late.await.unwrap(), 7);
        assert_eq!((flight.stats().runs, flight.stats().cancelled, flight.stats().timed_out), (1, 0, 1));
        assert_idle(flight);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_caller_that_waited_too_long_cancels_the_run() {
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
    async fn a_detached_run_goes_on_though_all_callers_waited_too_long() {
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
    async fn a_value_that_comes_as_the_time_is_over_wins() {
        // The caller polls the work itself, which is as slow as it may be.
        let flight = impatient();
        let slow = || async {
            sleep(SECOND).await;
            Ok(7)
        };
        assert_eq!(flight.run(0, slow).await.unwrap(), 7);
        // The task has it, and the callers are polled when the run has landed and their time is over.
        let (tell, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        settle().await;
        advance(SECOND).await;
        tell.send(8).unwrap();
        settle().await;
        assert_eq!(assert_ready_ok!(first.poll()), 8);
        assert_eq!(assert_ready_ok!(second.poll()), 8);
        assert_eq!(flight.stats().timed_out, 0);
    }

    #[test]
    fn outside_of_a_runtime_only_who_has_to_wait_needs_a_timer() {
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
    async fn a_limit_beyond_all_time_is_none() {
        let flight = leaked(Flight::builder("patient").wait_timeout(Duration::MAX).build());
        let slow = || async {
            sleep(1_000_000 * SECOND).await;
            Ok(7)
        };
        assert_eq!(flight.run(0, slow).await.unwrap(), 7);
    }

    #[test]
    fn a_builder_refuses_what_lets_nobody_wait() {
        let zero = catch_unwind(|| Flight::<u32, u64>::builder("hasty").wait_timeout(Duration::ZERO).build());
        assert!(zero.is_err());
        let all = catch_unwind(|| Flight::<u32, u64>::builder("bounded").max_waiters(usize::MAX).build());
        assert!(all.is_err());
    }
}

mod forgetting {
    use super::*;

    #[test]
    fn the_next_call_begins_another_run_and_each_run_has_its_own_callers() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            let flight = flight();
            assert!(!flight.forget(&0), "nothing was ever called");
            let (tell_old, old_work) = on_demand();
            let (tell_new, new_work) = on_demand();
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
            // The new one ends first: that takes nothing from the old one.
            tell_new.send(2).unwrap();
            if has_runtime {
                runtime.block_on(settle());
            }
            assert_eq!(assert_ready_ok!(new.poll()), 2);
            assert_eq!(assert_ready_ok!(shares_new.poll()), 2);
            assert_pending!(old.poll());
            assert_starts_fresh(flight, 0);
            tell_old.send(1).unwrap();
            if has_runtime {
                runtime.block_on(settle());
            }
            assert_eq!(assert_ready_ok!(old.poll()), 1);
            assert_eq!(assert_ready_ok!(shares_old.poll()), 1);
            assert_idle(flight);
        }
    }

    #[test]
    fn the_end_of_a_forgotten_run_leaves_the_new_one_where_it_is() {
        let flight = flight();
        let (tell_old, old_work) = on_demand();
        let (tell_new, new_work) = on_demand();
        let mut old = caller(flight, 0, old_work);
        assert_pending!(old.poll());
        flight.forget(&0);
        let mut new = caller(flight, 0, new_work);
        assert_pending!(new.poll());
        tell_old.send(1).unwrap();
        assert_eq!(assert_ready_ok!(old.poll()), 1);
        assert_eq!((flight.len(), flight.stats().waiting), (1, 1));
        let mut shares_new = joined(flight, 0);
        tell_new.send(2).unwrap();
        assert_eq!(assert_ready_ok!(new.poll()), 2);
        assert_eq!(assert_ready_ok!(shares_new.poll()), 2);
        assert_idle(flight);
    }

    #[test]
    fn a_forgotten_run_that_all_leave_is_cancelled() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            for callers in [1, 2, 3] {
                let flight = flight();
                let there = Arc::new(());
                let held = Arc::clone(&there);
                let mut first = caller(flight, 0, async move {
                    let _held = held;
                    pending().await
                });
                assert_pending!(first.poll());
                let mut all = vec![first];
                all.extend((1..callers).map(|_| joined(flight, 0)));
                assert!(flight.forget(&0));
                let mut new = caller(flight, 0, pending());
                assert_pending!(new.poll());
                drop(all);
                assert_eq!(Arc::strong_count(&there), 1);
                assert_eq!((flight.len(), flight.stats().waiting, flight.stats().cancelled), (1, 1, 1));
                let shares_new = joined(flight, 0);
                drop((new, shares_new));
                assert_eq!(flight.stats().cancelled, 2);
                assert_idle(flight);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_detached_run_finishes() {
        let flight = leaked(Flight::builder("detached").detached().build());
        let (tell, work) = on_demand();
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        flight.forget(&0);
        drop(first);
        assert_starts_fresh(flight, 0);
        assert!(!tell.is_closed());
        tell.send(7).unwrap();
        settle().await;
        assert_eq!((flight.len(), flight.stats().cancelled), (0, 0));
    }

    #[test]
    fn the_work_of_a_forgotten_run_may_ask_for_its_key() {
        let flight = flight();
        let mut only = caller(flight, 0, async {
            assert!(flight.forget(&0));
            flight.run(0, || async { Ok(8) }).await.map_err(|_| "it is another run now")
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

    async fn asks_for_its_own_key(flight: &'static Flight, delay: Duration) -> Answer {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        assert!(deadlocks(&call(flight, 0, ready(Ok(1))).await));
        let (own, other) = join(call(flight, 0, ready(Ok(1))), call(flight, 1, ready(Ok(2)))).await;
        assert!(deadlocks(&own));
        Ok(other.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_asks_for_its_own_key_is_told() {
        // In its first poll, and later: then a task polls it if it has two callers.
        for delay in [Duration::ZERO, SECOND] {
            let flight = flight();
            assert_eq!(call(flight, 0, asks_for_its_own_key(flight, delay)).await.unwrap(), 2);
            assert_eq!((flight.stats().runs, flight.stats().refused), (2, 2));
            assert_idle(flight);
        }
        let flight = flight();
        let first = call(flight, 0, asks_for_its_own_key(flight, SECOND));
        let (one, other) = join(first, joiner(flight, 0)).await;
        assert_eq!((one.unwrap(), other.unwrap()), (2, 2));
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().refused), (2, 1, 2));
        assert_idle(flight);
    }

    #[tokio::test]
    async fn a_nested_run_of_another_key_knows_both() {
        let flight = flight();
        let only = flight.run(0, || async {
            let inner = flight.run(1, || async {
                assert!(deadlocks(&flight.run(0, || ready(Ok(1))).await));
                assert!(deadlocks(&flight.run(1, || ready(Ok(1))).await));
                Ok(flight.run(2, || ready(Ok(3))).await.unwrap())
            });
            let inner = inner.await.unwrap();
            // The inner one is over: its key is free, and this one's still is not.
            assert_eq!(flight.run(1, || ready(Ok(4))).await.unwrap(), 4);
            assert!(deadlocks(&flight.run(0, || ready(Ok(1))).await));
            Ok(inner)
        });
        assert_eq!(only.await.unwrap(), 3);
        assert_idle(flight);
    }

    #[tokio::test]
    async fn the_same_key_of_another_flight_is_another_key() {
        let (one, other) = (flight(), flight());
        let nested = one.run(0, || async { other.run(0, || ready(Ok(7))).await.map_err(|_| "it is another flight") });
        assert_eq!(nested.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn two_calls_beside_each_other_in_one_task_share_the_run() {
        let flight = flight();
        let work = || async {
            nap().await;
            Ok(7)
        };
        let (one, other) = join(flight.run(0, work), flight.run(0, work)).await;
        assert_eq!((one.unwrap(), other.unwrap()), (7, 7));
        assert_eq!((flight.stats().runs, flight.stats().shared), (1, 1));
    }

    #[test]
    fn a_destructor_that_asks_for_the_key_of_its_own_run_is_told() {
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            // At the end of the work, as it is cancelled, and as it is cancelled in the task.
            for ends in [true, false] {
                for callers in [1, 2] {
                    let flight = flight();
                    let (told, other) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
                    let notes = (Arc::clone(&told), Arc::clone(&other));
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
                            let is_ready = ends && !std::mem::replace(&mut is_first_poll, false);
                            if is_ready { Poll::Ready(Ok(7)) } else { Poll::Pending }
                        }),
                    );
                    assert_pending!(first.poll());
                    let mut all = vec![first];
                    all.extend((1..callers).map(|_| joined(flight, 0)));
                    if has_runtime {
                        runtime.block_on(settle());
                    }
                    if ends {
                        let polled: Vec<_> = all.iter_mut().map(|caller| caller.poll()).collect();
                        if !has_runtime || callers == 1 {
                            polled.into_iter().for_each(|poll| assert_eq!(assert_ready_ok!(poll), 7));
                        }
                    }
                    drop(all);
                    let seen = (told.load(Ordering::SeqCst), other.load(Ordering::SeqCst));
                    assert_eq!(seen, (1, 1), "{ends} {callers}");
                    assert_idle(flight);
                    assert_starts_fresh(flight, 0);
                }
            }
        }
    }
}

mod runtimes {
    use super::*;

    /// Work that is woken from outside until it has seen `TOLD`: it needs no runtime.
    #[derive(Default)]
    struct Signal {
        told: AtomicUsize,
        waker: Mutex<Option<Waker>>,
        polls: AtomicUsize,
        begun: AtomicUsize,
    }

    impl Signal {
        fn tell(&self) {
            self.told.fetch_add(1, Ordering::SeqCst);
            if let Some(waker) = self.waker.lock().unwrap().take() {
                waker.wake();
            }
        }

        fn work(self: &Arc<Self>, steps: usize) -> impl Future<Output = Answer> + Send + 'static + use<> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let signal = Arc::clone(self);
            poll_fn(move |cx| {
                signal.polls.fetch_add(1, Ordering::SeqCst);
                *signal.waker.lock().unwrap() = Some(cx.waker().clone());
                if signal.told.load(Ordering::SeqCst) >= steps { Poll::Ready(Ok(7)) } else { Poll::Pending }
            })
        }
    }

    #[test]
    fn a_caller_on_another_runtime_takes_over_when_the_tasks_runtime_is_shut_down() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let (lost, stays) = (workers(1), current_thread());
        // The first caller belongs to the runtime that goes; it and the task go with it.
        let work = signal.work(2);
        let first = lost.spawn(async move { flight.run(0, || work).await });
        spin_until(|| flight.len() == 1);
        // The task belongs to it, too: the caller that spawned it is there.
        let on_lost = lost.spawn(async move { flight.run(0, pending).await });
        spin_until(|| flight.stats().waiting == 2);
        let mut other = {
            let _entered = stays.enter();
            joined(flight, 0)
        };
        signal.tell();
        drop((first, on_lost));
        drop(lost);
        assert_eq!(flight.stats().waiting, 1);
        assert!(other.is_woken(), "the work is nobody's: this caller has to drive it");
        let _entered = stays.enter();
        assert_pending!(other.poll());
        signal.tell();
        assert!(other.is_woken());
        assert_eq!(assert_ready_ok!(other.poll()), 7);
        assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().runs, flight.stats().cancelled), (1, 1, 0));
        assert_idle(flight);
    }

    #[test]
    fn callers_on_another_runtime_have_a_new_task_when_the_first_ones_runtime_is_shut_down() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let (lost, stays) = (workers(1), workers(1));
        let work = signal.work(2);
        drop(lost.spawn(async move { flight.run(0, || work).await }));
        spin_until(|| flight.len() == 1);
        drop(lost.spawn(async move { flight.run(0, pending).await }));
        spin_until(|| flight.stats().waiting == 2);
        let others: Vec<_> = (0..3).map(|_| stays.spawn(async move { flight.run(0, pending).await })).collect();
        spin_until(|| flight.stats().waiting == 5);
        let polls = signal.polls.load(Ordering::SeqCst);
        drop(lost);
        spin_until(|| signal.polls.load(Ordering::SeqCst) > polls);
        signal.tell();
        signal.tell();
        for other in stays.block_on(join_all(others)) {
            assert_eq!(other.unwrap().unwrap(), 7);
        }
        assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().runs, flight.stats().cancelled), (1, 1, 0));
        assert_idle(flight);
    }

    #[test]
    fn a_runtime_that_is_shut_down_again_and_again_loses_nothing() {
        for round in 0..50 {
            let flight = flight();
            let signal = Arc::<Signal>::default();
            let stays = workers(1);
            let lost = workers(2);
            let work = signal.work(3);
            drop(lost.spawn(async move { flight.run(0, || work).await }));
            spin_until(|| flight.len() == 1);
            let other = stays.spawn(async move { flight.run(0, pending).await });
            let more = (round % 2 == 0).then(|| stays.spawn(async move { flight.run(0, pending).await }));
            spin_until(|| flight.stats().waiting == 2 + usize::from(more.is_some()));
            let teller = {
                let signal = Arc::clone(&signal);
                thread::spawn(move || (0..3).for_each(|_| signal.tell()))
            };
            drop(lost);
            teller.join().unwrap();
            assert_eq!(stays.block_on(other).unwrap().unwrap(), 7);
            if let Some(more) = more {
                assert_eq!(stays.block_on(more).unwrap().unwrap(), 7);
            }
            assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
            assert_idle(flight);
        }
    }

    /// A handle of a runtime that is no more: tasks can be spawned on it, and are dropped at once.
    #[test]
    fn callers_inside_a_runtime_that_was_shut_down_go_on_without_a_task() {
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
        signal.tell();
        // Whichever has the work lands it.
        let mut all = [Some(first), Some(second)];
        spin_until(|| {
            for caller in &mut all {
                if caller.as_mut().is_some_and(|caller| caller.is_woken()) {
                    match caller.as_mut().unwrap().poll() {
                        Poll::Ready(answer) => {
                            assert_eq!(answer.unwrap(), 7);
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
    fn callers_take_over_from_a_task_whose_runtime_is_not_theirs() {
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
                assert_eq!(signal.polls.load(Ordering::SeqCst), 2, "the task has polled it");
            }
            assert!(!first.is_woken() && !second.is_woken());
            drop(runtime);
            assert!(first.is_woken() && second.is_woken(), "one of them has to drive");
            assert_pending!(second.poll());
            assert_pending!(first.poll());
            signal.tell();
            assert!(second.is_woken());
            assert_eq!(assert_ready_ok!(second.poll()), 7);
            assert_eq!(assert_ready_ok!(first.poll()), 7);
            assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
        }
    }

    #[test]
    fn a_task_that_comes_while_a_caller_polls_the_work_goes_on_with_it() {
        let flight = flight();
        let runtime = current_thread();
        let signal = Arc::<Signal>::default();
        let (begins, has_begun) = mpsc::channel();
        let (end, may_end) = mpsc::channel();
        let mut work = Box::pin(signal.work(1));
        let mut is_first = true;
        let mut first = caller(
            flight,
            0,
            poll_fn(move |cx| {
                if std::mem::replace(&mut is_first, false) {
                    begins.send(()).unwrap();
                    may_end.recv().unwrap();
                }
                work.as_mut().poll(cx)
            }),
        );
        let polls = thread::spawn(move || {
            assert_pending!(first.poll());
            first
        });
        has_begun.recv().unwrap();
        let _entered = runtime.enter();
        let mut second = joined(flight, 0);
        runtime.block_on(settle());
        end.send(()).unwrap();
        // It is kept, and not polled again.
        let _first = polls.join().unwrap();
        runtime.block_on(settle());
        assert_eq!(signal.polls.load(Ordering::SeqCst), 2, "the task has not polled it");
        signal.tell();
        runtime.block_on(settle());
        assert!(second.is_woken());
        assert_eq!(assert_ready_ok!(second.poll()), 7);
    }

    #[test]
    fn a_caller_that_polls_the_work_on_a_runtime_lets_a_task_drive() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut second = joined(flight, 0);
        let runtime = current_thread();
        let _entered = runtime.enter();
        assert_pending!(first.poll());
        // It is kept, and not polled again.
        signal.tell();
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
        signal.tell();
        for (i, caller) in callers.into_iter().enumerate() {
            assert_eq!(runtimes[i % 2].block_on(caller).unwrap().unwrap(), 7);
        }
        assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().shared), (1, 9));
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
        signal.tell();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), 7);
        }
        assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().shared), (1, 7));
        assert_idle(flight);
    }

    #[test]
    fn without_a_runtime_the_caller_that_drives_hands_the_work_over_as_it_leaves() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut callers = vec![caller(flight, 0, signal.work(1))];
        assert_pending!(callers[0].poll());
        callers.extend((0..3).map(|_| joined(flight, 0)));
        while callers.len() > 1 {
            drop(callers.remove(0));
            assert!(callers.iter().all(|caller| caller.is_woken()), "any of them may have to drive");
            let polls = signal.polls.load(Ordering::SeqCst);
            for caller in &mut callers {
                assert_pending!(caller.poll());
            }
            assert_eq!(signal.polls.load(Ordering::SeqCst), polls + 1, "one of them drives");
        }
        signal.tell();
        assert!(callers[0].is_woken());
        assert_eq!(assert_ready_ok!(callers[0].poll()), 7);
        assert_eq!((signal.begun.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
    }

    #[test]
    fn without_a_runtime_a_caller_that_comes_during_a_hand_over_drives_at_once() {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        drop(first);
        assert!(second.is_woken(), "it may drive now");
        // It is never polled again, but another one comes.
        let polls = signal.polls.load(Ordering::SeqCst);
        let mut third = joined(flight, 0);
        assert_eq!(signal.polls.load(Ordering::SeqCst), polls + 1, "nobody else would drive");
        signal.tell();
        assert!(third.is_woken());
        assert_eq!(assert_ready_ok!(third.poll()), 7);
    }

    #[test]
    fn a_caller_with_a_runtime_lets_a_task_drive_for_those_without() {
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
        signal.tell();
        assert_eq!(runtime.block_on(third).unwrap(), 7);
        assert!(first.is_woken() && second.is_woken());
        assert_eq!(assert_ready_ok!(first.poll()), 7);
        assert_eq!(assert_ready_ok!(second.poll()), 7);
    }

    #[test]
    fn work_that_ends_at_once_needs_nothing() {
        assert_eq!(block_on(flight().run(0, || ready(Ok(7)))).unwrap(), 7);
    }

    #[test]
    fn a_waker_that_changes_between_polls_is_the_one_that_is_woken() {
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
        assert_eq!(flags.each_ref().map(Arc::strong_count), [1, 1, 2], "it keeps the latest waker only");
        signal.tell();
        assert_eq!(assert_ready_ok!(first.poll()), 7);
        assert_eq!(flags.each_ref().map(|flag| flag.0.load(Ordering::SeqCst)), [0, 0, 1]);
    }

    #[test]
    fn a_waker_that_panics_keeps_the_answer_from_nobody() {
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
        signal.tell();
        // It is polled by a caller whose executor breaks down with it.
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

    /// A value whose clones are counted, and the third of which panics.
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
        let (tell, told) = oneshot::channel::<()>();
        let made = Arc::clone(&clones);
        let mut first = task::spawn(flight.run(0, move || async move {
            told.await.unwrap();
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
        tell.send(()).unwrap();
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
    fn a_value_is_cloned_for_each_caller_but_the_last() {
        for callers in [1, 2, 10] {
            let (clones, has_value) = costly(callers, usize::MAX);
            assert_eq!(clones.load(Ordering::SeqCst), callers - 1);
            assert_eq!(has_value, vec![true; callers]);
        }
    }

    #[test]
    fn a_clone_that_panics_hits_its_own_caller_only() {
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
            // They all meet in one table.
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
    fn a_key_that_panics_in_hash_or_eq_hits_its_own_caller_only() {
        let flight = leaked(Flight::<Fragile>::new("fragile"));
        for panics in [&HASH_PANICS, &EQ_PANICS] {
            let (tells, works): (Vec<_>, Vec<_>) = (0..3).map(|_| on_demand()).unzip();
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
            // The others are neither hashed nor compared any more.
            for (tell, caller) in tells.into_iter().zip(&mut callers) {
                tell.send(7).unwrap();
                assert_eq!(assert_ready_ok!(caller.poll()), 7);
            }
            panics.set(false);
            assert_idle(flight);
            // What was hit can go on.
            assert_pending!(hit.poll());
            assert_eq!(flight.len(), 1);
            drop(hit);
            assert_idle(flight);
        }
    }

    type Chatty = SingleFlight<CallsBack, u64>;

    static CHATTY: OnceLock<&'static Chatty> = OnceLock::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    /// Calls the flight as it is dropped: under a lock of the flight that would hang.
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
                // It may be the key of a run that still goes on.
                let _may_wait = call.poll();
            }
        }
    }

    #[test]
    fn a_key_may_call_the_flight_as_it_is_dropped() {
        let flight = *CHATTY.get_or_init(|| leaked(Chatty::new("chatty")));
        let runtime = current_thread();
        for has_runtime in [false, true] {
            let _entered = has_runtime.then(|| runtime.enter());
            let key = |key| CallsBack { key, calls: true };
            let calls = CALLS.load(Ordering::SeqCst);
            // Ended at once, ended later and shared, cancelled, never polled.
            assert_eq!(assert_ready!(task::spawn(flight.run(key(0), || ready(Ok(7)))).poll()).unwrap(), 7);
            assert_eq!(CALLS.load(Ordering::SeqCst), calls + 1);
            let (tell, told) = oneshot::channel::<()>();
            let mut first = task::spawn(flight.run(key(0), || async move {
                told.await.unwrap();
                Ok(7)
            }));
            assert_pending!(first.poll());
            let mut second = task::spawn(flight.run(key(0), pending::<Result<u64, Infallible>>));
            assert_pending!(second.poll());
            tell.send(()).unwrap();
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
    fn keys_that_meet_in_one_table_are_told_apart() {
        let flight = leaked(Flight::<Fragile>::new("crowded"));
        let (tells, works): (Vec<_>, Vec<_>) = (0..100).map(|_| on_demand()).unzip();
        let mut callers = Vec::new();
        for (key, work) in (0..100).zip(works) {
            let mut caller = task::spawn(flight.run(Fragile(key), || work));
            assert_pending!(caller.poll());
            callers.push(caller);
        }
        assert_eq!(flight.len(), 100);
        for (key, tell) in tells.into_iter().enumerate() {
            tell.send(key as u64).unwrap();
        }
        for key in (0..100).map(|i| i * 37 % 100) {
            assert_eq!(assert_ready_ok!(callers[key].poll()), key as u64);
        }
        assert_idle(flight);
    }
}

mod telling {
    use tracing::Instrument;

    use super::*;

    #[test]
    fn stats_are_exact_after_all_that_can_happen() {
        let runtime = paused();
        let _entered = runtime.enter();
        let flight = leaked(Flight::builder("mixed").max_waiters(2).wait_timeout(10 * SECOND).build());
        assert_eq!((flight.name(), flight.stats().name), ("mixed", "mixed"));
        for round in 1..=10_u64 {
            // Alone, with a value, an error and a panic.
            let ends: [fn() -> Answer; 3] = [|| Ok(1), || Err("failed"), || quiet_panic("panicked")];
            for end in ends {
                assert!(caller(flight, 0, async move { end() }).poll().is_ready());
            }
            // Shared by three; a fourth is refused.
            let (tell, work) = on_demand();
            let mut first = caller(flight, 1, work);
            assert_pending!(first.poll());
            let others = [0, 1].map(|_| joined(flight, 1));
            assert!(joiner(flight, 1).poll().is_ready());
            let mut alone = caller(flight, 2, pending());
            assert_pending!(alone.poll());
            assert_eq!((flight.stats().running, flight.stats().waiting), (2, 4));
            tell.send(1).unwrap();
            runtime.block_on(settle());
            assert_eq!((flight.stats().running, flight.stats().waiting), (1, 4));
            // One has its value, one leaves with it unseen, one leaves it for later.
            assert_eq!(assert_ready_ok!(first.poll()), 1);
            drop(others);
            // Waits too long.
            runtime.block_on(advance(10 * SECOND));
            assert!(alone.poll().is_ready());
            // Leaves.
            let mut leaves = caller(flight, 3, pending());
            assert_pending!(leaves.poll());
            drop(leaves);
            // Asks for itself.
            assert!(
                caller(flight, 4, async { flight.run(4, || ready(Ok(1))).await.map_err(|_| "told") }).poll().is_ready()
            );
            // Comes, but never asks.
            drop(joiner(flight, 5));
            // Is forgotten, and cancelled.
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
    fn debug_tells_what_a_reader_wants_to_know() {
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
    async fn an_error_that_is_not_the_works_own_stays_what_it_was() {
        let own = Arc::new("it is closed");
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
    fn a_run_that_is_polled_after_its_end_panics() {
        let mut only = caller(flight(), 0, ready(Ok(7)));
        assert_eq!(assert_ready_ok!(only.poll()), 7);
        let _panics = only.poll();
    }

    #[tokio::test]
    async fn calls_that_end_at_once_let_other_tasks_run() {
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

    /// Says in which span each of its polls was.
    async fn say_where(spans: Arc<Mutex<Vec<Option<&'static str>>>>) -> Answer {
        for _ in 0..3 {
            spans.lock().unwrap().push(span_name());
            nap().await;
        }
        Ok(7)
    }

    #[test]
    fn the_work_runs_in_the_span_of_the_caller_that_began_it_when_the_task_polls_it() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let runtime = current_thread();
            let flight = flight();
            let spans = Arc::<Mutex<Vec<_>>>::default();
            let leader = flight.run(0, || say_where(Arc::clone(&spans))).instrument(tracing::info_span!("leader"));
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
    fn the_work_runs_in_the_span_of_the_caller_that_began_it_when_another_caller_polls_it() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let flight = flight();
            let spans = Arc::<Mutex<Vec<_>>>::default();
            let work = say_where(Arc::clone(&spans));
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
    fn work_that_was_begun_outside_of_a_span_does_not_run_in_one() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let runtime = current_thread();
            let flight = flight();
            let spans = Arc::<Mutex<Vec<_>>>::default();
            runtime.block_on(async {
                let first = flight.run(0, || say_where(Arc::clone(&spans)));
                let other = flight.run(0, pending).instrument(tracing::info_span!("other"));
                let (first, other) = join(first, other).await;
                assert_eq!((first.unwrap(), other.unwrap()), (7, 7));
            });
            assert_eq!(*spans.lock().unwrap(), [None; 3]);
        });
    }
}
