//! Callers of a key dropped at every await point, however they came in, wherever they stood.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::hash::{Hash, Hasher};
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use onelane::{AcquireError, GuardStats, KeyedGuard, Order};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio_test::task;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeFirstPoll,
    Waiting,
    /// Its turn has come, and it was not polled since.
    Granted,
    /// At the await point of its work, with the turn.
    Holding,
    /// It waited too long, and was told.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Acquire,
    AcquireOwned,
    Run,
    RunToCompletion,
    AcquireAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    First,
    Middle,
    Last,
    Alone,
}

impl Position {
    fn callers(self) -> usize {
        if self == Self::Alone { 1 } else { 3 }
    }

    /// The turn of the caller that is dropped, counted from the first.
    fn turn(self) -> usize {
        match self {
            Self::First | Self::Alone => 0,
            Self::Middle => 1,
            Self::Last => 2,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    moment: Moment,
    entry: Entry,
    position: Position,
    order: Order,
}

fn every_case() -> Vec<Case> {
    let mut cases = Vec::new();
    for moment in [Moment::BeforeFirstPoll, Moment::Waiting, Moment::Granted, Moment::Holding, Moment::TimedOut] {
        for entry in [Entry::Acquire, Entry::AcquireOwned, Entry::Run, Entry::RunToCompletion, Entry::AcquireAll] {
            for position in [Position::First, Position::Middle, Position::Last, Position::Alone] {
                for order in [Order::Fifo, Order::Lifo] {
                    cases.push(Case { moment, entry, position, order });
                }
            }
        }
    }
    cases
}

/// Keys that all have the same hash, and so the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Colliding(u32);

impl Hash for Colliding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        0_u8.hash(state);
    }
}

impl From<u32> for Colliding {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

trait Key: Hash + Ord + Copy + From<u32> + Send + 'static {}
impl<K: Hash + Ord + Copy + From<u32> + Send + 'static> Key for K {}

const LIMIT: Duration = Duration::from_secs(60);
/// The key that they all wait for.
const WANTED: u32 = 1_000;
/// A caller's own keys, which `acquire_all` takes before and after that one.
const BEFORE: u32 = 0;
const AFTER: u32 = 2_000;
/// Someone holds it, and someone waits for it, all the time.
const OTHER: u32 = 3_000;

type Caller = task::Spawn<Pin<Box<dyn Future<Output = Result<(), AcquireError>>>>>;

fn caller<K: Key>(entry: Entry, guard: &Arc<KeyedGuard<K>>, number: u32) -> Caller {
    let guard = Arc::clone(guard);
    let key = K::from(WANTED);
    task::spawn(match entry {
        Entry::Acquire => Box::pin(async move {
            let _permit = guard.acquire(key).await?;
            yield_now().await;
            Ok(())
        }),
        Entry::AcquireOwned => Box::pin(async move {
            let _permit = guard.acquire_owned(key).await?;
            yield_now().await;
            Ok(())
        }),
        Entry::Run => Box::pin(async move { guard.run(key, yield_now()).await }),
        Entry::RunToCompletion => Box::pin(async move { guard.run_to_completion_owned(key, yield_now()).await }),
        Entry::AcquireAll => Box::pin(async move {
            let keys = [K::from(AFTER + number), key, K::from(BEFORE + number)];
            let _permits = guard.acquire_all(keys).await?;
            yield_now().await;
            Ok(())
        }),
    })
}

struct Scene<K: Key> {
    case: Case,
    runtime: Runtime,
    guard: Arc<KeyedGuard<K>>,
    /// In the order of their turns.
    callers: Vec<Option<Caller>>,
}

impl<K: Key> Scene<K> {
    fn set(case: Case) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let guard = Arc::new(KeyedGuard::builder("cancelled").order(case.order).max_wait(LIMIT).build());
        Self { case, runtime, guard, callers: Vec::new() }
    }

    fn play(mut self) {
        // A caller that goes away leaves its run to this runtime. It only runs when told to.
        let runtime = self.runtime.handle().clone();
        let _entered = runtime.enter();
        let guard = Arc::clone(&self.guard);
        let other = guard.try_acquire(K::from(OTHER)).unwrap();
        let mut waits_for_other = task::spawn(guard.acquire(K::from(OTHER)));
        assert!(waits_for_other.poll().is_pending());

        self.line_up_and_drop_one();
        for turn in 0..self.callers.len() {
            if self.callers[turn].is_some() {
                self.serve(turn);
            }
        }

        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 1, 1), "something remains");
        if self.case.moment != Moment::TimedOut {
            assert!(!waits_for_other.is_woken());
        }
        drop(other);
        let Poll::Ready(Ok(permit)) = waits_for_other.poll() else { panic!("it is its turn") };
        drop((permit, waits_for_other));
        drop(guard);
        self.assert_nothing_remains();
    }

    fn line_up_and_drop_one(&mut self) {
        let Case { moment, entry, position, order } = self.case;
        let victim = position.turn();
        let permit = self.guard.try_acquire(K::from(WANTED)).unwrap();
        let mut callers: Vec<_> = (0..position.callers()).map(|i| caller(entry, &self.guard, i as u32)).collect();
        // The first to come has the first turn, or the last.
        let mut arrivals: Vec<_> = callers.iter_mut().enumerate().collect();
        if order == Order::Lifo {
            arrivals.reverse();
        }
        for (turn, caller) in arrivals {
            if turn != victim || moment != Moment::BeforeFirstPoll {
                assert!(caller.poll().is_pending());
            }
        }
        self.callers = callers.into_iter().map(Some).collect();

        let mut dropped = self.callers[victim].take().unwrap();
        match moment {
            Moment::BeforeFirstPoll | Moment::Waiting => {}
            Moment::Granted | Moment::Holding => {
                drop(permit);
                (0..victim).for_each(|turn| self.serve(turn));
                assert!(dropped.is_woken());
                if moment == Moment::Holding {
                    assert!(dropped.poll().is_pending());
                }
                self.assert_nobody_else_is_in(victim + 1);
                drop(dropped);
                if moment == Moment::Holding && entry == Entry::RunToCompletion {
                    self.end_detached(victim + 1);
                }
                return;
            }
            Moment::TimedOut => {
                // The others are not polled meanwhile: their turns win, when they come.
                self.runtime.block_on(tokio::time::advance(LIMIT + Duration::from_millis(2)));
                let told = dropped.poll();
                assert!(matches!(told, Poll::Ready(Err(AcquireError::Timeout { .. }))), "{told:?}");
            }
        }
        self.assert_nobody_is_woken(0);
        drop(dropped);
        self.assert_nobody_is_woken(0);
        drop(permit);
    }

    /// One whole turn of a caller that was not cancelled.
    fn serve(&mut self, turn: usize) {
        let mut caller = self.callers[turn].take().unwrap();
        assert!(caller.is_woken(), "it is this caller's turn");
        assert!(caller.poll().is_pending(), "at its await point");
        self.assert_nobody_else_is_in(turn + 1);
        assert_eq!(caller.poll(), Poll::Ready(Ok(())));
    }

    fn assert_nobody_else_is_in(&self, next: usize) {
        // One is busy already whichever caller it is, and so is the other key's.
        assert!(self.guard.try_acquire(K::from(WANTED)).is_err());
        self.assert_nobody_is_woken(next);
    }

    fn assert_nobody_is_woken(&self, next: usize) {
        // In a wait that has a limit, the timer wakes too. Time stands still except where one is to time out.
        if self.case.moment != Moment::TimedOut {
            for caller in self.callers[next..].iter().flatten() {
                assert!(!caller.is_woken());
            }
        }
    }

    /// A run goes on without its caller until its work ends.
    fn end_detached(&self, next: usize) {
        assert_eq!(self.guard.stats().detached, 1);
        self.assert_nobody_else_is_in(next);
        self.runtime.block_on(async {
            for _ in 0..4 {
                yield_now().await;
            }
        });
        assert_eq!((self.guard.stats().detached, self.guard.stats().finished_detached), (0, 1));
    }

    fn assert_nothing_remains(&self) {
        let Case { moment, entry, position, .. } = self.case;
        let survivors = position.callers() as u64 - 1;
        let stats = self.guard.stats();
        let GuardStats { held, waiting, detached, .. } = stats;
        assert_eq!((held, waiting, detached, self.guard.len()), (0, 0, 0, 0));

        let polled = survivors + u64::from(moment != Moment::BeforeFirstPoll);
        let entered = survivors + u64::from(moment == Moment::Holding);
        let had_turn = survivors + u64::from(matches!(moment, Moment::Granted | Moment::Holding));
        // Three permits of its own key and of the other, then the callers'.
        let of_own_keys = if entry == Entry::AcquireAll { polled + entered } else { 0 };
        assert_eq!(stats.granted, 3 + had_turn + of_own_keys);
        assert_eq!(stats.queued, 1 + polled);
        assert_eq!(stats.cancelled, u64::from(matches!(moment, Moment::Waiting | Moment::Granted)));
        assert_eq!(stats.timed_out, u64::from(moment == Moment::TimedOut));
        assert_eq!((stats.refused, stats.expired, stats.panicked, stats.cut_off), (0, 0, 0, 0));
        assert_eq!(Arc::strong_count(&self.guard), 1, "someone still has a share of the guard");
    }
}

fn play_every_case<K: Key>() {
    let cases = every_case();
    assert_eq!(cases.len(), 200);
    for case in cases {
        let played = catch_unwind(|| Scene::<K>::set(case).play());
        assert!(played.is_ok(), "{case:?}");
    }
}

#[test]
fn a_caller_dropped_at_any_point_leaves_the_turns_to_the_others() {
    play_every_case::<u32>();
}

#[test]
fn a_caller_dropped_at_any_point_leaves_the_turns_to_the_others_where_all_keys_have_one_hash() {
    play_every_case::<Colliding>();
}

#[test]
fn one_of_many_that_wait_for_the_drain_can_leave() {
    let guard = KeyedGuard::new("drained");
    let permit = guard.try_acquire(1).unwrap();
    let mut waiting = [0, 1, 2].map(|_| task::spawn(guard.drained()));
    for drained in &mut waiting {
        assert!(drained.poll().is_pending());
    }
    let [first, leaves, last] = waiting;
    drop(leaves);
    guard.close();
    drop(permit);
    for mut drained in [first, last] {
        assert!(drained.is_woken());
        assert!(drained.poll().is_ready());
    }
}
