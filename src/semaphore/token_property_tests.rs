//! The lane of tokens beside a naive one, over random programs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::{TokenSemaphore, Tokens};
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, WaitOutcome, WaiterId};

/// One step of a program. The indices choose among the waiters or loans there are.
#[derive(Clone, Debug)]
enum Step {
    TryTake(usize),
    LineUp(usize),
    Ask(usize),
    Withdraw(usize),
    GiveUp(usize),
    GiveBack(usize),
    SetTotal(usize),
    Shut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..=4_usize).prop_map(Step::TryTake),
        8 => (1..=6_usize).prop_map(Step::LineUp),
        4 => any::<usize>().prop_map(Step::Ask),
        2 => any::<usize>().prop_map(Step::Withdraw),
        2 => any::<usize>().prop_map(Step::GiveUp),
        6 => any::<usize>().prop_map(Step::GiveBack),
        3 => (0..=8_usize).prop_map(Step::SetTotal),
        1 => prop::bool::weighted(0.1).prop_map(|shut| if shut { Step::Shut } else { Step::TryTake(1) }),
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
enum State {
    Waiting,
    Granted,
    Closed,
}

struct Waiter {
    id: usize,
    ticket: Option<WaiterId>,
    tokens: usize,
    state: State,
    wakes: Arc<Wakes>,
}

/// A lane and a naive one that does the same.
struct Pair {
    lane: TokenSemaphore,

    total: usize,
    is_closed: bool,
    /// What is lent, each with its number of tokens.
    loans: Vec<usize>,
    waiters: Vec<Waiter>,
    queue: VecDeque<usize>,
    arrivals: usize,
    queued: u64,
    cancelled: u64,
}

fn tokens(count: usize) -> Tokens {
    Tokens::new(count).expect("a small number")
}

impl Pair {
    fn new(total: usize) -> Self {
        Self {
            lane: TokenSemaphore::lending(total),
            total,
            is_closed: false,
            loans: Vec::new(),
            waiters: Vec::new(),
            queue: VecDeque::new(),
            arrivals: 0,
            queued: 0,
            cancelled: 0,
        }
    }

    fn free(&self) -> i64 {
        let set_aside = self.waiters.iter().filter(|waiter| waiter.state == State::Granted);
        let lent = self.loans.iter().sum::<usize>() + set_aside.map(|waiter| waiter.tokens).sum::<usize>();
        self.total as i64 - lent as i64
    }

    /// Serves the queue from the front, as far as it goes.
    fn serve(&mut self) {
        while let Some(id) = self.queue.front().copied() {
            let free = self.free();
            let waiter = self.waiters.iter_mut().find(|waiter| waiter.id == id).expect("whoever waits is there");
            if free < waiter.tokens as i64 {
                return;
            }
            waiter.state = State::Granted;
            self.queue.pop_front();
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::TryTake(count) => {
                let expected = if self.is_closed {
                    Err(Refused::Closed)
                } else if self.queue.is_empty() && self.free() >= count as i64 {
                    Ok(())
                } else {
                    Err(Refused::Busy)
                };
                assert_eq!(self.lane.try_take(tokens(count)), expected);
                if expected.is_ok() {
                    self.loans.push(count);
                }
            }
            Step::LineUp(count) => self.line_up(count),
            Step::Ask(who) => self.with_waiter(who, Self::ask),
            Step::Withdraw(who) => self.with_waiter(who, Self::withdraw),
            Step::GiveUp(who) => self.with_waiter(who, Self::give_up),
            Step::GiveBack(which) => {
                if !self.loans.is_empty() {
                    let count = self.loans.swap_remove(which % self.loans.len());
                    self.lane.give_back(tokens(count));
                    self.serve();
                }
            }
            Step::SetTotal(total) => {
                self.lane.set_total(total);
                self.total = total;
                self.serve();
            }
            Step::Shut => {
                self.lane.shut();
                self.is_closed = true;
                self.queue.clear();
                for waiter in self.waiters.iter_mut().filter(|waiter| waiter.state == State::Waiting) {
                    waiter.state = State::Closed;
                }
            }
        }
        self.compare();
    }

    fn with_waiter(&mut self, who: usize, f: impl FnOnce(&mut Self, usize)) {
        if !self.waiters.is_empty() {
            f(self, who % self.waiters.len());
        }
    }

    fn line_up(&mut self, count: usize) {
        let wakes = Arc::new(Wakes::default());
        match self.lane.line_up(tokens(count), &Waker::from(Arc::clone(&wakes))) {
            EnqueueOutcome::Entered => {
                assert!(!self.is_closed && self.queue.is_empty() && self.free() >= count as i64);
                self.loans.push(count);
            }
            EnqueueOutcome::Refused(refused) => {
                assert_eq!(refused, Refused::Closed);
                assert!(self.is_closed);
            }
            EnqueueOutcome::Queued(ticket) => {
                assert!(!self.is_closed && (!self.queue.is_empty() || self.free() < count as i64));
                let (id, ticket) = (self.arrivals, Some(ticket));
                self.waiters.push(Waiter { id, ticket, tokens: count, state: State::Waiting, wakes });
                self.queue.push_back(id);
                self.queued += 1;
            }
        }
        self.arrivals += 1;
    }

    fn ask(&mut self, at: usize) {
        let waiter = &mut self.waiters[at];
        let answer = self.lane.ask(&mut waiter.ticket, &Waker::from(Arc::clone(&waiter.wakes)));
        match waiter.state {
            State::Waiting => assert_eq!(answer, None),
            State::Granted => {
                assert_eq!(answer, Some(WaitOutcome::Entered));
                self.loans.push(self.waiters.swap_remove(at).tokens);
            }
            State::Closed => {
                assert_eq!(answer, Some(WaitOutcome::Closed));
                self.waiters.swap_remove(at);
            }
        }
    }

    fn withdraw(&mut self, at: usize) {
        let waiter = self.waiters.swap_remove(at);
        let gone = self.lane.withdraw(waiter.ticket.expect("it has not left"));
        let expected = match waiter.state {
            State::Waiting => CancelOutcome::Waiting,
            State::Granted => CancelOutcome::PassedOn,
            State::Closed => CancelOutcome::Refused,
        };
        assert_eq!(gone, expected);
        self.cancelled += u64::from(gone != CancelOutcome::Refused);
        self.queue.retain(|id| *id != waiter.id);
        self.serve();
    }

    fn give_up(&mut self, at: usize) {
        let waiter = self.waiters.swap_remove(at);
        let answer = self.lane.give_up(waiter.ticket.expect("it has not left"));
        let expected = match waiter.state {
            State::Waiting => None,
            State::Granted => Some(WaitOutcome::Entered),
            State::Closed => Some(WaitOutcome::Closed),
        };
        assert_eq!(answer, expected);
        if answer == Some(WaitOutcome::Entered) {
            self.loans.push(waiter.tokens);
        }
        self.queue.retain(|id| *id != waiter.id);
        self.serve();
    }

    fn compare(&self) {
        let now = self.lane.look_around();
        assert_eq!((now.total, now.free), (self.total, self.free()));
        assert_eq!((now.waiting, now.is_closed), (self.queue.len(), self.is_closed));
        for beside in 0..3 {
            let wanted = self.queue.len() > beside || self.free() < 0 || self.is_closed;
            assert_eq!(self.lane.wants_back(beside), wanted);
        }
        assert_eq!((self.lane.tally.queued.value(), self.lane.tally.cancelled.value()), (self.queued, self.cancelled));
        for waiter in &self.waiters {
            let woken = waiter.wakes.0.load(Ordering::Relaxed);
            assert_eq!(woken, usize::from(waiter.state != State::Waiting), "wakes of caller {}", waiter.id);
        }
    }

    /// Lets everybody go, in an order that the number decides.
    fn drain(&mut self, mut choice: usize) {
        while !self.loans.is_empty() || !self.waiters.is_empty() {
            choice = choice.rotate_right(3);
            self.take(&match choice % 4 {
                0 => Step::Withdraw(choice),
                1 => Step::Ask(choice),
                2 => Step::SetTotal(choice % 9),
                _ => Step::GiveBack(choice),
            });
            // Someone who waits for nobody: let it go.
            if self.loans.is_empty() {
                self.take(&Step::Withdraw(choice));
            }
        }
        let now = self.lane.look_around();
        assert_eq!((now.free, now.waiting), (now.total as i64, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lane_lends_as_a_naive_one_does(
        total in 0..=6_usize,
        program in prop::collection::vec(step(), 0..80),
        choice in any::<usize>(),
    ) {
        let mut pair = Pair::new(total);
        for step in &program {
            pair.take(step);
        }
        pair.drain(choice);
    }
}

#[test]
fn numbers_at_the_ends_of_their_range_stay_whole() {
    use crate::semaphore::MAX_TOKENS;

    let all = tokens(MAX_TOKENS);
    assert_eq!((Tokens::new(0), Tokens::new(MAX_TOKENS + 1)), (None, None));
    let lane = TokenSemaphore::lending(MAX_TOKENS);
    assert_eq!(lane.try_take(all), Ok(()));
    assert_eq!(lane.try_take(Tokens::ONE), Err(Refused::Busy));
    lane.set_total(0);
    assert_eq!(lane.look_around().free, -(MAX_TOKENS as i64));
    let EnqueueOutcome::Queued(ticket) = lane.line_up(all, Waker::noop()) else { panic!("nothing is free") };
    lane.give_back(all);
    assert_eq!((lane.look_around().free, lane.look_around().waiting), (0, 1));
    lane.set_total(MAX_TOKENS - 1);
    assert_eq!(lane.look_around().waiting, 1);
    lane.set_total(MAX_TOKENS);
    assert_eq!((lane.look_around().free, lane.look_around().waiting), (0, 0));
    assert_eq!(lane.withdraw(ticket), CancelOutcome::PassedOn);
    assert_eq!(lane.look_around().free, MAX_TOKENS as i64);
}
