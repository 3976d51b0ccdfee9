//! Models of the lane, checked by loom over every interleaving.
//!
//! What callers do inside is a read and a write of a `Relaxed` counter, which orders nothing by itself: loom lets a
//! reader see any older value that the lane's own orderings allow. So the sum is right only if callers exclude each
//! other, and each one also sees what the one before it did.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use tokio::time::Instant;

use super::{
    CancelOutcome, EnqueueOutcome, Order, Refused, Semaphore, SemaphoreConfig, SemaphoreSnapshot, WaitOutcome, WaiterId,
};
use crate::semaphore::MAX_WAITING;

/// A lane and what its callers do inside.
struct Shared {
    lane: Semaphore,
    sum: AtomicUsize,
}

impl Shared {
    fn new(permits: usize, bound: usize) -> Arc<Self> {
        Arc::new(Self {
            lane: Semaphore::new(SemaphoreConfig { permits, bound, order: Order::Fifo }),
            sum: AtomicUsize::new(0),
        })
    }

    /// A lane that the model's main thread holds already.
    fn held(bound: usize) -> Arc<Self> {
        let shared = Self::new(1, bound);
        assert_eq!(shared.lane.try_enter(), Ok(()));
        shared
    }

    /// Waits for a turn, as the futures and the blocking callers do.
    fn enter(&self) -> Outcome {
        if self.lane.try_enter().is_ok() {
            return Outcome::Entered;
        }
        let mut place = None;
        block_on(poll_fn(|cx| {
            if place.is_some() {
                return match self.lane.ask(&mut place, cx.waker()) {
                    Some(answer) => Poll::Ready(answer.into()),
                    None => Poll::Pending,
                };
            }
            match self.lane.join(cx.waker()) {
                EnqueueOutcome::Entered => Poll::Ready(Outcome::Entered),
                EnqueueOutcome::Refused(refused) => Poll::Ready(Outcome::Refused(refused)),
                EnqueueOutcome::Queued(ticket) => {
                    place = Some(ticket);
                    Poll::Pending
                }
            }
        }))
    }

    fn queue(&self) -> WaiterId {
        match self.lane.join(Waker::noop()) {
            EnqueueOutcome::Queued(ticket) => ticket,
            joined => panic!("the lane is full, so one waits: {joined:?}"),
        }
    }

    fn work(&self) {
        self.sum.store(self.sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn exit(&self) -> bool {
        self.lane.exit(|| None)
    }

    /// One whole turn. Returns how the wait ended, and whether the exit found the lane drained.
    fn visit(&self) -> (Outcome, bool) {
        let outcome = self.enter();
        if outcome != Outcome::Entered {
            return (outcome, false);
        }
        self.work();
        (outcome, self.exit())
    }

    fn assert_idle_after(&self, turns: usize) {
        let SemaphoreSnapshot { held, waiting, .. } = self.lane.snapshot();
        assert_eq!((held, waiting), (0, 0));
        assert_eq!(self.sum.load(Ordering::Relaxed), turns);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Entered,
    Refused(Refused),
    Expired,
}

impl From<WaitOutcome> for Outcome {
    fn from(answer: WaitOutcome) -> Self {
        match answer {
            WaitOutcome::Entered => Self::Entered,
            WaitOutcome::Expired => Self::Expired,
            WaitOutcome::Closed => Self::Refused(Refused::Closed),
        }
    }
}

/// Checks `model` with at most three preemptions an execution, which finds what is known to go wrong in such code
/// ("Iterative context bounding", PLDI 2007) and ends in seconds.
fn check_bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn spawn<T: 'static>(shared: &Arc<Shared>, f: impl FnOnce(&Shared) -> T + 'static) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || f(&shared))
}

#[test]
fn a_caller_that_comes_as_the_holder_leaves_gets_the_turn() {
    loom::model(|| {
        let shared = Shared::held(MAX_WAITING);
        let second = spawn(&shared, Shared::visit);
        shared.work();
        shared.exit();
        assert_eq!(second.join().unwrap(), (Outcome::Entered, false));
        shared.assert_idle_after(2);
    });
}

#[test]
fn three_callers_take_turns_and_see_each_others_work() {
    check_bounded(|| {
        let shared = Shared::new(1, MAX_WAITING);
        let others = [spawn(&shared, Shared::visit), spawn(&shared, Shared::visit)];
        assert_eq!(shared.visit(), (Outcome::Entered, false));
        for other in others {
            assert_eq!(other.join().unwrap(), (Outcome::Entered, false));
        }
        shared.assert_idle_after(3);
        assert_eq!(shared.lane.snapshot().granted, 3);
    });
}

#[test]
fn work_is_seen_across_two_hand_overs_in_a_row() {
    // The stores that hand over replace the word. They must not cut off what the exits before them published.
    check_bounded(|| {
        let shared = Shared::held(MAX_WAITING);
        let others = [spawn(&shared, Shared::visit), spawn(&shared, Shared::visit)];
        shared.work();
        shared.exit();
        for other in others {
            other.join().unwrap();
        }
        shared.assert_idle_after(3);
    });
}

#[test]
fn two_permits_never_admit_a_third() {
    check_bounded(|| {
        let shared = Shared::new(2, MAX_WAITING);
        // An atomic addition orders nothing here either, but always sees the latest value.
        fn visit(shared: &Shared) {
            assert_eq!(shared.enter(), Outcome::Entered);
            assert!(shared.sum.fetch_add(1, Ordering::Relaxed) < 2, "a third caller is inside");
            shared.sum.fetch_sub(1, Ordering::Relaxed);
            shared.exit();
        }
        let others = [spawn(&shared, visit), spawn(&shared, visit)];
        visit(&shared);
        for other in others {
            other.join().unwrap();
        }
        shared.assert_idle_after(0);
    });
}

#[test]
fn nobody_barges_in_while_a_turn_is_handed_over() {
    loom::model(|| {
        let shared = Shared::held(MAX_WAITING);
        let mut place = Some(shared.queue());
        let barger = spawn(&shared, |shared| shared.lane.try_enter());
        shared.exit();
        assert_eq!(barger.join().unwrap(), Err(Refused::Busy));
        assert_eq!(shared.lane.ask(&mut place, Waker::noop()), Some(WaitOutcome::Entered));
        shared.exit();
        shared.assert_idle_after(0);
    });
}

#[test]
fn a_caller_that_leaves_as_its_turn_comes_passes_it_on() {
    check_bounded(|| {
        let shared = Shared::held(MAX_WAITING);
        let place = shared.queue();
        let leaver = spawn(&shared, |shared| shared.lane.leave(place, || None));
        let next = spawn(&shared, Shared::visit);
        shared.work();
        shared.exit();
        assert_ne!(leaver.join().unwrap(), CancelOutcome::Refused);
        assert_eq!(next.join().unwrap().0, Outcome::Entered);
        shared.assert_idle_after(2);
        assert_eq!(shared.lane.tally.cancelled.value(), 1);
    });
}

#[test]
fn the_last_caller_leaving_as_its_turn_comes_frees_the_lane() {
    loom::model(|| {
        let shared = Shared::held(MAX_WAITING);
        let place = shared.queue();
        let leaver = spawn(&shared, |shared| shared.lane.leave(place, || None));
        shared.work();
        shared.exit();
        leaver.join().unwrap();
        assert_eq!(shared.visit().0, Outcome::Entered);
        shared.assert_idle_after(2);
    });
}

#[test]
fn giving_up_as_the_turn_comes_takes_it_or_leaves_it_to_the_next() {
    check_bounded(|| {
        let shared = Shared::held(MAX_WAITING);
        let place = shared.queue();
        let impatient = spawn(&shared, |shared| match shared.lane.give_up(place) {
            Some(answer) => {
                assert_eq!(answer, WaitOutcome::Entered);
                shared.work();
                shared.exit();
                1
            }
            None => 0,
        });
        let next = spawn(&shared, Shared::visit);
        shared.work();
        shared.exit();
        assert_eq!(next.join().unwrap().0, Outcome::Entered);
        shared.assert_idle_after(2 + impatient.join().unwrap());
    });
}

#[test]
fn closing_as_one_joins_and_one_exits_leaves_nobody_waiting() {
    check_bounded(|| {
        let shared = Shared::held(MAX_WAITING);
        let caller = spawn(&shared, Shared::visit);
        let closer = spawn(&shared, |shared| shared.lane.close());
        shared.work();
        let mut drained = shared.exit();
        let (outcome, drained_by_caller) = caller.join().unwrap();
        drained |= closer.join().unwrap() | drained_by_caller;
        assert!(drained, "someone must tell that the lane is drained");
        assert!(shared.lane.is_drained());
        let turns = match outcome {
            Outcome::Entered => 2,
            outcome => {
                assert_eq!(outcome, Outcome::Refused(Refused::Closed));
                1
            }
        };
        shared.assert_idle_after(turns);
    });
}

#[test]
fn closing_as_a_queued_caller_leaves_tells_that_the_lane_is_drained() {
    check_bounded(|| {
        let shared = Shared::held(MAX_WAITING);
        let place = shared.queue();
        let leaver = spawn(&shared, |shared| {
            shared.lane.leave(place, || None) == CancelOutcome::PassedOn && shared.lane.is_drained()
        });
        let closer = spawn(&shared, |shared| shared.lane.close());
        let drained = shared.exit();
        assert!(drained | leaver.join().unwrap() | closer.join().unwrap());
        assert!(shared.lane.is_drained());
        shared.assert_idle_after(0);
    });
}

#[test]
fn whoever_finds_the_lane_drained_sees_what_the_last_holder_did() {
    loom::model(|| {
        let shared = Shared::held(MAX_WAITING);
        let closer = spawn(&shared, |shared| {
            if shared.lane.close() {
                assert_eq!(shared.sum.load(Ordering::Relaxed), 1);
            }
        });
        shared.work();
        shared.exit();
        closer.join().unwrap();
        assert!(shared.lane.is_drained());
    });
}

#[test]
fn of_two_callers_for_the_last_place_one_is_refused() {
    check_bounded(|| {
        let shared = Shared::held(1);
        let callers = [0, 1].map(|_| spawn(&shared, |shared| shared.lane.join(Waker::noop())));
        let joined = callers.map(|caller| caller.join().unwrap());
        let queued = joined.iter().filter(|joined| matches!(joined, EnqueueOutcome::Queued(_))).count();
        let refused = joined.iter().filter(|joined| matches!(joined, EnqueueOutcome::Refused(Refused::Full))).count();
        assert_eq!((queued, refused), (1, 1));
        assert_eq!(shared.lane.snapshot().waiting, 1);
    });
}

#[test]
fn as_a_place_comes_free_two_callers_never_share_it() {
    check_bounded(|| {
        let shared = Shared::held(1);
        let callers = [spawn(&shared, Shared::visit), spawn(&shared, Shared::visit)];
        shared.work();
        shared.exit();
        let outcomes = callers.map(|caller| caller.join().unwrap().0);
        let entered = outcomes.iter().filter(|outcome| **outcome == Outcome::Entered).count();
        let refused = outcomes.iter().filter(|outcome| **outcome == Outcome::Refused(Refused::Full)).count();
        assert_eq!(entered + refused, 2);
        assert!(entered > 0, "both were refused, so neither was in the place");
        shared.assert_idle_after(1 + entered);
    });
}

#[test]
fn a_turn_that_expires_as_it_is_taken_goes_to_one_of_the_two() {
    check_bounded(|| {
        let shared = Shared::held(MAX_WAITING);
        let now = Instant::now();
        let mut place = Some(shared.queue());
        let next = spawn(&shared, Shared::visit);
        // Late enough for this turn, too early for the next one's.
        let later = now + Duration::from_secs(1);
        let watcher = spawn(&shared, move |shared| shared.lane.expire_grants(now, later).0);
        shared.work();
        shared.lane.exit(|| Some(now));
        let late = match shared.lane.ask(&mut place, Waker::noop()) {
            Some(WaitOutcome::Entered) => {
                shared.work();
                shared.exit();
                false
            }
            Some(WaitOutcome::Expired) => true,
            answer => panic!("the turn had come: {answer:?}"),
        };
        assert_eq!(watcher.join().unwrap(), usize::from(late));
        assert_eq!(next.join().unwrap().0, Outcome::Entered);
        shared.assert_idle_after(if late { 2 } else { 3 });
    });
}
