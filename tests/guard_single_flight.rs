//! The rules of [`SingleFlight`], one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::any::Any;
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

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Flight<K = u32, T = u64> = SingleFlight<K, T, &'static str>;
type Answer = Result<u64, &'static str>;
type Shared = Result<u64, FlightError<&'static str>>;
type Caller = task::Spawn<Pin<Box<dyn Future<Output = Shared> + Send>>>;

/// A flight for the length of the test run, as in a `static`.
fn leaked<K, T, E>(flight: SingleFlight<K, T, E>) -> &'static SingleFlight<K, T, E> {
    Box::leak(Box::new(flight))
}

fn flight() -> &'static Flight {
    leaked(Flight::new("flight"))
}

/// A caller that is polled by hand.
fn caller(flight: &'static Flight, key: u32, work: impl Future<Output = Answer> + Send + 'static) -> Caller {
    task::spawn(Box::pin(flight.run(key, move || work)))
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

/// Waits for what another thread is about to do.
fn until(mut is_true: impl FnMut() -> bool) {
    // Real time, for the other thread runs in no other. Much more than it needs.
    let late = std::time::Instant::now() + 20 * SECOND;
    while !is_true() {
        assert!(std::time::Instant::now() < late, "the other thread did not get there");
        thread::yield_now();
    }
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
        async move {
            for _ in 0..naps {
                nap().await;
            }
            let _inside = inside;
            Ok(u64::from(key) << 32 | number)
        }
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
            let callers = (0..THREADS).map(|thread| {
                tokio::spawn(calls(flight, Arc::clone(&records), Arc::clone(&done), thread, cancels))
            });
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
    async fn answers_of_the_others(others: usize, victim: usize, point: usize, fate: Fate, exact: bool) -> Vec<Duration> {
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
            let answers = paused().block_on(answers_of_the_others(others, victim, point, fate, true));
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
                    tokio::spawn(answers_of_the_others(others, victim, point, fate, false)).await.unwrap()
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
