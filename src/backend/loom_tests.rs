//! Models of the hand-off of a turn within a process, checked by loom over every interleaving.
//!
//! The semaphore of the guard and the map of parked turns are the real ones. The steps of a release and of a caller
//! that leaves are those of `HeldPermit` and `PermitWait`. The store is one atomic value, so the models don't cover
//! late answers, the keeper and timers, which run on tokio's runtime.

#![allow(clippy::unwrap_used, reason = "a test fails at the first unexpected result")]

use std::future::poll_fn;
use std::task::{Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::lock_backend::LockName;
use super::parked_map::ParkedMap;
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, MAX_WAITING, Order, ReleaseOutcome, Semaphore, SemaphoreConfig, WaitOutcome,
    WaiterId,
};

/// A guard with one permit, the turns that its holders park, and the store.
struct Model {
    semaphore: Semaphore,
    parked: ParkedMap<Turn>,
    is_held: Arc<AtomicBool>,
    /// Counts the work of the holders. The count is right only if the holders exclude each other.
    sum: AtomicUsize,
}

/// The turn of the process. Dropping it releases the lock in the store.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        assert!(self.0.swap(false, Ordering::AcqRel), "the lock is released once");
    }
}

fn name() -> LockName {
    LockName::new("report", None)
}

impl Model {
    /// Creates a model whose main thread holds the permit and the turn, and a caller that waits for both.
    fn held() -> (Arc<Self>, Turn, WaiterId) {
        let config = SemaphoreConfig { permits: 1, bound: MAX_WAITING, order: Order::Fifo };
        let (semaphore, parked) = (Semaphore::new(config), ParkedMap::new());
        let model =
            Arc::new(Self { semaphore, parked, is_held: Arc::new(AtomicBool::new(false)), sum: AtomicUsize::new(0) });
        assert_eq!(model.semaphore.try_acquire(()), Ok(()));
        let EnqueueOutcome::Queued(waiter) = model.semaphore.enqueue((), Waker::noop()) else {
            panic!("the caller must be queued, because the permit is held")
        };
        let turn = model.take_turn();
        (model, turn, waiter)
    }

    /// Waits for the permit. Returns `false` if the guard was closed.
    fn acquire(&self, mut waiter: Option<WaiterId>) -> bool {
        if waiter.is_none() && self.semaphore.try_acquire(()).is_ok() {
            return true;
        }
        block_on(poll_fn(|cx| {
            if waiter.is_none() {
                match self.semaphore.enqueue((), cx.waker()) {
                    EnqueueOutcome::Acquired => return Poll::Ready(true),
                    EnqueueOutcome::Refused(_) => return Poll::Ready(false),
                    EnqueueOutcome::Queued(id) => waiter = Some(id),
                }
            }
            match self.semaphore.poll(&mut waiter, cx.waker()) {
                Some(outcome) => Poll::Ready(outcome == WaitOutcome::Acquired),
                None => Poll::Pending,
            }
        }))
    }

    /// Takes the parked turn, or takes the lock as soon as the lock is free.
    fn take_turn(&self) -> Turn {
        if let Some(turn) = self.parked.unpark_if(&name(), |_| true) {
            return turn;
        }
        while self.is_held.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            thread::yield_now();
        }
        Turn(Arc::clone(&self.is_held))
    }

    fn work(&self) {
        self.sum.store(self.sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Releases a permit with its turn.
    fn release(&self, turn: Turn) {
        if self.semaphore.waiting() == 0 {
            drop(turn);
            self.semaphore.release(|| None);
            return;
        }
        drop(self.parked.park(name(), turn));
        if self.semaphore.release(|| None) != ReleaseOutcome::PassedOn {
            self.clear();
        }
    }

    /// Ends a wait without a permit.
    fn leave(&self, waiter: WaiterId) {
        if self.semaphore.cancel(waiter, || None) == CancelOutcome::Released {
            self.clear();
        }
    }

    fn clear(&self) {
        drop(self.parked.unpark_if(&name(), |_| true));
    }

    /// Waits for the permit and the turn, works, and releases both. Returns the amount of work done.
    fn run(&self, waiter: Option<WaiterId>) -> usize {
        if !self.acquire(waiter) {
            return 0;
        }
        let turn = self.take_turn();
        self.work();
        self.release(turn);
        1
    }

    /// Checks that nothing is held once all callers have ended.
    fn assert_free_after(&self, work: usize) {
        assert_eq!(self.sum.load(Ordering::Relaxed), work);
        assert_eq!((self.parked.len(), self.semaphore.snapshot().held), (0, 0));
        assert!(!self.is_held.load(Ordering::Acquire), "the lock is still held in the store");
    }
}

/// Checks `model` with at most three preemptions per execution, as the models of the semaphore do.
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
fn turn_is_passed_on_to_the_caller_that_waits() {
    loom::model(|| {
        let (model, turn, waiter) = Model::held();
        let next = spawn(&model, move |model| model.run(Some(waiter)));
        model.work();
        model.release(turn);
        model.assert_free_after(1 + next.join().unwrap());
    });
}

#[test]
fn turn_is_released_if_its_caller_leaves() {
    loom::model(|| {
        let (model, turn, waiter) = Model::held();
        let leaving = spawn(&model, move |model| model.leave(waiter));
        model.work();
        model.release(turn);
        leaving.join().unwrap();
        model.assert_free_after(1);
    });
}

#[test]
fn turn_is_taken_or_released_if_one_caller_leaves_and_another_one_arrives() {
    check_bounded(|| {
        let (model, turn, waiter) = Model::held();
        let leaving = spawn(&model, move |model| model.leave(waiter));
        let coming = spawn(&model, |model| model.run(None));
        model.work();
        model.release(turn);
        leaving.join().unwrap();
        model.assert_free_after(1 + coming.join().unwrap());
    });
}

#[test]
fn turn_is_released_if_the_domain_is_disconnected_during_the_release() {
    loom::model(|| {
        let (model, turn, waiter) = Model::held();
        let next = spawn(&model, move |model| model.run(Some(waiter)));
        let disconnecting = spawn(&model, |model| drop(model.parked.close()));
        model.work();
        model.release(turn);
        disconnecting.join().unwrap();
        model.assert_free_after(1 + next.join().unwrap());
        assert!(model.parked.is_closed());
    });
}

/// The time of the cohort ends before the turn is parked, while the turn is parked, or after the turn is taken.
#[test]
fn turn_is_taken_or_released_at_the_end_of_the_cohort() {
    loom::model(|| {
        let (model, turn, waiter) = Model::held();
        let next = spawn(&model, move |model| model.run(Some(waiter)));
        let ending = spawn(&model, Model::clear);
        model.work();
        model.release(turn);
        ending.join().unwrap();
        model.assert_free_after(1 + next.join().unwrap());
    });
}

#[test]
fn turn_is_released_if_the_guard_is_closed_during_the_release() {
    loom::model(|| {
        let (model, turn, waiter) = Model::held();
        let next = spawn(&model, move |model| model.run(Some(waiter)));
        let closing = spawn(&model, |model| model.semaphore.close());
        model.work();
        model.release(turn);
        closing.join().unwrap();
        model.assert_free_after(1 + next.join().unwrap());
    });
}
