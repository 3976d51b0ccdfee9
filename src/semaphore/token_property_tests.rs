//! Compares the token semaphore with a naive one over random programs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::{TokenSemaphore, Tokens};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, SemaphoreRefusal, WaitOutcome, WaiterId};

/// One step of a program. An index selects one of the existing waiters or holders.
#[derive(Clone, Debug)]
enum Step {
    TryAcquire(usize),
    Enqueue(usize),
    Poll(usize),
    Cancel(usize),
    PollFinal(usize),
    Release(usize),
    Forget(usize),
    SetTotal(usize),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..=4_usize).prop_map(Step::TryAcquire),
        8 => (1..=6_usize).prop_map(Step::Enqueue),
        4 => any::<usize>().prop_map(Step::Poll),
        2 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::PollFinal),
        6 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Forget),
        3 => (0..=8_usize).prop_map(Step::SetTotal),
        1 => prop::bool::weighted(0.1).prop_map(|close| if close { Step::Close } else { Step::TryAcquire(1) }),
    ]
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NaiveState {
    Waiting,
    Granted,
    Closed,
}

struct Waiter {
    number: usize,
    id: Option<WaiterId>,
    tokens: usize,
    state: NaiveState,
    wakes: Arc<Wakes>,
}

/// A semaphore, and a naive one that must behave in the same way.
struct Pair {
    semaphore: TokenSemaphore,

    total: usize,
    is_closed: bool,
    /// The number of tokens of each holder.
    holders: Vec<usize>,
    waiters: Vec<Waiter>,
    queue: VecDeque<usize>,
    enqueues: usize,
    queued: u64,
    cancelled: u64,
}

fn tokens(count: usize) -> Tokens {
    Tokens::new(count).expect("a small number")
}

impl Pair {
    fn new(total: usize) -> Self {
        Self {
            semaphore: TokenSemaphore::with_total(total),
            total,
            is_closed: false,
            holders: Vec::new(),
            waiters: Vec::new(),
            queue: VecDeque::new(),
            enqueues: 0,
            queued: 0,
            cancelled: 0,
        }
    }

    fn available(&self) -> i64 {
        let granted = self.waiters.iter().filter(|waiter| waiter.state == NaiveState::Granted);
        let held = self.holders.iter().sum::<usize>() + granted.map(|waiter| waiter.tokens).sum::<usize>();
        self.total as i64 - held as i64
    }

    /// Grants tokens from the front of the queue while enough of them are available.
    fn grant(&mut self) {
        while let Some(number) = self.queue.front().copied() {
            let available = self.available();
            let mut waiters = self.waiters.iter_mut();
            let waiter = waiters.find(|waiter| waiter.number == number).expect("the queue contains existing waiters");
            if available < waiter.tokens as i64 {
                return;
            }
            waiter.state = NaiveState::Granted;
            self.queue.pop_front();
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::TryAcquire(count) => {
                let expected = if self.is_closed {
                    Err(SemaphoreRefusal::Closed)
                } else if self.queue.is_empty() && self.available() >= count as i64 {
                    Ok(())
                } else {
                    Err(SemaphoreRefusal::Busy)
                };
                assert_eq!(self.semaphore.try_acquire(tokens(count)), expected);
                if expected.is_ok() {
                    self.holders.push(count);
                }
            }
            Step::Enqueue(count) => self.enqueue(count),
            Step::Poll(index) => self.with_waiter(index, Self::poll),
            Step::Cancel(index) => self.with_waiter(index, Self::cancel),
            Step::PollFinal(index) => self.with_waiter(index, Self::poll_final),
            Step::Release(index) => {
                if !self.holders.is_empty() {
                    let count = self.holders.swap_remove(index % self.holders.len());
                    self.semaphore.release(tokens(count));
                    self.grant();
                }
            }
            Step::Forget(index) => {
                if !self.holders.is_empty() {
                    let count = self.holders.swap_remove(index % self.holders.len());
                    self.semaphore.forget(tokens(count));
                    self.total = self.total.saturating_sub(count);
                    // Forgetting makes no token available. `compare` finds a waiter that got one.
                }
            }
            Step::SetTotal(total) => {
                self.semaphore.set_total(total);
                self.total = total;
                self.grant();
            }
            Step::Close => {
                self.semaphore.close();
                self.is_closed = true;
                self.queue.clear();
                for waiter in self.waiters.iter_mut().filter(|waiter| waiter.state == NaiveState::Waiting) {
                    waiter.state = NaiveState::Closed;
                }
            }
        }
        self.compare();
    }

    fn with_waiter(&mut self, index: usize, f: impl FnOnce(&mut Self, usize)) {
        if !self.waiters.is_empty() {
            f(self, index % self.waiters.len());
        }
    }

    fn enqueue(&mut self, count: usize) {
        let wakes = Arc::new(Wakes::default());
        match self.semaphore.enqueue(tokens(count), &Waker::from(Arc::clone(&wakes))) {
            EnqueueOutcome::Acquired => {
                assert!(!self.is_closed && self.queue.is_empty() && self.available() >= count as i64);
                self.holders.push(count);
            }
            EnqueueOutcome::Refused(refused) => {
                assert_eq!(refused, SemaphoreRefusal::Closed);
                assert!(self.is_closed);
            }
            EnqueueOutcome::Queued(id) => {
                assert!(!self.is_closed && (!self.queue.is_empty() || self.available() < count as i64));
                let (number, id) = (self.enqueues, Some(id));
                self.waiters.push(Waiter { number, id, tokens: count, state: NaiveState::Waiting, wakes });
                self.queue.push_back(number);
                self.queued += 1;
            }
        }
        self.enqueues += 1;
    }

    fn poll(&mut self, at: usize) {
        let waiter = &mut self.waiters[at];
        let outcome = self.semaphore.poll(&mut waiter.id, &Waker::from(Arc::clone(&waiter.wakes)));
        match waiter.state {
            NaiveState::Waiting => assert_eq!(outcome, None),
            NaiveState::Granted => {
                assert_eq!(outcome, Some(WaitOutcome::Acquired));
                self.holders.push(self.waiters.swap_remove(at).tokens);
            }
            NaiveState::Closed => {
                assert_eq!(outcome, Some(WaitOutcome::Closed));
                self.waiters.swap_remove(at);
            }
        }
    }

    fn cancel(&mut self, at: usize) {
        let waiter = self.waiters.swap_remove(at);
        let outcome = self.semaphore.cancel(waiter.id.expect("it was not removed"), || None);
        let expected = match waiter.state {
            NaiveState::Waiting => CancelOutcome::Dequeued,
            NaiveState::Granted => CancelOutcome::Released,
            NaiveState::Closed => CancelOutcome::AlreadyEnded,
        };
        assert_eq!(outcome, expected);
        self.cancelled += u64::from(outcome != CancelOutcome::AlreadyEnded);
        self.queue.retain(|number| *number != waiter.number);
        self.grant();
    }

    fn poll_final(&mut self, at: usize) {
        let waiter = self.waiters.swap_remove(at);
        let outcome = self.semaphore.poll_final(waiter.id.expect("it was not removed"));
        let expected = match waiter.state {
            NaiveState::Waiting => None,
            NaiveState::Granted => Some(WaitOutcome::Acquired),
            NaiveState::Closed => Some(WaitOutcome::Closed),
        };
        assert_eq!(outcome, expected);
        if outcome == Some(WaitOutcome::Acquired) {
            self.holders.push(waiter.tokens);
        }
        self.queue.retain(|number| *number != waiter.number);
        self.grant();
    }

    fn compare(&self) {
        let now = self.semaphore.snapshot();
        assert_eq!((now.total, now.available), (self.total, self.available()));
        assert_eq!((now.waiting, now.is_closed), (self.queue.len(), self.is_closed));
        for own_waiters in 0..3 {
            let expected = self.queue.len() > own_waiters || self.available() < 0 || self.is_closed;
            assert_eq!(self.semaphore.should_release(own_waiters), expected);
        }
        let counters = &self.semaphore.counters;
        assert_eq!((counters.queued.value(), counters.cancelled.value()), (self.queued, self.cancelled));
        for waiter in &self.waiters {
            let woken = waiter.wakes.0.load(Ordering::Relaxed);
            assert_eq!(woken, usize::from(waiter.state != NaiveState::Waiting), "wakes of waiter {}", waiter.number);
        }
    }

    /// Removes every waiter and holder, in an order that `choice` decides.
    fn drain(&mut self, mut choice: usize) {
        while !self.holders.is_empty() || !self.waiters.is_empty() {
            choice = choice.rotate_right(3);
            self.apply(&match choice % 4 {
                0 => Step::Cancel(choice),
                1 => Step::Poll(choice),
                2 => Step::SetTotal(choice % 9),
                _ => Step::Release(choice),
            });
            // While there are no holders, a waiter may wait forever: cancel it.
            if self.holders.is_empty() {
                self.apply(&Step::Cancel(choice));
            }
        }
        let now = self.semaphore.snapshot();
        assert_eq!((now.available, now.waiting), (now.total as i64, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_semaphore_behaves_like_a_naive_one(
        total in 0..=6_usize,
        program in prop::collection::vec(step(), 0..80),
        choice in any::<usize>(),
    ) {
        let mut pair = Pair::new(total);
        for step in &program {
            pair.apply(step);
        }
        pair.drain(choice);
    }
}

#[test]
fn numbers_at_the_ends_of_their_range_neither_carry_nor_borrow() {
    use crate::semaphore::MAX_TOKENS;

    let all = tokens(MAX_TOKENS);
    assert_eq!((Tokens::new(0), Tokens::new(MAX_TOKENS + 1)), (None, None));
    let semaphore = TokenSemaphore::with_total(MAX_TOKENS);
    assert_eq!(semaphore.try_acquire(all), Ok(()));
    assert_eq!(semaphore.try_acquire(Tokens::ONE), Err(SemaphoreRefusal::Busy));
    semaphore.set_total(0);
    assert_eq!(semaphore.snapshot().available, -(MAX_TOKENS as i64));
    let EnqueueOutcome::Queued(waiter) = semaphore.enqueue(all, Waker::noop()) else { panic!("no token is available") };
    semaphore.release(all);
    assert_eq!((semaphore.snapshot().available, semaphore.snapshot().waiting), (0, 1));
    semaphore.set_total(MAX_TOKENS - 1);
    assert_eq!(semaphore.snapshot().waiting, 1);
    semaphore.set_total(MAX_TOKENS);
    assert_eq!((semaphore.snapshot().available, semaphore.snapshot().waiting), (0, 0));
    assert_eq!(semaphore.cancel(waiter, || None), CancelOutcome::Released);
    assert_eq!(semaphore.snapshot().available, MAX_TOKENS as i64);
}
