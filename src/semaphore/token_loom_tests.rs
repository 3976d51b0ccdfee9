//! Models of the token semaphore, checked by loom over every interleaving.
//!
//! As in the models of the permit semaphore, a holder's work is a read and a write of a `Relaxed` counter, which orders
//! nothing on its own.

#![allow(clippy::unwrap_used, reason = "a test fails at the first unexpected result")]

use std::future::poll_fn;
use std::task::{Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::{TokenSemaphore, Tokens};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, SemaphoreRefusal, WaitOutcome, WaiterId};

struct Model {
    semaphore: TokenSemaphore,
    sum: AtomicUsize,
}

fn tokens(count: usize) -> Tokens {
    Tokens::new(count).unwrap()
}

impl Model {
    fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { semaphore: TokenSemaphore::with_total(total), sum: AtomicUsize::new(0) })
    }

    /// Creates a semaphore whose `total` tokens the model's main thread holds.
    fn held(total: usize) -> Arc<Self> {
        let model = Self::new(total);
        assert_eq!(model.semaphore.try_acquire(tokens(total)), Ok(()));
        model
    }

    /// Acquires tokens, as the futures and the blocking callers do. Returns `false` if the semaphore was closed.
    fn acquire(&self, count: usize) -> bool {
        if self.semaphore.try_acquire(tokens(count)).is_ok() {
            return true;
        }
        let mut waiter = None;
        block_on(poll_fn(|cx| {
            if waiter.is_some() {
                return match self.semaphore.poll(&mut waiter, cx.waker()) {
                    Some(outcome) => Poll::Ready(outcome == WaitOutcome::Acquired),
                    None => Poll::Pending,
                };
            }
            match self.semaphore.enqueue(tokens(count), cx.waker()) {
                EnqueueOutcome::Acquired => Poll::Ready(true),
                EnqueueOutcome::Refused(_) => Poll::Ready(false),
                EnqueueOutcome::Queued(id) => {
                    waiter = Some(id);
                    Poll::Pending
                }
            }
        }))
    }

    /// Acquires, works and releases.
    fn run(&self, count: usize) {
        assert!(self.acquire(count));
        self.work();
        self.semaphore.release(tokens(count));
    }

    fn enqueue(&self, count: usize) -> WaiterId {
        match self.semaphore.enqueue(tokens(count), Waker::noop()) {
            EnqueueOutcome::Queued(waiter) => waiter,
            outcome => panic!("the caller must be queued, because too few tokens are available: {outcome:?}"),
        }
    }

    fn work(&self) {
        self.sum.store(self.sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn assert_idle_after(&self, runs: usize) {
        let now = self.semaphore.snapshot();
        assert_eq!((now.available, now.waiting), (now.total as i64, 0));
        assert_eq!(self.sum.load(Ordering::Relaxed), runs);
    }
}

/// Checks `model` with at most three preemptions per execution, as the models of the permit semaphore do.
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
fn caller_that_arrives_during_a_release_acquires_the_tokens() {
    loom::model(|| {
        let model = Model::held(2);
        let caller = spawn(&model, |model| model.run(2));
        model.work();
        model.semaphore.release(tokens(2));
        caller.join().unwrap();
        model.assert_idle_after(2);
    });
}

#[test]
fn tokens_released_one_by_one_add_up_for_a_waiter_that_needs_both() {
    check_bounded(|| {
        let model = Model::new(2);
        assert_eq!(model.semaphore.try_acquire(Tokens::ONE), Ok(()));
        assert_eq!(model.semaphore.try_acquire(Tokens::ONE), Ok(()));
        let heavy = spawn(&model, |model| model.run(2));
        let other = spawn(&model, |model| model.semaphore.release(Tokens::ONE));
        model.work();
        model.semaphore.release(Tokens::ONE);
        other.join().unwrap();
        heavy.join().unwrap();
        model.assert_idle_after(2);
    });
}

#[test]
fn callers_for_all_tokens_exclude_each_other() {
    check_bounded(|| {
        let model = Model::new(2);
        let callers = [spawn(&model, |model| model.run(2)), spawn(&model, |model| model.run(2))];
        model.run(2);
        for caller in callers {
            caller.join().unwrap();
        }
        model.assert_idle_after(3);
    });
}

#[test]
fn caller_cancelled_during_its_grant_releases_all_its_tokens() {
    check_bounded(|| {
        let model = Model::held(2);
        let waiter = model.enqueue(2);
        let cancelled = spawn(&model, |model| model.semaphore.cancel(waiter, || None));
        let next = spawn(&model, |model| model.run(1));
        model.work();
        model.semaphore.release(tokens(2));
        assert_ne!(cancelled.join().unwrap(), CancelOutcome::AlreadyEnded);
        next.join().unwrap();
        model.assert_idle_after(2);
    });
}

#[test]
fn total_that_grows_from_zero_reaches_a_caller_that_arrives_meanwhile() {
    loom::model(|| {
        let model = Model::new(0);
        let caller = spawn(&model, |model| model.run(1));
        model.semaphore.set_total(1);
        caller.join().unwrap();
        model.assert_idle_after(1);
    });
}

#[test]
fn total_that_changes_during_a_release_takes_effect() {
    loom::model(|| {
        let model = Model::held(1);
        let changer = spawn(&model, |model| {
            model.semaphore.set_total(0);
            model.semaphore.set_total(2);
        });
        model.work();
        model.semaphore.release(Tokens::ONE);
        changer.join().unwrap();
        assert_eq!(model.semaphore.snapshot().total, 2);
        model.assert_idle_after(1);
    });
}

#[test]
fn total_that_shrinks_during_an_acquire_is_not_exceeded_afterwards() {
    loom::model(|| {
        let model = Model::new(1);
        let changer = spawn(&model, |model| {
            model.semaphore.set_total(0);
            // If the main thread acquired the token, it did so before this point.
            let available = model.semaphore.snapshot().available;
            (available, model.semaphore.try_acquire(Tokens::ONE))
        });
        let acquired = model.semaphore.try_acquire(Tokens::ONE).is_ok();
        let (available, late) = changer.join().unwrap();
        assert_eq!((available, late), (-i64::from(acquired), Err(SemaphoreRefusal::Busy)));
    });
}

#[test]
fn heavy_waiter_cancelled_during_a_release_lets_lighter_ones_acquire() {
    check_bounded(|| {
        let model = Model::held(1);
        // The heavy waiter waits for more tokens than exist.
        let heavy = model.enqueue(2);
        let cancelled = spawn(&model, |model| model.semaphore.cancel(heavy, || None));
        let light = spawn(&model, |model| model.run(1));
        model.work();
        model.semaphore.release(Tokens::ONE);
        assert_eq!(cancelled.join().unwrap(), CancelOutcome::Dequeued);
        light.join().unwrap();
        model.assert_idle_after(2);
    });
}

#[test]
fn final_poll_of_a_heavy_waiter_during_an_enqueue_lets_the_new_caller_acquire() {
    loom::model(|| {
        let model = Model::new(1);
        let heavy = model.enqueue(2);
        let light = spawn(&model, |model| model.run(1));
        assert_eq!(model.semaphore.poll_final(heavy), None);
        light.join().unwrap();
        model.assert_idle_after(1);
    });
}

#[test]
fn close_during_an_enqueue_leaves_no_waiter() {
    check_bounded(|| {
        let model = Model::held(1);
        let caller = spawn(&model, |model| {
            if model.acquire(1) {
                model.semaphore.release(Tokens::ONE);
            }
        });
        let closer = spawn(&model, |model| model.semaphore.close());
        model.semaphore.release(Tokens::ONE);
        caller.join().unwrap();
        closer.join().unwrap();
        model.assert_idle_after(0);
    });
}
