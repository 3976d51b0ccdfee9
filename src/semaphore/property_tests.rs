//! Compares the semaphore with a naive queue over random programs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::atomic_state::CARRY_EVERY;
use super::{
    CancelOutcome, EnqueueOutcome, Order, ReleaseOutcome, Semaphore, SemaphoreConfig, SemaphoreRefusal,
    SemaphoreSnapshot, WaitOutcome, WaitTotals, WaiterId,
};

/// One step of a program. An index selects one of the existing waiters.
#[derive(Clone, Debug)]
enum Step {
    TryAcquire,
    Enqueue,
    /// Polls with the previous waker, or with a new one.
    Poll(usize, bool),
    Cancel(usize),
    PollFinal(usize),
    Release,
    Forget,
    Close,
    /// Revokes the grants that are at least this many steps old.
    Expire(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::TryAcquire),
        8 => Just(Step::Enqueue),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(index, fresh)| Step::Poll(index, fresh)),
        2 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::PollFinal),
        6 => Just(Step::Release),
        1 => prop::bool::weighted(0.2).prop_map(|forget| if forget { Step::Forget } else { Step::Release }),
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Step::Close } else { Step::TryAcquire }),
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

/// The state of a waiter in the naive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NaiveState {
    Waiting,
    Granted { at: u64 },
    Expired,
    Evicted,
    Closed,
}

struct Waiter {
    id: Option<WaiterId>,
    /// The index of the waiter's latest waker.
    waker: usize,
    state: NaiveState,
}

/// A semaphore, and a naive queue that must behave in the same way.
struct Pair {
    semaphore: Semaphore,
    epoch: Instant,
    now: u64,

    permits: usize,
    bound: usize,
    order: Order,
    is_closed: bool,
    holders: usize,
    forgotten: usize,
    /// The waiters that have not been removed, with their numbers. A granted waiter stays in the list.
    waiters: Vec<(usize, Waiter)>,
    queue: VecDeque<usize>,
    granted: VecDeque<usize>,
    /// Every waker that was passed to the semaphore, with the expected number of wake-ups.
    wakers: Vec<(Arc<Wakes>, usize)>,

    enqueues: usize,
    grants: u64,
    queued: u64,
    cancelled: u64,
    evicted: u64,
}

impl Pair {
    fn new(permits: usize, bound: usize, order: Order) -> Self {
        Self {
            semaphore: Semaphore::new(SemaphoreConfig { permits, bound, order }),
            epoch: Instant::now(),
            now: 0,
            permits,
            bound,
            order,
            is_closed: false,
            holders: 0,
            forgotten: 0,
            waiters: Vec::new(),
            queue: VecDeque::new(),
            granted: VecDeque::new(),
            wakers: Vec::new(),
            enqueues: 0,
            grants: 0,
            queued: 0,
            cancelled: 0,
            evicted: 0,
        }
    }

    fn apply(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::TryAcquire => self.try_acquire(),
            Step::Enqueue => self.enqueue(),
            Step::Poll(index, fresh) => self.with_waiter(index, |pair, at| pair.poll(at, fresh)),
            Step::Cancel(index) => self.with_waiter(index, Self::cancel),
            Step::PollFinal(index) => self.with_waiter(index, Self::poll_final),
            Step::Release => {
                if self.holders > 0 {
                    self.release();
                }
            }
            Step::Forget => {
                if self.holders > 0 {
                    self.holders -= 1;
                    self.forgotten += 1;
                    assert_eq!(self.semaphore.forget(), self.is_drained());
                }
            }
            Step::Close => self.close(),
            Step::Expire(age) => self.expire(age),
        }
        self.compare();
    }

    fn with_waiter(&mut self, index: usize, f: impl FnOnce(&mut Self, usize)) {
        if !self.waiters.is_empty() {
            f(self, index % self.waiters.len());
        }
    }

    fn instant(&self, step: u64) -> Instant {
        self.epoch + Duration::from_secs(step)
    }

    fn held(&self) -> usize {
        self.holders + self.granted.len() + self.forgotten
    }

    fn is_drained(&self) -> bool {
        self.is_closed && self.held() == self.forgotten
    }

    fn has_room(&self) -> bool {
        self.held() < self.permits && self.queue.is_empty()
    }

    fn new_waker(&mut self) -> (usize, Waker) {
        let wakes = Arc::new(Wakes::default());
        self.wakers.push((Arc::clone(&wakes), 0));
        (self.wakers.len() - 1, Waker::from(wakes))
    }

    fn waiter(&mut self, number: usize) -> &mut Waiter {
        let found = self.waiters.iter_mut().find(|(known, _)| *known == number);
        &mut found.expect("the naive queue contains existing waiters").1
    }

    fn wake(&mut self, number: usize) {
        let waker = self.waiter(number).waker;
        self.wakers[waker].1 += 1;
    }

    /// Grants a released permit to the next waiter.
    fn grant_next(&mut self) {
        let next = match self.order {
            Order::Fifo => self.queue.pop_front(),
            Order::Lifo => self.queue.pop_back(),
        };
        if let Some(number) = next {
            let at = self.now;
            self.waiter(number).state = NaiveState::Granted { at };
            self.granted.push_back(number);
            self.grants += 1;
            self.wake(number);
        }
    }

    fn try_acquire(&mut self) {
        let expected = match (self.is_closed, self.has_room()) {
            (true, _) => Err(SemaphoreRefusal::Closed),
            (_, true) => Ok(()),
            _ => Err(SemaphoreRefusal::Busy),
        };
        assert_eq!(self.semaphore.try_acquire(()), expected);
        if expected.is_ok() {
            self.holders += 1;
            self.grants += 1;
        }
    }

    fn enqueue(&mut self) {
        let (waker, passed) = self.new_waker();
        match self.semaphore.enqueue((), &passed) {
            EnqueueOutcome::Acquired => {
                assert!(!self.is_closed && self.has_room());
                self.holders += 1;
                self.grants += 1;
            }
            EnqueueOutcome::Refused(refused) => {
                let expected = match (self.is_closed, self.bound) {
                    (true, _) => SemaphoreRefusal::Closed,
                    (_, 0) => SemaphoreRefusal::Busy,
                    _ => SemaphoreRefusal::QueueFull,
                };
                assert_eq!(refused, expected);
                assert!(self.is_closed || !self.has_room() && self.queue.len() == self.bound);
                assert!(self.is_closed || self.bound == 0 || self.order == Order::Fifo, "Lifo evicts a waiter");
            }
            EnqueueOutcome::Queued(id) => {
                assert!(!self.is_closed && !self.has_room());
                if self.queue.len() == self.bound {
                    self.evict();
                }
                let number = self.enqueues;
                self.waiters.push((number, Waiter { id: Some(id), waker, state: NaiveState::Waiting }));
                self.queue.push_back(number);
                self.queued += 1;
            }
        }
        self.enqueues += 1;
    }

    /// Ends the wait of the oldest waiter.
    fn evict(&mut self) {
        assert_eq!(self.order, Order::Lifo);
        let number = self.queue.pop_front().expect("a full queue has a waiter");
        self.waiter(number).state = NaiveState::Evicted;
        self.wake(number);
        self.evicted += 1;
    }

    fn poll(&mut self, at: usize, fresh: bool) {
        let mut waker = self.waiters[at].1.waker;
        let mut passed = Waker::from(Arc::clone(&self.wakers[waker].0));
        if fresh {
            (waker, passed) = self.new_waker();
        }
        let (number, waiter) = &mut self.waiters[at];
        let (number, state) = (*number, waiter.state);
        let outcome = self.semaphore.poll(&mut waiter.id, &passed);
        assert_eq!(waiter.id.is_none(), outcome.is_some());
        let expected = match state {
            NaiveState::Waiting => None,
            NaiveState::Granted { .. } => Some(WaitOutcome::Acquired),
            NaiveState::Expired => Some(WaitOutcome::Expired),
            NaiveState::Evicted => Some(WaitOutcome::Evicted),
            NaiveState::Closed => Some(WaitOutcome::Closed),
        };
        assert_eq!(outcome, expected);
        waiter.waker = waker;
        if expected.is_some() {
            self.waiters.remove(at);
        }
        if expected == Some(WaitOutcome::Acquired) {
            self.granted.retain(|granted| *granted != number);
            self.holders += 1;
        }
    }

    fn cancel(&mut self, at: usize) {
        let now = self.instant(self.now);
        let (number, mut waiter) = self.waiters.remove(at);
        let outcome = self.semaphore.cancel(waiter.id.take().expect("it was not removed"), || Some(now));
        let expected = match waiter.state {
            NaiveState::Waiting => CancelOutcome::Dequeued,
            NaiveState::Granted { .. } => CancelOutcome::Released,
            NaiveState::Expired | NaiveState::Evicted | NaiveState::Closed => CancelOutcome::AlreadyEnded,
        };
        assert_eq!(outcome, expected);
        self.queue.retain(|queued| *queued != number);
        self.granted.retain(|granted| *granted != number);
        self.cancelled += u64::from(outcome != CancelOutcome::AlreadyEnded);
        if outcome == CancelOutcome::Released {
            self.grant_next();
        }
    }

    fn poll_final(&mut self, at: usize) {
        let (number, mut waiter) = self.waiters.remove(at);
        let outcome = self.semaphore.poll_final(waiter.id.take().expect("it was not removed"));
        let expected = match waiter.state {
            NaiveState::Waiting => None,
            NaiveState::Granted { .. } => Some(WaitOutcome::Acquired),
            NaiveState::Expired => Some(WaitOutcome::Expired),
            NaiveState::Evicted => Some(WaitOutcome::Evicted),
            NaiveState::Closed => Some(WaitOutcome::Closed),
        };
        assert_eq!(outcome, expected);
        self.queue.retain(|queued| *queued != number);
        self.granted.retain(|granted| *granted != number);
        self.holders += usize::from(outcome == Some(WaitOutcome::Acquired));
    }

    fn release(&mut self) {
        let now = self.instant(self.now);
        let passes_on = self.semaphore.waiting() > 0;
        let outcome = self.semaphore.release(|| Some(now));
        let drained = outcome == ReleaseOutcome::Drained;
        assert_eq!(outcome == ReleaseOutcome::PassedOn, passes_on);
        self.holders -= 1;
        self.grant_next();
        assert_eq!(drained, self.is_drained());
    }

    fn close(&mut self) {
        self.semaphore.close();
        self.is_closed = true;
        while let Some(number) = self.queue.pop_front() {
            self.waiter(number).state = NaiveState::Closed;
            self.wake(number);
        }
        assert_eq!(self.semaphore.is_drained(), self.is_drained());
    }

    fn expire(&mut self, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let (expired, oldest) = self.semaphore.expire_grants(self.instant(limit), self.instant(self.now));
        let mut due = 0;
        while let Some(number) = self.granted.front().copied()
            && let NaiveState::Granted { at } = self.waiter(number).state
            && at <= limit
        {
            self.granted.pop_front();
            self.waiter(number).state = NaiveState::Expired;
            self.grant_next();
            due += 1;
        }
        let remaining = self.granted.front().copied().map(|number| match self.waiter(number).state {
            NaiveState::Granted { at } => at,
            state => panic!("the waiter must be granted, not {state:?}"),
        });
        assert_eq!((expired, oldest), (due, remaining.map(|at| self.instant(at))));
    }

    fn compare(&self) {
        let expected = SemaphoreSnapshot {
            held: self.held(),
            waiting: self.queue.len(),
            granted: self.grants,
            is_closed: self.is_closed,
        };
        assert_eq!(self.semaphore.snapshot(), expected);
        let (queued, cancelled, evicted, forgotten) =
            (self.queued, self.cancelled, self.evicted, self.forgotten as u64);
        assert_eq!(self.semaphore.counters.totals(), WaitTotals { queued, cancelled, evicted, forgotten });
        assert_eq!(self.semaphore.is_drained(), self.is_drained());
        for (number, (wakes, expected)) in self.wakers.iter().enumerate() {
            assert_eq!(wakes.0.load(Ordering::Relaxed), *expected, "wakes of waker {number}");
        }
    }

    /// Removes every waiter and holder, in an order that `choice` decides.
    fn drain(&mut self, mut choice: usize) {
        while self.held() > self.forgotten || !self.waiters.is_empty() {
            choice = choice.rotate_right(3);
            let step = match choice % 4 {
                0 => Step::Cancel(choice),
                1 => Step::Poll(choice, false),
                _ => Step::Release,
            };
            self.apply(&step);
            // While a waiter is queued, a holder exists, unless all permits are forgotten. Without a holder, the waiter
            // is cancelled.
            self.apply(&if self.holders > 0 { Step::Release } else { Step::Cancel(choice) });
        }
        let SemaphoreSnapshot { held, waiting, .. } = self.semaphore.snapshot();
        assert_eq!((held, waiting), (self.forgotten, 0));
        for (wakes, _) in &self.wakers {
            assert_eq!(Arc::strong_count(wakes), 1, "the semaphore keeps the waker of a removed waiter");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn semaphore_behaves_like_a_naive_queue(
        permits in 1..=4_usize,
        bound in 0..=5_usize,
        lifo in any::<bool>(),
        program in prop::collection::vec(step(), 0..80),
        choice in any::<usize>(),
    ) {
        let order = if lifo { Order::Lifo } else { Order::Fifo };
        let mut pair = Pair::new(permits, bound, order);
        for step in &program {
            pair.apply(step);
        }
        pair.drain(choice);
    }
}

/// A thread may be delayed before its carry until another thread has carried the next quarter.
#[test]
fn late_carry_changes_nothing() {
    let semaphore = Semaphore::new(SemaphoreConfig { permits: 2, bound: 1, order: Order::Fifo });
    semaphore.state.skip_grants(2 * CARRY_EVERY + 5);
    semaphore.state.carry_grants(2 * CARRY_EVERY);
    assert_eq!(semaphore.snapshot().granted, 2 * CARRY_EVERY + 5);
    semaphore.state.carry_grants(CARRY_EVERY);
    assert_eq!(semaphore.snapshot().granted, 2 * CARRY_EVERY + 5);
}

/// The ways in which a permit is granted. In each of them, a grant that completes a quarter of the modulus must carry.
#[derive(Clone, Copy, Debug)]
enum GrantKind {
    TryAcquired,
    AcquiredByEnqueue,
    GrantedInQueue,
}

fn make_three_grants(semaphore: &Semaphore, kind: GrantKind) {
    match kind {
        GrantKind::TryAcquired => {
            for _ in 0..3 {
                assert_eq!(semaphore.try_acquire(()), Ok(()));
                semaphore.release(|| None);
            }
        }
        GrantKind::AcquiredByEnqueue => {
            for _ in 0..3 {
                assert!(matches!(semaphore.enqueue((), Waker::noop()), EnqueueOutcome::Acquired));
                semaphore.release(|| None);
            }
        }
        GrantKind::GrantedInQueue => {
            assert_eq!(semaphore.try_acquire(()), Ok(()));
            let waiters = [0, 1].map(|_| match semaphore.enqueue((), Waker::noop()) {
                EnqueueOutcome::Queued(waiter) => waiter,
                outcome => panic!("the permit is held: {outcome:?}"),
            });
            semaphore.release(|| None);
            for waiter in waiters {
                assert_eq!(semaphore.cancel(waiter, || None), CancelOutcome::Released);
            }
        }
    }
}

#[test]
fn grant_count_continues_after_the_24_bits_in_the_state_overflow() {
    for kind in [GrantKind::TryAcquired, GrantKind::AcquiredByEnqueue, GrantKind::GrantedInQueue] {
        let semaphore = Semaphore::new(SemaphoreConfig { permits: 1, bound: 8, order: Order::Fifo });
        // In every round, the second of the three grants completes a quarter.
        semaphore.state.skip_grants(CARRY_EVERY - 2);
        let mut expected = CARRY_EVERY - 2;
        // The count overflows three times.
        for quarter in 0..12 {
            make_three_grants(&semaphore, kind);
            expected += 3;
            assert_eq!(semaphore.snapshot().granted, expected, "{kind:?}, quarter {quarter}");
            semaphore.state.skip_grants(CARRY_EVERY - 3);
            expected += CARRY_EVERY - 3;
            assert_eq!(semaphore.snapshot().granted, expected, "{kind:?}, quarter {quarter}");
        }
        assert!(expected > 3 << 24, "the count overflowed three times: {expected}");
    }
}
