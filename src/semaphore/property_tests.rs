//! The lane beside a naive queue, over random programs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    CARRY_EVERY, CancelOutcome, EnqueueOutcome, Order, Refused, Semaphore, SemaphoreConfig, SemaphoreSnapshot,
    WaitOutcome, WaiterId,
};

/// One step of a program. The indices choose among the waiters there are.
#[derive(Clone, Debug)]
enum Step {
    TryEnter,
    Arrive,
    /// Asks with the waker of last time, or with a fresh one.
    Poll(usize, bool),
    Leave(usize),
    GiveUp(usize),
    Exit,
    Close,
    /// Takes back the grants that are at least so many steps old.
    Expire(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::TryEnter),
        8 => Just(Step::Arrive),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(who, fresh)| Step::Poll(who, fresh)),
        2 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::GiveUp),
        6 => Just(Step::Exit),
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Step::Close } else { Step::TryEnter }),
        1 => (1..6_u64).prop_map(Step::Expire),
    ]
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the naive queue says about a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Granted { at: u64 },
    Expired,
    Closed,
}

struct Waiter {
    ticket: Option<WaiterId>,
    /// Index of its latest waker.
    waker: usize,
    state: State,
}

/// A lane and a naive queue that does the same.
struct Pair {
    lane: Semaphore,
    epoch: Instant,
    now: u64,

    permits: usize,
    bound: usize,
    order: Order,
    is_closed: bool,
    holders: usize,
    /// Those that waited and have not gone, by number. They stay in the list when their turn comes.
    waiters: Vec<(usize, Waiter)>,
    queue: VecDeque<usize>,
    granted: VecDeque<usize>,
    /// Each waker that was ever given, with how often it is to have been woken.
    wakers: Vec<(Arc<Wakes>, usize)>,

    arrivals: usize,
    turns: u64,
    queued: u64,
    cancelled: u64,
}

impl Pair {
    fn new(permits: usize, bound: usize, order: Order) -> Self {
        Self {
            lane: Semaphore::new(SemaphoreConfig { permits, bound, order }),
            epoch: Instant::now(),
            now: 0,
            permits,
            bound,
            order,
            is_closed: false,
            holders: 0,
            waiters: Vec::new(),
            queue: VecDeque::new(),
            granted: VecDeque::new(),
            wakers: Vec::new(),
            arrivals: 0,
            turns: 0,
            queued: 0,
            cancelled: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::TryEnter => self.try_enter(),
            Step::Arrive => self.arrive(),
            Step::Poll(who, fresh) => self.with_waiter(who, |pair, at| pair.poll(at, fresh)),
            Step::Leave(who) => self.with_waiter(who, Self::leave),
            Step::GiveUp(who) => self.with_waiter(who, Self::give_up),
            Step::Exit => {
                if self.holders > 0 {
                    self.exit();
                }
            }
            Step::Close => self.close(),
            Step::Expire(age) => self.expire(age),
        }
        self.compare();
    }

    fn with_waiter(&mut self, who: usize, f: impl FnOnce(&mut Self, usize)) {
        if !self.waiters.is_empty() {
            f(self, who % self.waiters.len());
        }
    }

    fn instant(&self, step: u64) -> Instant {
        self.epoch + Duration::from_secs(step)
    }

    fn held(&self) -> usize {
        self.holders + self.granted.len()
    }

    fn has_room(&self) -> bool {
        self.held() < self.permits && self.queue.is_empty()
    }

    fn fresh_waker(&mut self) -> (usize, Waker) {
        let wakes = Arc::new(Wakes::default());
        self.wakers.push((Arc::clone(&wakes), 0));
        (self.wakers.len() - 1, Waker::from(wakes))
    }

    fn waiter(&mut self, id: usize) -> &mut Waiter {
        let found = self.waiters.iter_mut().find(|(known, _)| *known == id);
        &mut found.expect("the naive queue names waiters that are there").1
    }

    fn wake(&mut self, id: usize) {
        let waker = self.waiter(id).waker;
        self.wakers[waker].1 += 1;
    }

    /// A permit has come back.
    fn hand_over(&mut self) {
        let next = match self.order {
            Order::Fifo => self.queue.pop_front(),
            Order::Lifo => self.queue.pop_back(),
        };
        if let Some(id) = next {
            let at = self.now;
            self.waiter(id).state = State::Granted { at };
            self.granted.push_back(id);
            self.turns += 1;
            self.wake(id);
        }
    }

    fn try_enter(&mut self) {
        let expected = match (self.is_closed, self.has_room()) {
            (true, _) => Err(Refused::Closed),
            (_, true) => Ok(()),
            _ => Err(Refused::Busy),
        };
        assert_eq!(self.lane.try_enter(), expected);
        if expected.is_ok() {
            self.holders += 1;
            self.turns += 1;
        }
    }

    fn arrive(&mut self) {
        let (waker, given) = self.fresh_waker();
        match self.lane.join(&given) {
            EnqueueOutcome::Entered => {
                assert!(!self.is_closed && self.has_room());
                self.holders += 1;
                self.turns += 1;
            }
            EnqueueOutcome::Refused(refused) => {
                let expected = match (self.is_closed, self.bound) {
                    (true, _) => Refused::Closed,
                    (_, 0) => Refused::Busy,
                    _ => Refused::Full,
                };
                assert_eq!(refused, expected);
                assert!(self.is_closed || !self.has_room() && self.queue.len() == self.bound);
            }
            EnqueueOutcome::Queued(ticket) => {
                assert!(!self.is_closed && !self.has_room() && self.queue.len() < self.bound);
                let id = self.arrivals;
                self.waiters.push((id, Waiter { ticket: Some(ticket), waker, state: State::Waiting }));
                self.queue.push_back(id);
                self.queued += 1;
            }
        }
        self.arrivals += 1;
    }

    fn poll(&mut self, at: usize, fresh: bool) {
        let mut waker = self.waiters[at].1.waker;
        let mut given = Waker::from(Arc::clone(&self.wakers[waker].0));
        if fresh {
            (waker, given) = self.fresh_waker();
        }
        let (id, waiter) = &mut self.waiters[at];
        let (id, state) = (*id, waiter.state);
        let answer = self.lane.ask(&mut waiter.ticket, &given);
        assert_eq!(waiter.ticket.is_none(), answer.is_some());
        let expected = match state {
            State::Waiting => None,
            State::Granted { .. } => Some(WaitOutcome::Entered),
            State::Expired => Some(WaitOutcome::Expired),
            State::Closed => Some(WaitOutcome::Closed),
        };
        assert_eq!(answer, expected);
        waiter.waker = waker;
        if expected.is_some() {
            self.waiters.remove(at);
        }
        if expected == Some(WaitOutcome::Entered) {
            self.granted.retain(|granted| *granted != id);
            self.holders += 1;
        }
    }

    fn leave(&mut self, at: usize) {
        let now = self.instant(self.now);
        let (id, mut waiter) = self.waiters.remove(at);
        let gone = self.lane.leave(waiter.ticket.take().expect("it has not left"), || Some(now));
        let expected = match waiter.state {
            State::Waiting => CancelOutcome::Waiting,
            State::Granted { .. } => CancelOutcome::PassedOn,
            State::Expired | State::Closed => CancelOutcome::Refused,
        };
        assert_eq!(gone, expected);
        self.queue.retain(|queued| *queued != id);
        self.granted.retain(|granted| *granted != id);
        self.cancelled += u64::from(gone != CancelOutcome::Refused);
        if gone == CancelOutcome::PassedOn {
            self.hand_over();
        }
    }

    fn give_up(&mut self, at: usize) {
        let (id, mut waiter) = self.waiters.remove(at);
        let answer = self.lane.give_up(waiter.ticket.take().expect("it has not left"));
        let expected = match waiter.state {
            State::Waiting => None,
            State::Granted { .. } => Some(WaitOutcome::Entered),
            State::Expired => Some(WaitOutcome::Expired),
            State::Closed => Some(WaitOutcome::Closed),
        };
        assert_eq!(answer, expected);
        self.queue.retain(|queued| *queued != id);
        self.granted.retain(|granted| *granted != id);
        self.holders += usize::from(answer == Some(WaitOutcome::Entered));
    }

    fn exit(&mut self) {
        let now = self.instant(self.now);
        let drained = self.lane.exit(|| Some(now));
        self.holders -= 1;
        self.hand_over();
        assert_eq!(drained, self.is_closed && self.held() == 0);
    }

    fn close(&mut self) {
        let drained = self.lane.close();
        self.is_closed = true;
        while let Some(id) = self.queue.pop_front() {
            self.waiter(id).state = State::Closed;
            self.wake(id);
        }
        assert_eq!(drained, self.held() == 0);
    }

    fn expire(&mut self, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let (expired, oldest) = self.lane.expire_grants(self.instant(limit), self.instant(self.now));
        let mut due = 0;
        while let Some(id) = self.granted.front().copied()
            && let State::Granted { at } = self.waiter(id).state
            && at <= limit
        {
            self.granted.pop_front();
            self.waiter(id).state = State::Expired;
            self.hand_over();
            due += 1;
        }
        let stands = self.granted.front().copied().map(|id| match self.waiter(id).state {
            State::Granted { at } => at,
            state => panic!("granted, not {state:?}"),
        });
        assert_eq!((expired, oldest), (due, stands.map(|at| self.instant(at))));
    }

    fn compare(&self) {
        let expected = SemaphoreSnapshot {
            held: self.held(),
            waiting: self.queue.len(),
            granted: self.turns,
            is_closed: self.is_closed,
        };
        assert_eq!(self.lane.snapshot(), expected);
        assert_eq!((self.lane.tally.queued.value(), self.lane.tally.cancelled.value()), (self.queued, self.cancelled));
        assert_eq!(self.lane.is_drained(), self.is_closed && self.held() == 0);
        for (number, (wakes, expected)) in self.wakers.iter().enumerate() {
            assert_eq!(wakes.0.load(Ordering::Relaxed), *expected, "wakes of waker {number}");
        }
    }

    /// Lets everybody go, in an order that the number decides.
    fn drain(&mut self, mut choice: usize) {
        while self.held() > 0 || !self.waiters.is_empty() {
            choice = choice.rotate_right(3);
            let step = match choice % 4 {
                0 => Step::Leave(choice),
                1 => Step::Poll(choice, false),
                _ => Step::Exit,
            };
            self.take(&step);
            // A waiter of which nothing came yet waits for a holder: let that one go.
            if self.holders > 0 {
                self.take(&Step::Exit);
            }
        }
        let SemaphoreSnapshot { held, waiting, .. } = self.lane.snapshot();
        assert_eq!((held, waiting), (0, 0));
        for (wakes, _) in &self.wakers {
            assert_eq!(Arc::strong_count(wakes), 1, "the lane keeps a waker of someone who has gone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lane_does_what_a_naive_queue_does(
        permits in 1..=4_usize,
        bound in 0..=5_usize,
        lifo in any::<bool>(),
        program in prop::collection::vec(step(), 0..80),
        choice in any::<usize>(),
    ) {
        let order = if lifo { Order::Lifo } else { Order::Fifo };
        let mut pair = Pair::new(permits, bound, order);
        for step in &program {
            pair.take(step);
        }
        pair.drain(choice);
    }
}

/// Makes the lane believe that so many more turns were given, none of which was due for a carry.
fn skip_turns(lane: &Semaphore, turns: u64) {
    lane.word.skip_turns(turns);
}

/// A thread may be kept from carrying until another has carried the next quarter.
#[test]
fn a_carry_that_comes_late_changes_nothing() {
    let lane = Semaphore::new(SemaphoreConfig { permits: 2, bound: 1, order: Order::Fifo });
    skip_turns(&lane, 2 * CARRY_EVERY + 5);
    lane.word.carry_grants(2 * CARRY_EVERY);
    assert_eq!(lane.snapshot().granted, 2 * CARRY_EVERY + 5);
    lane.word.carry_grants(CARRY_EVERY);
    assert_eq!(lane.snapshot().granted, 2 * CARRY_EVERY + 5);
}

/// Three turns of one kind: those that pass a quarter of the 24 bits must carry, whatever their kind.
#[derive(Clone, Copy, Debug)]
enum WaitQueue {
    Entered,
    EnqueueOutcome,
    HandedOver,
}

fn take_three(lane: &Semaphore, turns: WaitQueue) {
    match turns {
        WaitQueue::Entered => {
            for _ in 0..3 {
                assert_eq!(lane.try_enter(), Ok(()));
                lane.exit(|| None);
            }
        }
        WaitQueue::EnqueueOutcome => {
            for _ in 0..3 {
                assert!(matches!(lane.join(Waker::noop()), EnqueueOutcome::Entered));
                lane.exit(|| None);
            }
        }
        WaitQueue::HandedOver => {
            assert_eq!(lane.try_enter(), Ok(()));
            let tickets = [0, 1].map(|_| match lane.join(Waker::noop()) {
                EnqueueOutcome::Queued(ticket) => ticket,
                joined => panic!("the lane is held: {joined:?}"),
            });
            lane.exit(|| None);
            for ticket in tickets {
                assert_eq!(lane.leave(ticket, || None), CancelOutcome::PassedOn);
            }
        }
    }
}

#[test]
fn count_of_turns_goes_on_where_the_24_bits_in_the_word_start_again() {
    for turns in [WaitQueue::Entered, WaitQueue::EnqueueOutcome, WaitQueue::HandedOver] {
        let lane = Semaphore::new(SemaphoreConfig { permits: 1, bound: 8, order: Order::Fifo });
        // The second of three turns completes a quarter, each time.
        skip_turns(&lane, CARRY_EVERY - 2);
        let mut expected = CARRY_EVERY - 2;
        // Three times round.
        for quarter in 0..12 {
            take_three(&lane, turns);
            expected += 3;
            assert_eq!(lane.snapshot().granted, expected, "{turns:?}, quarter {quarter}");
            skip_turns(&lane, CARRY_EVERY - 3);
            expected += CARRY_EVERY - 3;
            assert_eq!(lane.snapshot().granted, expected, "{turns:?}, quarter {quarter}");
        }
        assert!(expected > 3 << 24, "the count went round three times: {expected}");
    }
}
