//! Drops a caller of a [`KeyedGuard`] at every await point, for every entry point and position in the queue.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::hash::Hash;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use onelane::{AcquireError, KeyedGuard, Order};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio_test::task;

use support::runtimes::paused;

use crate::Colliding;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeFirstPoll,
    Waiting,
    /// A permit was granted, and the caller has not been polled since.
    Granted,
    /// The caller is at the await point of its work and holds the permit.
    Holding,
    /// The caller timed out and was polled.
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

    /// The position of the dropped caller in the order of service, counted from 0.
    fn index(self) -> usize {
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

trait Key: Hash + Ord + Copy + From<u32> + Send + 'static {}
impl<K: Hash + Ord + Copy + From<u32> + Send + 'static> Key for K {}

const LIMIT: Duration = Duration::from_secs(60);
/// The key that all callers wait for.
const WANTED: u32 = 1_000;
/// Keys used by one caller only, which `acquire_all` acquires before and after `WANTED`.
const BEFORE: u32 = 0;
const AFTER: u32 = 2_000;
/// A key that is held and waited for during the whole scenario.
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

struct Scenario<K: Key> {
    case: Case,
    runtime: Runtime,
    guard: Arc<KeyedGuard<K>>,
    /// The callers in the order of service.
    callers: Vec<Option<Caller>>,
}

impl<K: Key> Scenario<K> {
    fn new(case: Case) -> Self {
        let runtime = paused();
        let guard = Arc::new(KeyedGuard::builder("cancelled").order(case.order).max_wait(LIMIT).build());
        Self { case, runtime, guard, callers: Vec::new() }
    }

    fn play(mut self) {
        // The run of a dropped caller continues on this runtime, which makes progress only in `block_on`.
        let runtime = self.runtime.handle().clone();
        let _entered = runtime.enter();
        let guard = Arc::clone(&self.guard);
        let other = guard.try_acquire(K::from(OTHER)).unwrap();
        let mut waiter_of_other = task::spawn(guard.acquire(K::from(OTHER)));
        assert!(waiter_of_other.poll().is_pending());

        self.enqueue_all_and_drop_one();
        for index in 0..self.callers.len() {
            if self.callers[index].is_some() {
                self.serve(index);
            }
        }

        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 1, 1), "a caller or permit remains");
        if self.case.moment != Moment::TimedOut {
            assert!(!waiter_of_other.is_woken());
        }
        drop(other);
        let Poll::Ready(Ok(permit)) = waiter_of_other.poll() else { panic!("the waiter was granted the permit") };
        drop((permit, waiter_of_other));
        drop(guard);
        self.assert_nothing_remains();
    }

    fn enqueue_all_and_drop_one(&mut self) {
        let Case { moment, entry, position, order } = self.case;
        let victim = position.index();
        let permit = self.guard.try_acquire(K::from(WANTED)).unwrap();
        let mut callers: Vec<_> = (0..position.callers()).map(|i| caller(entry, &self.guard, i as u32)).collect();
        // The first caller in the queue is served first, or last.
        let mut in_enqueueing_order: Vec<_> = callers.iter_mut().enumerate().collect();
        if order == Order::Lifo {
            in_enqueueing_order.reverse();
        }
        for (index, caller) in in_enqueueing_order {
            if index != victim || moment != Moment::BeforeFirstPoll {
                assert!(caller.poll().is_pending());
            }
        }
        self.callers = callers.into_iter().map(Some).collect();

        let mut dropped = self.callers[victim].take().unwrap();
        match moment {
            Moment::BeforeFirstPoll | Moment::Waiting => {}
            Moment::Granted | Moment::Holding => {
                drop(permit);
                (0..victim).for_each(|index| self.serve(index));
                assert!(dropped.is_woken());
                if moment == Moment::Holding {
                    assert!(dropped.poll().is_pending());
                }
                self.assert_no_other_is_admitted(victim + 1);
                drop(dropped);
                if moment == Moment::Holding && entry == Entry::RunToCompletion {
                    self.end_detached(victim + 1);
                }
                return;
            }
            Moment::TimedOut => {
                // The other callers are not polled meanwhile, so that a grant wins over their timeout.
                self.runtime.block_on(tokio::time::advance(LIMIT + Duration::from_millis(2)));
                let timeout = dropped.poll();
                assert!(
                    matches!(timeout, Poll::Ready(Err(ref error)) if *error == AcquireErrorKind::Timeout),
                    "{timeout:?}"
                );
            }
        }
        self.assert_none_is_woken(0);
        drop(dropped);
        self.assert_none_is_woken(0);
        drop(permit);
    }

    /// Plays a caller that is not dropped, from its grant to the end of its work.
    fn serve(&mut self, index: usize) {
        let mut caller = self.callers[index].take().unwrap();
        assert!(caller.is_woken(), "the caller was granted the permit");
        assert!(caller.poll().is_pending(), "the work is at its await point");
        self.assert_no_other_is_admitted(index + 1);
        assert_eq!(caller.poll(), Poll::Ready(Ok(())));
    }

    fn assert_no_other_is_admitted(&self, next: usize) {
        // The only permit of the key is held by the caller that is served at the moment.
        assert!(self.guard.try_acquire(K::from(WANTED)).is_err());
        self.assert_none_is_woken(next);
    }

    fn assert_none_is_woken(&self, next: usize) {
        // A wait with a limit is woken by its timer, too. Time advances only in the scenario of a timeout.
        if self.case.moment != Moment::TimedOut {
            for caller in self.callers[next..].iter().flatten() {
                assert!(!caller.is_woken());
            }
        }
    }

    /// Asserts that a detached run holds its permit until its work ends.
    fn end_detached(&self, next: usize) {
        assert_eq!(self.guard.stats().detached, 1);
        self.assert_no_other_is_admitted(next);
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
        let admitted = survivors + u64::from(moment == Moment::Holding);
        let granted = survivors + u64::from(matches!(moment, Moment::Granted | Moment::Holding));
        // Three permits are acquired by the scenario itself. The rest belong to the callers.
        let of_own_keys = if entry == Entry::AcquireAll { polled + admitted } else { 0 };
        assert_eq!(stats.granted, 3 + granted + of_own_keys);
        assert_eq!(stats.queued, 1 + polled);
        assert_eq!(stats.cancelled, u64::from(matches!(moment, Moment::Waiting | Moment::Granted)));
        assert_eq!(stats.timed_out, u64::from(moment == Moment::TimedOut));
        assert_eq!((stats.refused, stats.expired, stats.panicked, stats.cut_off), (0, 0, 0, 0));
        assert_eq!(Arc::strong_count(&self.guard), 1, "a reference to the guard remains");
    }
}

fn play_every_case<K: Key>() {
    let cases = every_case();
    assert_eq!(cases.len(), 200);
    for case in cases {
        let played = catch_unwind(|| Scenario::<K>::new(case).play());
        assert!(played.is_ok(), "{case:?}");
    }
}

#[test]
fn caller_dropped_at_any_point_does_not_affect_the_others() {
    play_every_case::<u32>();
}

#[test]
fn caller_of_colliding_keys_dropped_at_any_point_does_not_affect_the_others() {
    play_every_case::<Colliding>();
}

#[test]
fn one_of_many_drained_futures_can_be_dropped() {
    let guard = KeyedGuard::new("drained");
    let permit = guard.try_acquire(1).unwrap();
    let mut waiting = [0, 1, 2].map(|_| task::spawn(guard.drained()));
    for drained in &mut waiting {
        assert!(drained.poll().is_pending());
    }
    let [first, dropped, last] = waiting;
    drop(dropped);
    guard.close();
    drop(permit);
    for mut drained in [first, last] {
        assert!(drained.is_woken());
        assert!(drained.poll().is_ready());
    }
}
