//! Models of the lane of tokens, checked by loom over every interleaving.
//!
//! As in the models of the lane of permits, what callers do with what they borrowed is a read and a write of a `Relaxed`
//! counter, which orders nothing by itself.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::poll_fn;
use std::task::{Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::{TokenSemaphore, Tokens};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome, WaiterId};

struct Shared {
    lane: TokenSemaphore,
    sum: AtomicUsize,
}

fn tokens(count: usize) -> Tokens {
    Tokens::new(count).unwrap()
}

impl Shared {
    fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { lane: TokenSemaphore::lending(total), sum: AtomicUsize::new(0) })
    }

    /// A lane of so many tokens, which the model's main thread has all.
    fn lent(total: usize) -> Arc<Self> {
        let shared = Self::new(total);
        assert_eq!(shared.lane.try_take(tokens(total)), Ok(()));
        shared
    }

    /// Waits as the futures and the blocking callers do. `false` if the lane was closed.
    fn borrow(&self, count: usize) -> bool {
        if self.lane.try_take(tokens(count)).is_ok() {
            return true;
        }
        let mut place = None;
        block_on(poll_fn(|cx| {
            if place.is_some() {
                return match self.lane.ask(&mut place, cx.waker()) {
                    Some(answer) => Poll::Ready(answer == WaitOutcome::Entered),
                    None => Poll::Pending,
                };
            }
            match self.lane.line_up(tokens(count), cx.waker()) {
                EnqueueOutcome::Entered => Poll::Ready(true),
                EnqueueOutcome::Refused(_) => Poll::Ready(false),
                EnqueueOutcome::Queued(ticket) => {
                    place = Some(ticket);
                    Poll::Pending
                }
            }
        }))
    }

    /// Borrows, works, and gives back.
    fn visit(&self, count: usize) {
        assert!(self.borrow(count));
        self.work();
        self.lane.give_back(tokens(count));
    }

    fn queue(&self, count: usize) -> WaiterId {
        match self.lane.line_up(tokens(count), Waker::noop()) {
            EnqueueOutcome::Queued(ticket) => ticket,
            joined => panic!("too few are free, so one waits: {joined:?}"),
        }
    }

    fn work(&self) {
        self.sum.store(self.sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn assert_idle_after(&self, turns: usize) {
        let now = self.lane.look_around();
        assert_eq!((now.free, now.waiting), (now.total as i64, 0));
        assert_eq!(self.sum.load(Ordering::Relaxed), turns);
    }
}

/// Checks `model` with at most three preemptions an execution, as the models of the lane of permits do.
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
fn a_caller_that_comes_as_tokens_come_back_gets_them() {
    loom::model(|| {
        let shared = Shared::lent(2);
        let caller = spawn(&shared, |shared| shared.visit(2));
        shared.work();
        shared.lane.give_back(tokens(2));
        caller.join().unwrap();
        shared.assert_idle_after(2);
    });
}

#[test]
fn tokens_that_come_back_one_by_one_add_up_for_who_waits_for_both() {
    check_bounded(|| {
        let shared = Shared::new(2);
        assert_eq!(shared.lane.try_take(Tokens::ONE), Ok(()));
        assert_eq!(shared.lane.try_take(Tokens::ONE), Ok(()));
        let heavy = spawn(&shared, |shared| shared.visit(2));
        let other = spawn(&shared, |shared| shared.lane.give_back(Tokens::ONE));
        shared.work();
        shared.lane.give_back(Tokens::ONE);
        other.join().unwrap();
        heavy.join().unwrap();
        shared.assert_idle_after(2);
    });
}

#[test]
fn callers_for_all_tokens_exclude_each_other() {
    check_bounded(|| {
        let shared = Shared::new(2);
        let others = [spawn(&shared, |shared| shared.visit(2)), spawn(&shared, |shared| shared.visit(2))];
        shared.visit(2);
        for other in others {
            other.join().unwrap();
        }
        shared.assert_idle_after(3);
    });
}

#[test]
fn a_caller_that_leaves_as_its_turn_comes_passes_all_its_tokens_on() {
    check_bounded(|| {
        let shared = Shared::lent(2);
        let place = shared.queue(2);
        let leaver = spawn(&shared, |shared| shared.lane.withdraw(place));
        let next = spawn(&shared, |shared| shared.visit(1));
        shared.work();
        shared.lane.give_back(tokens(2));
        assert_ne!(leaver.join().unwrap(), CancelOutcome::Refused);
        next.join().unwrap();
        shared.assert_idle_after(2);
    });
}

#[test]
fn the_end_of_a_pause_reaches_who_comes_meanwhile() {
    loom::model(|| {
        let shared = Shared::new(0);
        let caller = spawn(&shared, |shared| shared.visit(1));
        shared.lane.set_total(1);
        caller.join().unwrap();
        shared.assert_idle_after(1);
    });
}

#[test]
fn a_total_that_changes_as_tokens_come_and_go_is_kept_to() {
    loom::model(|| {
        let shared = Shared::lent(1);
        let changer = spawn(&shared, |shared| {
            shared.lane.set_total(0);
            shared.lane.set_total(2);
        });
        shared.work();
        shared.lane.give_back(Tokens::ONE);
        changer.join().unwrap();
        assert_eq!(shared.lane.look_around().total, 2);
        shared.assert_idle_after(1);
    });
}

#[test]
fn a_total_that_shrinks_as_a_token_is_taken_lends_none_beyond_it() {
    loom::model(|| {
        let shared = Shared::new(1);
        let changer = spawn(&shared, |shared| {
            shared.lane.set_total(0);
            // Whoever got the token did so before.
            let free = shared.lane.look_around().free;
            (free, shared.lane.try_take(Tokens::ONE))
        });
        let taken = shared.lane.try_take(Tokens::ONE).is_ok();
        let (free, late) = changer.join().unwrap();
        assert_eq!((free, late), (-i64::from(taken), Err(Refused::Busy)));
    });
}

#[test]
fn a_heavy_caller_in_front_that_leaves_as_tokens_come_back_lets_the_light_ones_in() {
    check_bounded(|| {
        let shared = Shared::lent(1);
        // It waits for more than there is.
        let heavy = shared.queue(2);
        let leaver = spawn(&shared, |shared| shared.lane.withdraw(heavy));
        let light = spawn(&shared, |shared| shared.visit(1));
        shared.work();
        shared.lane.give_back(Tokens::ONE);
        assert_eq!(leaver.join().unwrap(), CancelOutcome::Waiting);
        light.join().unwrap();
        shared.assert_idle_after(2);
    });
}

#[test]
fn a_heavy_caller_in_front_that_gives_up_as_one_joins_lets_it_in() {
    loom::model(|| {
        let shared = Shared::new(1);
        let heavy = shared.queue(2);
        let light = spawn(&shared, |shared| shared.visit(1));
        assert_eq!(shared.lane.give_up(heavy), None);
        light.join().unwrap();
        shared.assert_idle_after(1);
    });
}

#[test]
fn shutting_as_one_lines_up_leaves_nobody_waiting() {
    check_bounded(|| {
        let shared = Shared::lent(1);
        let caller = spawn(&shared, |shared| {
            let lent = shared.borrow(1);
            if lent {
                shared.lane.give_back(Tokens::ONE);
            }
        });
        let closer = spawn(&shared, |shared| shared.lane.shut());
        shared.lane.give_back(Tokens::ONE);
        caller.join().unwrap();
        closer.join().unwrap();
        shared.assert_idle_after(0);
    });
}
