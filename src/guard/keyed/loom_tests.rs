//! Models of the shard, checked by loom over every interleaving.
//!
//! What callers of a key do inside is a read and a write of a `Relaxed` counter, as in the models of the lane: the sum is
//! right only if they exclude each other, and each one sees what the one before it did, also when the key's entry was
//! gone in between.

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

use super::{Shard, Terms};
use crate::guard::key_map::Hash64;
use crate::guard::keyed::key_semaphore::KeyLimit;
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, MAX_WAITING, Order, Refused, SemaphoreConfig, SemaphoreSnapshot, WaitOutcome,
    WaiterId, wake_all,
};

/// Keys whose hashes collide.
const ADA: u32 = 0;
const GRACE: u32 = 1;
const HASH: Hash64 = Hash64(0);

/// A shard, another one, and what the callers of each key do inside.
struct Shared {
    shard: Shard<u32>,
    other: Shard<u32>,
    rules: SemaphoreConfig,
    limit: Option<KeyLimit>,
    sums: [AtomicUsize; 2],
}

/// What a caller found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// In the lane with this index.
    Entered(u32),
    Refused(Refused),
    Expired,
}

impl Outcome {
    fn of(answer: WaitOutcome, index: u32) -> Self {
        match answer {
            WaitOutcome::Entered => Self::Entered(index),
            WaitOutcome::Expired => Self::Expired,
            WaitOutcome::Closed => Self::Refused(Refused::Closed),
        }
    }

    fn is_entered(self) -> bool {
        matches!(self, Self::Entered(_))
    }
}

impl Shared {
    fn new(most: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            shard: Shard::new(),
            other: Shard::new(),
            rules: SemaphoreConfig { permits: 1, bound: MAX_WAITING, order: Order::Fifo },
            limit: most.map(KeyLimit::new),
            sums: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    /// With a key that the model's main thread holds already, and the index of its lane.
    fn held() -> (Arc<Self>, u32) {
        let shared = Self::new(None);
        let Ok(index) = shared.try_enter(&shared.shard, ADA) else { panic!("nobody is inside") };
        (shared, index)
    }

    fn terms(&self) -> Terms<'_> {
        Terms { rules: &self.rules, limit: self.limit.as_ref() }
    }

    fn try_enter(&self, shard: &Shard<u32>, key: u32) -> Result<u32, Refused> {
        shard.try_enter(self.terms(), HASH, &mut Some(key))
    }

    /// Waits for a turn, as the futures and the blocking callers do.
    fn enter(&self, key: u32) -> Outcome {
        if let Ok(index) = self.try_enter(&self.shard, key) {
            return Outcome::Entered(index);
        }
        let mut place = None;
        block_on(poll_fn(|cx| {
            if let Some((index, ticket)) = &mut place {
                return match self.shard.ask(self.terms(), *index, ticket, cx.waker()) {
                    Some(answer) => Poll::Ready(Outcome::of(answer, *index)),
                    None => Poll::Pending,
                };
            }
            match self.shard.join(self.terms(), HASH, &mut Some(key), cx.waker()) {
                Ok((index, EnqueueOutcome::Entered)) => Poll::Ready(Outcome::Entered(index)),
                Ok((index, EnqueueOutcome::Queued(ticket))) => {
                    place = Some((index, Some(ticket)));
                    Poll::Pending
                }
                Ok((_, EnqueueOutcome::Refused(refused))) | Err(refused) => Poll::Ready(Outcome::Refused(refused)),
            }
        }))
    }

    fn queue(&self) -> WaiterId {
        match self.shard.join(self.terms(), HASH, &mut Some(ADA), Waker::noop()) {
            Ok((_, EnqueueOutcome::Queued(ticket))) => ticket,
            joined => panic!("the key is held, so one waits: {joined:?}"),
        }
    }

    fn work(&self, key: u32) {
        let sum = &self.sums[key as usize];
        sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn exit(&self, index: u32) -> bool {
        self.shard.exit(self.terms(), index, || None)
    }

    fn leave(&self, index: u32, ticket: WaiterId) -> CancelOutcome {
        self.shard.leave(self.terms(), index, ticket, None)
    }

    /// One whole turn. Returns how the wait ended, and whether the exit found the shard drained.
    fn visit(&self, key: u32) -> (Outcome, bool) {
        let outcome = self.enter(key);
        let Outcome::Entered(index) = outcome else { return (outcome, false) };
        self.work(key);
        (outcome, self.exit(index) && self.shard.is_drained())
    }

    fn close(&self) -> bool {
        wake_all(self.shard.close(self.terms()));
        self.shard.is_drained()
    }

    /// Both shards, as those of one guard.
    fn are_drained(&self) -> bool {
        self.shard.is_drained() && self.other.is_drained()
    }

    fn assert_gone_after(&self, turns: [usize; 2]) {
        let SemaphoreSnapshot { held, waiting, .. } = self.shard.snapshot();
        assert_eq!((held, waiting, self.shard.len()), (0, 0, 0));
        assert_eq!([ADA, GRACE].map(|key| self.shard.find(HASH, &key)), [None; 2]);
        assert_eq!(self.sums.each_ref().map(|sum| sum.load(Ordering::Relaxed)), turns);
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
fn a_caller_that_comes_as_the_last_holder_leaves_gets_the_turn_or_a_new_entry() {
    loom::model(|| {
        let (shared, index) = Shared::held();
        let second = spawn(&shared, |shared| shared.visit(ADA));
        shared.work(ADA);
        assert!(!shared.exit(index));
        assert!(second.join().unwrap().0.is_entered());
        shared.assert_gone_after([2, 0]);
        assert_eq!(shared.shard.snapshot().granted, 2);
    });
}

#[test]
fn two_callers_of_a_key_that_comes_and_goes_exclude_each_other() {
    loom::model(|| {
        let shared = Shared::new(None);
        let other = spawn(&shared, |shared| [0; 2].map(|_| shared.visit(ADA)));
        assert!(shared.visit(ADA).0.is_entered());
        for (outcome, drained) in other.join().unwrap() {
            assert!(outcome.is_entered() && !drained);
        }
        shared.assert_gone_after([3, 0]);
    });
}

#[test]
fn three_callers_of_a_key_that_comes_and_goes_exclude_each_other() {
    check_bounded(|| {
        let shared = Shared::new(None);
        let others = [0; 2].map(|_| spawn(&shared, |shared| shared.visit(ADA)));
        assert!(shared.visit(ADA).0.is_entered());
        for other in others {
            assert!(other.join().unwrap().0.is_entered());
        }
        shared.assert_gone_after([3, 0]);
        assert_eq!(shared.shard.snapshot().granted, 3);
    });
}

#[test]
fn a_key_that_comes_and_goes_leaves_another_of_its_hash_where_it_is() {
    check_bounded(|| {
        let shared = Shared::new(None);
        let ada = spawn(&shared, |shared| [0; 2].map(|_| shared.visit(ADA)));
        let grace = spawn(&shared, |shared| shared.visit(GRACE));
        assert!(shared.visit(GRACE).0.is_entered());
        assert!(ada.join().unwrap().iter().all(|(outcome, _)| outcome.is_entered()));
        assert!(grace.join().unwrap().0.is_entered());
        shared.assert_gone_after([2, 2]);
    });
}

#[test]
fn a_caller_that_leaves_as_its_turn_comes_passes_it_on_to_one_who_joins() {
    check_bounded(|| {
        let (shared, index) = Shared::held();
        let place = shared.queue();
        let leaver = spawn(&shared, move |shared| shared.leave(index, place));
        let next = spawn(&shared, |shared| shared.visit(ADA));
        shared.work(ADA);
        shared.exit(index);
        assert_ne!(leaver.join().unwrap(), CancelOutcome::Refused);
        assert!(next.join().unwrap().0.is_entered());
        shared.assert_gone_after([2, 0]);
        assert_eq!(shared.shard.tally().cancelled.value(), 1);
    });
}

#[test]
fn a_caller_that_leaves_with_its_turn_as_another_joins_takes_the_key_along_or_leaves_it_to_the_other() {
    loom::model(|| {
        let (shared, index) = Shared::held();
        let place = shared.queue();
        shared.exit(index);
        let next = spawn(&shared, |shared| shared.visit(ADA));
        assert_eq!(shared.leave(index, place), CancelOutcome::PassedOn);
        assert!(next.join().unwrap().0.is_entered());
        shared.assert_gone_after([1, 0]);
    });
}

#[test]
fn two_that_bring_the_only_key_there_may_be_share_it() {
    check_bounded(|| {
        let shared = Shared::new(Some(1));
        let others = [0; 2].map(|_| spawn(&shared, |shared| shared.visit(ADA)));
        for other in others {
            let (outcome, _) = other.join().unwrap();
            assert!(outcome.is_entered(), "{outcome:?}");
        }
        shared.assert_gone_after([2, 0]);
        assert!(shared.visit(GRACE).0.is_entered(), "no room was lost");
    });
}

#[test]
fn of_two_keys_in_two_shards_one_is_there_at_a_time_where_only_one_may_be() {
    loom::model(|| {
        fn visit(shared: &Shared, shard: &Shard<u32>, key: u32) -> bool {
            match shared.try_enter(shard, key) {
                Ok(index) => {
                    // An atomic addition orders nothing here, but always sees the latest value.
                    assert_eq!(shared.sums[0].fetch_add(1, Ordering::Relaxed), 0, "both keys are there");
                    shared.sums[0].fetch_sub(1, Ordering::Relaxed);
                    shard.exit(shared.terms(), index, || None);
                    true
                }
                Err(refused) => {
                    assert_eq!(refused, Refused::TooManyKeys);
                    false
                }
            }
        }
        let shared = Shared::new(Some(1));
        let grace = spawn(&shared, |shared| visit(shared, &shared.other, GRACE));
        let ada = visit(&shared, &shared.shard, ADA);
        assert!(grace.join().unwrap() || ada, "each was refused because of the other");
        assert!(visit(&shared, &shared.shard, ADA) && visit(&shared, &shared.other, GRACE), "no room was lost");
        shared.assert_gone_after([0, 0]);
    });
}

#[test]
fn giving_up_as_the_turn_comes_takes_it_or_leaves_it_to_the_next() {
    check_bounded(|| {
        let (shared, index) = Shared::held();
        let place = shared.queue();
        let impatient = spawn(&shared, move |shared| match shared.shard.give_up(shared.terms(), index, place).0 {
            Some(answer) => {
                assert_eq!(answer, WaitOutcome::Entered);
                shared.work(ADA);
                shared.exit(index);
                1
            }
            None => 0,
        });
        let next = spawn(&shared, |shared| shared.visit(ADA));
        shared.work(ADA);
        shared.exit(index);
        assert!(next.join().unwrap().0.is_entered());
        let turns = 2 + impatient.join().unwrap();
        shared.assert_gone_after([turns, 0]);
    });
}

#[test]
fn a_turn_that_expires_as_it_is_taken_goes_to_one_of_the_two() {
    check_bounded(|| {
        let (shared, index) = Shared::held();
        let now = Instant::now();
        let mut place = Some(shared.queue());
        let next = spawn(&shared, |shared| shared.visit(ADA));
        // Late enough for this turn, too early for the next one's. By its key, as one who tries; it may be gone by then.
        let later = now + Duration::from_secs(1);
        let watcher = spawn(&shared, move |shared| shared.shard.expire_for(shared.terms(), HASH, &ADA, now, later).0);
        shared.work(ADA);
        shared.shard.exit(shared.terms(), index, || Some(now));
        let late = match shared.shard.ask(shared.terms(), index, &mut place, Waker::noop()) {
            Some(WaitOutcome::Entered) => {
                shared.work(ADA);
                shared.exit(index);
                false
            }
            Some(WaitOutcome::Expired) => true,
            answer => panic!("the turn had come: {answer:?}"),
        };
        assert_eq!(watcher.join().unwrap(), usize::from(late));
        assert!(next.join().unwrap().0.is_entered());
        shared.assert_gone_after([if late { 2 } else { 3 }, 0]);
    });
}

#[test]
fn closing_as_one_joins_and_one_exits_leaves_nobody_waiting() {
    check_bounded(|| {
        let (shared, index) = Shared::held();
        let caller = spawn(&shared, |shared| shared.visit(ADA));
        let closer = spawn(&shared, Shared::close);
        shared.work(ADA);
        let mut drained = shared.exit(index) && shared.shard.is_drained();
        let (outcome, drained_by_caller) = caller.join().unwrap();
        drained |= closer.join().unwrap() | drained_by_caller;
        assert!(drained, "someone must tell that the shard is drained");
        let turns = match outcome {
            Outcome::Entered(_) => 2,
            outcome => {
                assert_eq!(outcome, Outcome::Refused(Refused::Closed));
                1
            }
        };
        shared.assert_gone_after([turns, 0]);
        assert_eq!(shared.visit(GRACE).0, Outcome::Refused(Refused::Closed));
    });
}

#[test]
fn closing_as_a_caller_with_a_turn_leaves_tells_that_the_shard_is_drained() {
    loom::model(|| {
        let (shared, index) = Shared::held();
        let place = shared.queue();
        shared.exit(index);
        let closer = spawn(&shared, Shared::close);
        assert_eq!(shared.leave(index, place), CancelOutcome::PassedOn);
        let drained = shared.shard.is_drained();
        assert!(closer.join().unwrap() | drained);
        shared.assert_gone_after([0, 0]);
    });
}

#[test]
fn of_the_last_holders_of_two_shards_one_finds_both_drained() {
    check_bounded(|| {
        let (shared, ada) = Shared::held();
        let grace = shared.try_enter(&shared.other, GRACE).unwrap();
        let closer = spawn(&shared, |shared| {
            wake_all(shared.shard.close(shared.terms()).into_iter().chain(shared.other.close(shared.terms())));
            shared.are_drained()
        });
        let other = spawn(&shared, move |shared| {
            shared.work(GRACE);
            shared.other.exit(shared.terms(), grace, || None) && shared.are_drained()
        });
        shared.work(ADA);
        let drained = shared.exit(ada) && shared.are_drained();
        assert!(drained | closer.join().unwrap() | other.join().unwrap(), "someone must tell that both are drained");
        assert!(shared.are_drained());
        shared.assert_gone_after([1, 1]);
    });
}

#[test]
fn whoever_finds_the_shard_drained_sees_what_the_last_holder_did() {
    loom::model(|| {
        let (shared, index) = Shared::held();
        let closer = spawn(&shared, |shared| {
            if shared.close() {
                assert_eq!(shared.sums[0].load(Ordering::Relaxed), 1);
            }
        });
        shared.work(ADA);
        shared.exit(index);
        closer.join().unwrap();
        assert!(shared.shard.is_drained());
    });
}
