//! Models of the shard, checked by loom over every interleaving.
//!
//! A holder's work is a read and a write of a `Relaxed` counter, as in the models of the semaphore. The sum is right
//! only if the holders of a key exclude each other and each holder sees what the previous one did, even if the key's
//! entry was removed in between.

#![allow(clippy::unwrap_used, reason = "a test fails at the first unexpected result")]

use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use tokio::time::Instant;

use super::key_entry::ShardConfig;
use super::shard::Shard;
use crate::guard::key_map::Hash64;
use crate::guard::keyed::key_entry::KeyLimit;
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, MAX_WAITING, Order, ReleaseOutcome, SemaphoreConfig, SemaphoreRefusal,
    SemaphoreSnapshot, WaitOutcome, WaiterId,
};
use crate::wake::wake_all;

/// Keys whose hashes collide.
const ADA: u32 = 0;
const GRACE: u32 = 1;
const HASH: Hash64 = Hash64(0);

/// Two shards, and the sum that the holders of each key add to.
struct Model {
    shard: Shard<u32>,
    other: Shard<u32>,
    config: SemaphoreConfig,
    key_limit: Option<KeyLimit>,
    sums: [AtomicUsize; 2],
}

/// The result of an attempt to acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Acquired a permit of the entry with this index.
    Acquired(u32),
    Refused(SemaphoreRefusal),
    Expired,
    Evicted,
}

impl Outcome {
    fn of(outcome: WaitOutcome, index: u32) -> Self {
        match outcome {
            WaitOutcome::Acquired => Self::Acquired(index),
            WaitOutcome::Expired => Self::Expired,
            WaitOutcome::Evicted => Self::Evicted,
            WaitOutcome::Closed => Self::Refused(SemaphoreRefusal::Closed),
        }
    }

    fn is_acquired(self) -> bool {
        matches!(self, Self::Acquired(_))
    }
}

impl Model {
    fn new(max_keys: Option<usize>) -> Arc<Self> {
        Self::with_config(max_keys, SemaphoreConfig { permits: 1, bound: MAX_WAITING, order: Order::Fifo })
    }

    fn with_config(max_keys: Option<usize>, config: SemaphoreConfig) -> Arc<Self> {
        Arc::new(Self {
            shard: Shard::new(),
            other: Shard::new(),
            config,
            key_limit: max_keys.map(KeyLimit::new),
            sums: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    /// Creates a model whose main thread holds a permit of `ADA`, and returns the index of the key's entry.
    fn held() -> (Arc<Self>, u32) {
        let model = Self::new(None);
        let Ok(index) = model.try_acquire(&model.shard, ADA) else { panic!("the key is not in use") };
        (model, index)
    }

    fn config(&self) -> ShardConfig<'_> {
        ShardConfig { semaphore: &self.config, key_limit: self.key_limit.as_ref() }
    }

    fn try_acquire(&self, shard: &Shard<u32>, key: u32) -> Result<u32, SemaphoreRefusal> {
        shard.try_acquire(self.config(), HASH, &mut Some(key))
    }

    /// Acquires a permit, as the futures and the blocking callers do.
    fn acquire(&self, key: u32) -> Outcome {
        if let Ok(index) = self.try_acquire(&self.shard, key) {
            return Outcome::Acquired(index);
        }
        let mut waiter = None;
        block_on(poll_fn(|cx| {
            if let Some((index, id)) = &mut waiter {
                return match self.shard.poll(self.config(), *index, id, cx.waker()).0 {
                    Some(outcome) => Poll::Ready(Outcome::of(outcome, *index)),
                    None => Poll::Pending,
                };
            }
            match self.shard.enqueue(self.config(), HASH, &mut Some(key), cx.waker()) {
                Ok((index, EnqueueOutcome::Acquired)) => Poll::Ready(Outcome::Acquired(index)),
                Ok((index, EnqueueOutcome::Queued(id))) => {
                    waiter = Some((index, Some(id)));
                    Poll::Pending
                }
                Ok((_, EnqueueOutcome::Refused(refusal))) | Err(refusal) => Poll::Ready(Outcome::Refused(refusal)),
            }
        }))
    }

    fn enqueue(&self) -> WaiterId {
        match self.shard.enqueue(self.config(), HASH, &mut Some(ADA), Waker::noop()) {
            Ok((_, EnqueueOutcome::Queued(waiter))) => waiter,
            outcome => panic!("the caller must be queued, because the permit is held: {outcome:?}"),
        }
    }

    fn work(&self, key: u32) {
        let sum = &self.sums[key as usize];
        sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn release(&self, index: u32) -> bool {
        self.shard.release(self.config(), index, || None) == ReleaseOutcome::Drained
    }

    fn cancel(&self, index: u32, waiter: WaiterId) -> CancelOutcome {
        self.shard.cancel(self.config(), index, waiter, None)
    }

    /// Acquires, works and releases. Returns how the wait ended, and `true` if the release drained the shard.
    fn run(&self, key: u32) -> (Outcome, bool) {
        let outcome = self.acquire(key);
        let Outcome::Acquired(index) = outcome else { return (outcome, false) };
        self.work(key);
        (outcome, self.release(index) && self.shard.is_drained())
    }

    fn close(&self) -> bool {
        wake_all(self.shard.close(self.config()));
        self.shard.is_drained()
    }

    /// Returns `true` if both shards are drained, as those of one guard.
    fn are_drained(&self) -> bool {
        self.shard.is_drained() && self.other.is_drained()
    }

    fn assert_no_keys_after(&self, runs: [usize; 2]) {
        let SemaphoreSnapshot { held, waiting, .. } = self.shard.snapshot();
        assert_eq!((held, waiting, self.shard.len()), (0, 0, 0));
        assert_eq!([ADA, GRACE].map(|key| self.shard.find(HASH, &key)), [None; 2]);
        assert_eq!(self.sums.each_ref().map(|sum| sum.load(Ordering::Relaxed)), runs);
    }
}

/// Checks `model` with at most three preemptions per execution. That finds the known kinds of bugs in such code
/// ("Iterative context bounding", PLDI 2007) and takes seconds.
fn check_bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

fn spawn<T: 'static>(model: &Arc<Model>, f: impl FnOnce(&Model) -> T + 'static) -> thread::JoinHandle<T> {
    let model = Arc::clone(model);
    thread::spawn(move || f(&model))
}

#[test]
fn caller_that_arrives_during_the_last_release_gets_the_permit_or_a_new_entry() {
    loom::model(|| {
        let (model, index) = Model::held();
        let second = spawn(&model, |model| model.run(ADA));
        model.work(ADA);
        assert!(!model.release(index));
        assert!(second.join().unwrap().0.is_acquired());
        model.assert_no_keys_after([2, 0]);
        assert_eq!(model.shard.snapshot().granted, 2);
    });
}

#[test]
fn two_callers_of_a_key_that_is_added_and_removed_exclude_each_other() {
    loom::model(|| {
        let model = Model::new(None);
        let other = spawn(&model, |model| [0; 2].map(|_| model.run(ADA)));
        assert!(model.run(ADA).0.is_acquired());
        for (outcome, drained) in other.join().unwrap() {
            assert!(outcome.is_acquired() && !drained);
        }
        model.assert_no_keys_after([3, 0]);
    });
}

#[test]
fn three_callers_of_a_key_that_is_added_and_removed_exclude_each_other() {
    check_bounded(|| {
        let model = Model::new(None);
        let callers = [0; 2].map(|_| spawn(&model, |model| model.run(ADA)));
        assert!(model.run(ADA).0.is_acquired());
        for caller in callers {
            assert!(caller.join().unwrap().0.is_acquired());
        }
        model.assert_no_keys_after([3, 0]);
        assert_eq!(model.shard.snapshot().granted, 3);
    });
}

#[test]
fn adding_and_removing_a_key_leaves_another_key_with_the_same_hash_in_place() {
    check_bounded(|| {
        let model = Model::new(None);
        let ada = spawn(&model, |model| [0; 2].map(|_| model.run(ADA)));
        let grace = spawn(&model, |model| model.run(GRACE));
        assert!(model.run(GRACE).0.is_acquired());
        assert!(ada.join().unwrap().iter().all(|(outcome, _)| outcome.is_acquired()));
        assert!(grace.join().unwrap().0.is_acquired());
        model.assert_no_keys_after([2, 2]);
    });
}

#[test]
fn caller_cancelled_during_its_grant_releases_the_permit_to_a_new_caller() {
    check_bounded(|| {
        let (model, index) = Model::held();
        let waiter = model.enqueue();
        let cancelled = spawn(&model, move |model| model.cancel(index, waiter));
        let next = spawn(&model, |model| model.run(ADA));
        model.work(ADA);
        model.release(index);
        assert_ne!(cancelled.join().unwrap(), CancelOutcome::AlreadyEnded);
        assert!(next.join().unwrap().0.is_acquired());
        model.assert_no_keys_after([2, 0]);
        assert_eq!(model.shard.wait_counters().cancelled.value(), 1);
    });
}

#[test]
fn granted_caller_cancelled_during_an_enqueue_removes_the_key_or_leaves_it_to_the_new_caller() {
    loom::model(|| {
        let (model, index) = Model::held();
        let waiter = model.enqueue();
        model.release(index);
        let next = spawn(&model, |model| model.run(ADA));
        assert_eq!(model.cancel(index, waiter), CancelOutcome::Released);
        assert!(next.join().unwrap().0.is_acquired());
        model.assert_no_keys_after([1, 0]);
    });
}

#[test]
fn two_callers_share_the_only_key_that_the_limit_allows() {
    check_bounded(|| {
        let model = Model::new(Some(1));
        let callers = [0; 2].map(|_| spawn(&model, |model| model.run(ADA)));
        for caller in callers {
            let (outcome, _) = caller.join().unwrap();
            assert!(outcome.is_acquired(), "{outcome:?}");
        }
        model.assert_no_keys_after([2, 0]);
        assert!(model.run(GRACE).0.is_acquired(), "the limit did not change");
    });
}

#[test]
fn limit_of_one_key_holds_across_two_shards() {
    loom::model(|| {
        fn run(model: &Model, shard: &Shard<u32>, key: u32) -> bool {
            match model.try_acquire(shard, key) {
                Ok(index) => {
                    // A relaxed `fetch_add` orders nothing, but it always reads the latest value.
                    assert_eq!(model.sums[0].fetch_add(1, Ordering::Relaxed), 0, "both keys are in use");
                    model.sums[0].fetch_sub(1, Ordering::Relaxed);
                    shard.release(model.config(), index, || None);
                    true
                }
                Err(refusal) => {
                    assert_eq!(refusal, SemaphoreRefusal::TooManyKeys);
                    false
                }
            }
        }
        let model = Model::new(Some(1));
        let grace = spawn(&model, |model| run(model, &model.other, GRACE));
        let ada = run(&model, &model.shard, ADA);
        assert!(grace.join().unwrap() || ada, "each key was refused because of the other");
        assert!(run(&model, &model.shard, ADA) && run(&model, &model.other, GRACE), "the limit did not change");
        model.assert_no_keys_after([0, 0]);
    });
}

#[test]
fn final_poll_during_a_grant_takes_it_or_leaves_it_to_the_next_waiter() {
    check_bounded(|| {
        let (model, index) = Model::held();
        let waiter = model.enqueue();
        let impatient = spawn(&model, move |model| match model.shard.poll_final(model.config(), index, waiter).0 {
            Some(outcome) => {
                assert_eq!(outcome, WaitOutcome::Acquired);
                model.work(ADA);
                model.release(index);
                1
            }
            None => 0,
        });
        let next = spawn(&model, |model| model.run(ADA));
        model.work(ADA);
        model.release(index);
        assert!(next.join().unwrap().0.is_acquired());
        let runs = 2 + impatient.join().unwrap();
        model.assert_no_keys_after([runs, 0]);
    });
}

#[test]
fn grant_that_expires_while_it_is_taken_goes_to_one_of_two_callers() {
    check_bounded(|| {
        let (model, index) = Model::held();
        let now = Instant::now();
        let mut waiter = Some(model.enqueue());
        let next = spawn(&model, |model| model.run(ADA));
        // The limit expires the first grant but not the next one. The grants are found by their key, as in
        // `try_acquire`, because the key may be removed by then.
        let later = now + Duration::from_secs(1);
        let watcher =
            spawn(&model, move |model| model.shard.expire_grants_of_key(model.config(), HASH, &ADA, now, later).0);
        model.work(ADA);
        model.shard.release(model.config(), index, || Some(now));
        let late = match model.shard.poll(model.config(), index, &mut waiter, Waker::noop()).0 {
            Some(WaitOutcome::Acquired) => {
                model.work(ADA);
                model.release(index);
                false
            }
            Some(WaitOutcome::Expired) => true,
            outcome => panic!("the permit was granted: {outcome:?}"),
        };
        assert_eq!(watcher.join().unwrap(), usize::from(late));
        assert!(next.join().unwrap().0.is_acquired());
        model.assert_no_keys_after([if late { 2 } else { 3 }, 0]);
    });
}

#[test]
fn close_during_an_enqueue_and_a_release_leaves_no_waiter() {
    check_bounded(|| {
        let (model, index) = Model::held();
        let caller = spawn(&model, |model| model.run(ADA));
        let closer = spawn(&model, Model::close);
        model.work(ADA);
        let mut drained = model.release(index) && model.shard.is_drained();
        let (outcome, drained_by_caller) = caller.join().unwrap();
        drained |= closer.join().unwrap() | drained_by_caller;
        assert!(drained, "one of the three must report that the shard is drained");
        let runs = match outcome {
            Outcome::Acquired(_) => 2,
            outcome => {
                assert_eq!(outcome, Outcome::Refused(SemaphoreRefusal::Closed));
                1
            }
        };
        model.assert_no_keys_after([runs, 0]);
        assert_eq!(model.run(GRACE).0, Outcome::Refused(SemaphoreRefusal::Closed));
    });
}

#[test]
fn close_while_a_granted_caller_is_cancelled_reports_that_the_shard_is_drained() {
    loom::model(|| {
        let (model, index) = Model::held();
        let waiter = model.enqueue();
        model.release(index);
        let closer = spawn(&model, Model::close);
        assert_eq!(model.cancel(index, waiter), CancelOutcome::Released);
        let drained = model.shard.is_drained();
        assert!(closer.join().unwrap() | drained);
        model.assert_no_keys_after([0, 0]);
    });
}

#[test]
fn one_of_the_last_holders_of_two_shards_finds_both_drained() {
    check_bounded(|| {
        let (model, ada) = Model::held();
        let grace = model.try_acquire(&model.other, GRACE).unwrap();
        let closer = spawn(&model, |model| {
            wake_all(model.shard.close(model.config()).into_iter().chain(model.other.close(model.config())));
            model.are_drained()
        });
        let other = spawn(&model, move |model| {
            model.work(GRACE);
            model.other.release(model.config(), grace, || None) == ReleaseOutcome::Drained && model.are_drained()
        });
        model.work(ADA);
        let drained = model.release(ada) && model.are_drained();
        assert!(
            drained | closer.join().unwrap() | other.join().unwrap(),
            "one of the three must report that both shards are drained"
        );
        assert!(model.are_drained());
        model.assert_no_keys_after([1, 1]);
    });
}

#[test]
fn caller_that_finds_the_shard_drained_sees_the_last_holders_work() {
    loom::model(|| {
        let (model, index) = Model::held();
        let closer = spawn(&model, |model| {
            if model.close() {
                assert_eq!(model.sums[0].load(Ordering::Relaxed), 1);
            }
        });
        model.work(ADA);
        model.release(index);
        closer.join().unwrap();
        assert!(model.shard.is_drained());
    });
}

#[test]
fn waiter_cancelled_while_it_is_evicted_leaves_nothing_of_its_key() {
    check_bounded(|| {
        let model = Model::with_config(None, SemaphoreConfig { permits: 1, bound: 1, order: Order::Lifo });
        let Ok(index) = model.try_acquire(&model.shard, ADA) else { panic!("the key is not in use") };
        let waiter = model.enqueue();
        let cancelled = spawn(&model, move |model| model.cancel(index, waiter));
        let newest = spawn(&model, |model| model.run(ADA));
        model.work(ADA);
        model.release(index);
        let was_evicted = cancelled.join().unwrap() == CancelOutcome::AlreadyEnded;
        assert!(newest.join().unwrap().0.is_acquired());
        assert_eq!(model.shard.wait_counters().evicted.value(), u64::from(was_evicted));
        model.assert_no_keys_after([2, 0]);
    });
}

#[test]
fn waiter_evicted_during_a_release_is_granted_or_evicted_and_its_key_is_removed_after_it() {
    check_bounded(|| {
        let model = Model::with_config(None, SemaphoreConfig { permits: 1, bound: 1, order: Order::Lifo });
        let Ok(index) = model.try_acquire(&model.shard, ADA) else { panic!("the key is not in use") };
        let mut oldest = Some(model.enqueue());
        let newest = spawn(&model, |model| model.run(ADA));
        model.work(ADA);
        model.release(index);
        let runs = match model.shard.poll(model.config(), index, &mut oldest, Waker::noop()).0 {
            Some(WaitOutcome::Acquired) => {
                model.work(ADA);
                model.release(index);
                3
            }
            Some(WaitOutcome::Evicted) => 2,
            outcome => panic!("the release or the newer caller ended the wait: {outcome:?}"),
        };
        assert!(newest.join().unwrap().0.is_acquired(), "no newer caller evicts it");
        model.assert_no_keys_after([runs, 0]);
    });
}
