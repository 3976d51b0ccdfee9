//! Models of the semaphore, checked by loom over every interleaving.
//!
//! A holder's work is a read and a write of a `Relaxed` counter, which orders nothing on its own: loom lets a reader
//! see any older value that the semaphore's own orderings allow. So the sum is right only if holders exclude each other
//! and each holder also sees what the previous one did.

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

use super::{
    CancelOutcome, EnqueueOutcome, MAX_WAITING, Order, ReleaseOutcome, Semaphore, SemaphoreConfig, SemaphoreRefusal,
    SemaphoreSnapshot, WaitOutcome, WaiterId,
};

/// A semaphore and the sum that its holders add to.
struct Model {
    semaphore: Semaphore,
    sum: AtomicUsize,
}

impl Model {
    fn new(permits: usize, bound: usize) -> Arc<Self> {
        Self::with_config(SemaphoreConfig { permits, bound, order: Order::Fifo })
    }

    fn with_config(config: SemaphoreConfig) -> Arc<Self> {
        Arc::new(Self { semaphore: Semaphore::new(config), sum: AtomicUsize::new(0) })
    }

    /// Creates a semaphore whose only permit the model's main thread holds, and whose queue evicts the older one of two
    /// waiters.
    fn held_lifo() -> Arc<Self> {
        let model = Self::with_config(SemaphoreConfig { permits: 1, bound: 1, order: Order::Lifo });
        assert_eq!(model.semaphore.try_acquire(()), Ok(()));
        model
    }

    /// Creates a semaphore whose only permit the model's main thread holds.
    fn held(bound: usize) -> Arc<Self> {
        let model = Self::new(1, bound);
        assert_eq!(model.semaphore.try_acquire(()), Ok(()));
        model
    }

    /// Acquires a permit, as the futures and the blocking callers do.
    fn acquire(&self) -> Outcome {
        if self.semaphore.try_acquire(()).is_ok() {
            return Outcome::Acquired;
        }
        let mut waiter = None;
        block_on(poll_fn(|cx| {
            if waiter.is_some() {
                return match self.semaphore.poll(&mut waiter, cx.waker()) {
                    Some(outcome) => Poll::Ready(outcome.into()),
                    None => Poll::Pending,
                };
            }
            match self.semaphore.enqueue((), cx.waker()) {
                EnqueueOutcome::Acquired => Poll::Ready(Outcome::Acquired),
                EnqueueOutcome::Refused(refused) => Poll::Ready(Outcome::Refused(refused)),
                EnqueueOutcome::Queued(id) => {
                    waiter = Some(id);
                    Poll::Pending
                }
            }
        }))
    }

    fn enqueue(&self) -> WaiterId {
        match self.semaphore.enqueue((), Waker::noop()) {
            EnqueueOutcome::Queued(waiter) => waiter,
            outcome => panic!("the caller must be queued, because no permit is available: {outcome:?}"),
        }
    }

    fn work(&self) {
        self.sum.store(self.sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn release(&self) -> bool {
        self.semaphore.release(|| None) == ReleaseOutcome::Drained
    }

    /// Returns `true` if the semaphore is drained after closing it.
    fn close(&self) -> bool {
        self.semaphore.close();
        self.semaphore.is_drained()
    }

    /// Acquires, works and releases. Returns how the wait ended, and `true` if the release drained the semaphore.
    fn run(&self) -> (Outcome, bool) {
        let outcome = self.acquire();
        if outcome != Outcome::Acquired {
            return (outcome, false);
        }
        self.work();
        (outcome, self.release())
    }

    fn assert_idle_after(&self, runs: usize) {
        let SemaphoreSnapshot { held, waiting, .. } = self.semaphore.snapshot();
        assert_eq!((held, waiting), (0, 0));
        assert_eq!(self.sum.load(Ordering::Relaxed), runs);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Acquired,
    Refused(SemaphoreRefusal),
    Expired,
    Evicted,
}

impl From<WaitOutcome> for Outcome {
    fn from(outcome: WaitOutcome) -> Self {
        match outcome {
            WaitOutcome::Acquired => Self::Acquired,
            WaitOutcome::Expired => Self::Expired,
            WaitOutcome::Evicted => Self::Evicted,
            WaitOutcome::Closed => Self::Refused(SemaphoreRefusal::Closed),
        }
    }
}

/// Checks `model` with at most three preemptions per execution. This bound finds the known kinds of bugs in such code
/// ("Iterative context bounding", PLDI 2007), and a check takes seconds.
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
fn caller_that_arrives_during_a_release_acquires_the_permit() {
    loom::model(|| {
        let model = Model::held(MAX_WAITING);
        let second = spawn(&model, Model::run);
        model.work();
        model.release();
        assert_eq!(second.join().unwrap(), (Outcome::Acquired, false));
        model.assert_idle_after(2);
    });
}

#[test]
fn three_callers_exclude_each_other_and_see_each_others_work() {
    check_bounded(|| {
        let model = Model::new(1, MAX_WAITING);
        let callers = [spawn(&model, Model::run), spawn(&model, Model::run)];
        assert_eq!(model.run(), (Outcome::Acquired, false));
        for caller in callers {
            assert_eq!(caller.join().unwrap(), (Outcome::Acquired, false));
        }
        model.assert_idle_after(3);
        assert_eq!(model.semaphore.snapshot().granted, 3);
    });
}

#[test]
fn work_is_visible_across_two_grants_in_a_row() {
    // Each grant stores a new state. That store must not hide what the earlier releases published.
    check_bounded(|| {
        let model = Model::held(MAX_WAITING);
        let callers = [spawn(&model, Model::run), spawn(&model, Model::run)];
        model.work();
        model.release();
        for caller in callers {
            caller.join().unwrap();
        }
        model.assert_idle_after(3);
    });
}

#[test]
fn two_permits_never_admit_a_third_caller() {
    check_bounded(|| {
        let model = Model::new(2, MAX_WAITING);
        // A relaxed `fetch_add` orders nothing either, but it always reads the latest value.
        fn run(model: &Model) {
            assert_eq!(model.acquire(), Outcome::Acquired);
            assert!(model.sum.fetch_add(1, Ordering::Relaxed) < 2, "a third caller holds a permit");
            model.sum.fetch_sub(1, Ordering::Relaxed);
            model.release();
        }
        let callers = [spawn(&model, run), spawn(&model, run)];
        run(&model);
        for caller in callers {
            caller.join().unwrap();
        }
        model.assert_idle_after(0);
    });
}

#[test]
fn no_caller_barges_in_while_a_permit_is_granted() {
    loom::model(|| {
        let model = Model::held(MAX_WAITING);
        let mut waiter = Some(model.enqueue());
        let barger = spawn(&model, |model| model.semaphore.try_acquire(()));
        model.release();
        assert_eq!(barger.join().unwrap(), Err(SemaphoreRefusal::Busy));
        assert_eq!(model.semaphore.poll(&mut waiter, Waker::noop()), Some(WaitOutcome::Acquired));
        model.release();
        model.assert_idle_after(0);
    });
}

#[test]
fn caller_cancelled_during_its_grant_releases_the_permit() {
    check_bounded(|| {
        let model = Model::held(MAX_WAITING);
        let waiter = model.enqueue();
        let cancelled = spawn(&model, |model| model.semaphore.cancel(waiter, || None));
        let next = spawn(&model, Model::run);
        model.work();
        model.release();
        assert_ne!(cancelled.join().unwrap(), CancelOutcome::AlreadyEnded);
        assert_eq!(next.join().unwrap().0, Outcome::Acquired);
        model.assert_idle_after(2);
        assert_eq!(model.semaphore.counters.cancelled.value(), 1);
    });
}

#[test]
fn last_caller_cancelled_during_its_grant_frees_the_semaphore() {
    loom::model(|| {
        let model = Model::held(MAX_WAITING);
        let waiter = model.enqueue();
        let cancelled = spawn(&model, |model| model.semaphore.cancel(waiter, || None));
        model.work();
        model.release();
        cancelled.join().unwrap();
        assert_eq!(model.run().0, Outcome::Acquired);
        model.assert_idle_after(2);
    });
}

#[test]
fn final_poll_during_a_grant_takes_it_or_leaves_it_to_the_next_waiter() {
    check_bounded(|| {
        let model = Model::held(MAX_WAITING);
        let waiter = model.enqueue();
        let impatient = spawn(&model, |model| match model.semaphore.poll_final(waiter) {
            Some(outcome) => {
                assert_eq!(outcome, WaitOutcome::Acquired);
                model.work();
                model.release();
                1
            }
            None => 0,
        });
        let next = spawn(&model, Model::run);
        model.work();
        model.release();
        assert_eq!(next.join().unwrap().0, Outcome::Acquired);
        model.assert_idle_after(2 + impatient.join().unwrap());
    });
}

#[test]
fn close_during_an_enqueue_and_a_release_leaves_no_waiter() {
    check_bounded(|| {
        let model = Model::held(MAX_WAITING);
        let caller = spawn(&model, Model::run);
        let closer = spawn(&model, Model::close);
        model.work();
        let mut drained = model.release();
        let (outcome, drained_by_caller) = caller.join().unwrap();
        drained |= closer.join().unwrap() | drained_by_caller;
        assert!(drained, "one of the three must report that the semaphore is drained");
        assert!(model.semaphore.is_drained());
        let runs = match outcome {
            Outcome::Acquired => 2,
            outcome => {
                assert_eq!(outcome, Outcome::Refused(SemaphoreRefusal::Closed));
                1
            }
        };
        model.assert_idle_after(runs);
    });
}

#[test]
fn close_while_a_waiter_is_cancelled_reports_that_the_semaphore_is_drained() {
    check_bounded(|| {
        let model = Model::held(MAX_WAITING);
        let waiter = model.enqueue();
        let cancelled = spawn(&model, |model| {
            model.semaphore.cancel(waiter, || None) == CancelOutcome::Released && model.semaphore.is_drained()
        });
        let closer = spawn(&model, Model::close);
        let drained = model.release();
        assert!(drained | cancelled.join().unwrap() | closer.join().unwrap());
        assert!(model.semaphore.is_drained());
        model.assert_idle_after(0);
    });
}

#[test]
fn caller_that_finds_the_semaphore_drained_sees_the_last_holders_work() {
    loom::model(|| {
        let model = Model::held(MAX_WAITING);
        let closer = spawn(&model, |model| {
            if model.close() {
                assert_eq!(model.sum.load(Ordering::Relaxed), 1);
            }
        });
        model.work();
        model.release();
        closer.join().unwrap();
        assert!(model.semaphore.is_drained());
    });
}

#[test]
fn one_of_two_callers_is_refused_if_the_queue_has_room_for_one() {
    check_bounded(|| {
        let model = Model::held(1);
        let callers = [0, 1].map(|_| spawn(&model, |model| model.semaphore.enqueue((), Waker::noop())));
        let outcomes = callers.map(|caller| caller.join().unwrap());
        let count = |finds: fn(&EnqueueOutcome) -> bool| outcomes.iter().filter(|outcome| finds(outcome)).count();
        let queued = count(|outcome| matches!(outcome, EnqueueOutcome::Queued(_)));
        let refused = count(|outcome| matches!(outcome, EnqueueOutcome::Refused(SemaphoreRefusal::QueueFull)));
        assert_eq!((queued, refused), (1, 1));
        assert_eq!(model.semaphore.snapshot().waiting, 1);
    });
}

#[test]
fn queue_with_room_for_one_never_takes_two_callers() {
    check_bounded(|| {
        let model = Model::held(1);
        let callers = [spawn(&model, Model::run), spawn(&model, Model::run)];
        model.work();
        model.release();
        let outcomes = callers.map(|caller| caller.join().unwrap().0);
        let acquired = outcomes.iter().filter(|outcome| **outcome == Outcome::Acquired).count();
        let refused =
            outcomes.iter().filter(|outcome| **outcome == Outcome::Refused(SemaphoreRefusal::QueueFull)).count();
        assert_eq!(acquired + refused, 2);
        assert!(acquired > 0, "both were refused, although neither was in the queue");
        model.assert_idle_after(1 + acquired);
    });
}

#[test]
fn grant_that_expires_while_it_is_taken_goes_to_one_of_two_callers() {
    check_bounded(|| {
        let model = Model::held(MAX_WAITING);
        let now = Instant::now();
        let mut waiter = Some(model.enqueue());
        let next = spawn(&model, Model::run);
        // The limit `now` expires the first grant. The next grant is made at `later`, so it does not expire.
        let later = now + Duration::from_secs(1);
        let watcher = spawn(&model, move |model| model.semaphore.expire_grants(now, later).0);
        model.work();
        model.semaphore.release(|| Some(now));
        let late = match model.semaphore.poll(&mut waiter, Waker::noop()) {
            Some(WaitOutcome::Acquired) => {
                model.work();
                model.release();
                false
            }
            Some(WaitOutcome::Expired) => true,
            outcome => panic!("the permit was granted: {outcome:?}"),
        };
        assert_eq!(watcher.join().unwrap(), usize::from(late));
        assert_eq!(next.join().unwrap().0, Outcome::Acquired);
        model.assert_idle_after(if late { 2 } else { 3 });
    });
}

#[test]
fn waiter_evicted_during_a_release_is_either_granted_or_evicted() {
    check_bounded(|| {
        let model = Model::held_lifo();
        let mut oldest = Some(model.enqueue());
        let newest = spawn(&model, Model::run);
        model.work();
        model.release();
        let runs = match model.semaphore.poll(&mut oldest, Waker::noop()) {
            Some(WaitOutcome::Acquired) => {
                model.work();
                model.release();
                3
            }
            Some(WaitOutcome::Evicted) => 2,
            outcome => panic!("the release or the newer caller ended the wait: {outcome:?}"),
        };
        assert_eq!(newest.join().unwrap().0, Outcome::Acquired, "no newer caller evicts it");
        model.assert_idle_after(runs);
        assert_eq!(model.semaphore.counters.evicted.value(), 3 - runs as u64);
    });
}

#[test]
fn waiter_cancelled_while_it_is_evicted_leaves_the_queue_once() {
    check_bounded(|| {
        let model = Model::held_lifo();
        let waiter = model.enqueue();
        let cancelled = spawn(&model, |model| model.semaphore.cancel(waiter, || None));
        let newest = spawn(&model, Model::run);
        model.work();
        model.release();
        let was_evicted = cancelled.join().unwrap() == CancelOutcome::AlreadyEnded;
        assert_eq!(newest.join().unwrap().0, Outcome::Acquired);
        model.assert_idle_after(2);
        let counters = &model.semaphore.counters;
        assert_eq!(counters.evicted.value(), u64::from(was_evicted));
        assert_eq!(counters.cancelled.value(), u64::from(!was_evicted));
    });
}

#[test]
fn waiter_that_times_out_while_it_is_evicted_gets_one_outcome() {
    check_bounded(|| {
        let model = Model::held_lifo();
        let waiter = model.enqueue();
        let impatient = spawn(&model, |model| match model.semaphore.poll_final(waiter) {
            Some(WaitOutcome::Acquired) => {
                model.work();
                model.release();
                (1, 0)
            }
            Some(outcome) => {
                assert_eq!(outcome, WaitOutcome::Evicted);
                (0, 1)
            }
            None => (0, 0),
        });
        let newest = spawn(&model, Model::run);
        model.work();
        model.release();
        assert_eq!(newest.join().unwrap().0, Outcome::Acquired);
        let (runs, evicted) = impatient.join().unwrap();
        model.assert_idle_after(2 + runs);
        assert_eq!(model.semaphore.counters.evicted.value(), evicted);
    });
}

#[test]
fn evicted_waiter_is_woken_and_one_of_two_callers_holds_its_place() {
    check_bounded(|| {
        let model = Model::held_lifo();
        let callers = [spawn(&model, Model::run), spawn(&model, Model::run)];
        model.work();
        model.release();
        // A caller that is evicted without being woken would deadlock the model.
        let outcomes = callers.map(|caller| caller.join().unwrap().0);
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        let (acquired, evicted) = (count(Outcome::Acquired), count(Outcome::Evicted));
        assert_eq!((acquired + evicted, model.semaphore.counters.evicted.value()), (2, evicted as u64));
        assert!(acquired > 0, "the newest caller is never evicted");
        model.assert_idle_after(1 + acquired);
    });
}

#[test]
fn waiter_evicted_during_a_close_is_refused_once() {
    check_bounded(|| {
        let model = Model::held_lifo();
        let mut waiter = Some(model.enqueue());
        let newest = spawn(&model, Model::run);
        let closer = spawn(&model, Model::close);
        model.release();
        newest.join().unwrap();
        closer.join().unwrap();
        match model.semaphore.poll(&mut waiter, Waker::noop()) {
            Some(WaitOutcome::Acquired) => drop(model.release()),
            Some(WaitOutcome::Evicted | WaitOutcome::Closed) => {}
            outcome => panic!("the wait has ended: {outcome:?}"),
        }
        let SemaphoreSnapshot { held, waiting, .. } = model.semaphore.snapshot();
        assert_eq!((held, waiting), (0, 0));
        assert!(model.semaphore.is_drained());
    });
}

#[test]
fn permit_forgotten_during_a_close_and_a_release_drains_the_semaphore() {
    check_bounded(|| {
        let model = Model::new(2, MAX_WAITING);
        assert_eq!([(); 2].map(|()| model.semaphore.try_acquire(())), [Ok(()); 2]);
        let forgetter = spawn(&model, |model| model.semaphore.forget());
        let closer = spawn(&model, Model::close);
        let drained = model.release();
        assert!(drained | forgetter.join().unwrap() | closer.join().unwrap(), "one of the three must report it");
        assert!(model.semaphore.is_drained());
        assert_eq!(model.semaphore.snapshot().held, 1);
    });
}
