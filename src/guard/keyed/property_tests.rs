//! A shard beside a naive queue for each key, over random programs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Shard, Terms};
use crate::guard::key_map::Hash64;
use crate::guard::keyed::key_semaphore::KeyLimit;
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, Order, Refused, SemaphoreConfig, SemaphoreSnapshot, WaitOutcome, WaiterId, wake_all,
};

const KEYS: u8 = 5;

/// One step of a program. The indices choose among the waiters, or the holders, there are.
#[derive(Clone, Debug)]
enum Step {
    TryEnter(u8),
    Arrive(u8),
    /// Asks with the waker of last time, or with a fresh one.
    Poll(usize, bool),
    Leave(usize),
    GiveUp(usize),
    Exit(usize),
    Close,
    /// Takes back the grants that are at least so many steps old: those of a waiter's lane, of a key, of all.
    Expire(usize, u64),
    ExpireFor(u8, u64),
    ExpireAll(u64),
    /// Another shard takes one of the keys that there may be, or gives it back.
    Elsewhere(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let age = || 1..6_u64;
    prop_oneof![
        4 => key().prop_map(Step::TryEnter),
        10 => key().prop_map(Step::Arrive),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(who, fresh)| Step::Poll(who, fresh)),
        3 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::GiveUp),
        8 => any::<usize>().prop_map(Step::Exit),
        1 => prop::bool::weighted(0.15).prop_map(|close| if close { Step::Close } else { Step::Exit(0) }),
        1 => (any::<usize>(), age()).prop_map(|(who, age)| Step::Expire(who, age)),
        1 => (key(), age()).prop_map(|(key, age)| Step::ExpireFor(key, age)),
        1 => age().prop_map(Step::ExpireAll),
        1 => any::<bool>().prop_map(Step::Elsewhere),
    ]
}

/// A key that shows how many of them there are.
#[derive(Debug)]
struct Key(u8, #[expect(dead_code, reason = "it is counted")] Arc<()>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

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

impl State {
    fn answer(self) -> Option<WaitOutcome> {
        match self {
            Self::Waiting => None,
            Self::Granted { .. } => Some(WaitOutcome::Entered),
            Self::Expired => Some(WaitOutcome::Expired),
            Self::Closed => Some(WaitOutcome::Closed),
        }
    }
}

struct Waiter {
    key: u8,
    ticket: Option<WaiterId>,
    /// Index of its latest waker.
    waker: usize,
    state: State,
}

/// The naive queue of a key.
#[derive(Default)]
struct Semaphore {
    index: u32,
    holders: usize,
    queue: VecDeque<usize>,
    granted: VecDeque<usize>,
}

impl Semaphore {
    fn held(&self) -> usize {
        self.holders + self.granted.len()
    }
}

/// A shard and naive queues that do the same.
struct Pair {
    shard: Shard<Key>,
    rules: SemaphoreConfig,
    limit: Option<KeyLimit>,
    /// So many hashes there are, for more keys.
    hashes: u8,
    epoch: Instant,
    now: u64,

    most: Option<usize>,
    elsewhere: usize,
    is_closed: bool,
    lanes: BTreeMap<u8, Semaphore>,
    /// Those that waited and have not gone, by number. They stay in the list when their turn comes.
    waiters: Vec<(usize, Waiter)>,
    /// The keys of those inside.
    holders: Vec<u8>,
    /// Each waker that was ever given, with how often it is to have been woken.
    wakers: Vec<(Arc<Wakes>, usize)>,
    keys_alive: Arc<()>,

    arrivals: usize,
    turns: u64,
    queued: u64,
    cancelled: u64,
}

impl Pair {
    fn new(rules: SemaphoreConfig, most: Option<usize>, hashes: u8) -> Self {
        Self {
            shard: Shard::new(),
            rules,
            limit: most.map(KeyLimit::new),
            hashes,
            epoch: Instant::now(),
            now: 0,
            most,
            elsewhere: 0,
            is_closed: false,
            lanes: BTreeMap::new(),
            waiters: Vec::new(),
            holders: Vec::new(),
            wakers: Vec::new(),
            keys_alive: Arc::default(),
            arrivals: 0,
            turns: 0,
            queued: 0,
            cancelled: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::TryEnter(key) => self.try_enter(key),
            Step::Arrive(key) => self.arrive(key),
            Step::Poll(who, fresh) => self.with_waiter(who, |pair, at| pair.poll(at, fresh)),
            Step::Leave(who) => self.with_waiter(who, Self::leave),
            Step::GiveUp(who) => self.with_waiter(who, Self::give_up),
            Step::Exit(who) => {
                if !self.holders.is_empty() {
                    self.exit(who % self.holders.len());
                }
            }
            Step::Close => self.close(),
            Step::Expire(who, age) => self.with_waiter(who, |pair, at| pair.expire(at, age)),
            Step::ExpireFor(key, age) => self.expire_for(key, age),
            Step::ExpireAll(age) => self.expire_all(age),
            Step::Elsewhere(more) => self.change_elsewhere(more),
        }
        self.compare();
    }

    fn with_waiter(&mut self, who: usize, f: impl FnOnce(&mut Self, usize)) {
        if !self.waiters.is_empty() {
            f(self, who % self.waiters.len());
        }
    }

    fn terms(&self) -> Terms<'_> {
        Terms { rules: &self.rules, limit: self.limit.as_ref() }
    }

    fn hash(&self, key: u8) -> Hash64 {
        Hash64(u64::from(key % self.hashes))
    }

    fn key(&self, key: u8) -> Key {
        Key(key, Arc::clone(&self.keys_alive))
    }

    fn instant(&self, step: u64) -> Instant {
        self.epoch + Duration::from_secs(step)
    }

    fn held(&self) -> usize {
        self.lanes.values().map(Semaphore::held).sum()
    }

    fn is_drained(&self) -> bool {
        self.is_closed && self.held() == 0
    }

    fn lane(&mut self, key: u8) -> &mut Semaphore {
        self.lanes.get_mut(&key).expect("it has a caller, so it is there")
    }

    fn index(&self, key: u8) -> u32 {
        self.lanes[&key].index
    }

    fn waiter(&mut self, id: usize) -> &mut Waiter {
        let found = self.waiters.iter_mut().find(|(known, _)| *known == id);
        &mut found.expect("the naive queue names waiters that are there").1
    }

    fn fresh_waker(&mut self) -> (usize, Waker) {
        let wakes = Arc::new(Wakes::default());
        self.wakers.push((Arc::clone(&wakes), 0));
        (self.wakers.len() - 1, Waker::from(wakes))
    }

    fn wake(&mut self, id: usize) {
        let waker = self.waiter(id).waker;
        self.wakers[waker].1 += 1;
    }

    /// Why a caller of the key would not be let in at once, if so.
    fn obstacle(&self, key: u8) -> Option<Refused> {
        let room = self.most.is_none_or(|most| self.lanes.len() + self.elsewhere < most);
        match self.lanes.get(&key) {
            _ if self.is_closed => Some(Refused::Closed),
            None if !room => Some(Refused::TooManyKeys),
            Some(lane) if lane.held() == self.rules.permits || !lane.queue.is_empty() => Some(Refused::Busy),
            _ => None,
        }
    }

    fn entered(&mut self, key: u8, index: u32) {
        let lane = self.lanes.entry(key).or_insert_with(|| Semaphore { index, ..Semaphore::default() });
        assert_eq!(lane.index, index);
        lane.holders += 1;
        self.holders.push(key);
        self.turns += 1;
    }

    /// Forgets keys that nobody holds, waits for, or has yet to hear about.
    fn forget(&mut self) {
        let waiters = &self.waiters;
        self.lanes.retain(|key, lane| lane.holders > 0 || waiters.iter().any(|(_, waiter)| waiter.key == *key));
    }

    /// A permit has come back.
    fn hand_over(&mut self, key: u8) {
        let order = self.rules.order;
        let queue = &mut self.lane(key).queue;
        let next = if order == Order::Lifo { queue.pop_back() } else { queue.pop_front() };
        if let Some(id) = next {
            self.lane(key).granted.push_back(id);
            let at = self.now;
            self.waiter(id).state = State::Granted { at };
            self.turns += 1;
            self.wake(id);
        }
    }

    fn try_enter(&mut self, key: u8) {
        let is_new = !self.lanes.contains_key(&key);
        let mut brought = Some(self.key(key));
        let result = self.shard.try_enter(self.terms(), self.hash(key), &mut brought);
        assert_eq!(result.err(), self.obstacle(key));
        assert_eq!(brought.is_none(), is_new && result.is_ok(), "only a new key is kept");
        if let Ok(index) = result {
            self.entered(key, index);
        }
    }

    fn arrive(&mut self, key: u8) {
        let is_new = !self.lanes.contains_key(&key);
        let (waker, given) = self.fresh_waker();
        let mut brought = Some(self.key(key));
        let result = self.shard.join(self.terms(), self.hash(key), &mut brought, &given);
        assert_eq!(brought.is_none(), is_new && result.is_ok(), "only a new key is kept");
        match (result, self.obstacle(key)) {
            (Ok((index, EnqueueOutcome::Entered)), None) => self.entered(key, index),
            (Ok((index, EnqueueOutcome::Queued(ticket))), Some(Refused::Busy)) => {
                let (id, bound) = (self.arrivals, self.rules.bound);
                let lane = self.lane(key);
                assert!(lane.index == index && lane.queue.len() < bound);
                lane.queue.push_back(id);
                self.waiters.push((id, Waiter { key, ticket: Some(ticket), waker, state: State::Waiting }));
                self.queued += 1;
            }
            (Err(refused), Some(Refused::Busy)) => {
                assert_eq!(refused, if self.rules.bound == 0 { Refused::Busy } else { Refused::Full });
                assert_eq!(self.lanes[&key].queue.len(), self.rules.bound);
            }
            (result, obstacle) => {
                let result = result.map(|_| ());
                assert!(result.is_err() && result.err() == obstacle, "{result:?}, not {obstacle:?}");
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
        let index = self.index(self.waiters[at].1.key);
        let terms = Terms { rules: &self.rules, limit: self.limit.as_ref() };
        let (id, waiter) = &mut self.waiters[at];
        let (id, key) = (*id, waiter.key);
        let answer = self.shard.ask(terms, index, &mut waiter.ticket, &given);
        assert_eq!(waiter.ticket.is_none(), answer.is_some());
        assert_eq!(answer, waiter.state.answer());
        waiter.waker = waker;
        if answer.is_some() {
            self.waiters.remove(at);
        }
        if answer == Some(WaitOutcome::Entered) {
            self.take_grant(key, id);
        }
    }

    /// It is counted as a turn already.
    fn take_grant(&mut self, key: u8, id: usize) {
        let lane = self.lane(key);
        lane.granted.retain(|granted| *granted != id);
        lane.holders += 1;
        self.holders.push(key);
    }

    fn leave(&mut self, at: usize) {
        let (id, waiter) = self.waiters.remove(at);
        let (key, now) = (waiter.key, self.instant(self.now));
        let ticket = waiter.ticket.expect("it has not left");
        let gone = self.shard.leave(self.terms(), self.index(key), ticket, Some(now));
        let expected = match waiter.state {
            State::Waiting => CancelOutcome::Waiting,
            State::Granted { .. } => CancelOutcome::PassedOn,
            State::Expired | State::Closed => CancelOutcome::Refused,
        };
        assert_eq!(gone, expected);
        let lane = self.lane(key);
        lane.queue.retain(|queued| *queued != id);
        lane.granted.retain(|granted| *granted != id);
        self.cancelled += u64::from(gone != CancelOutcome::Refused);
        if gone == CancelOutcome::PassedOn {
            self.hand_over(key);
        }
    }

    fn give_up(&mut self, at: usize) {
        let (id, waiter) = self.waiters.remove(at);
        let key = waiter.key;
        let ticket = waiter.ticket.expect("it has not left");
        let (answer, waiting) = self.shard.give_up(self.terms(), self.index(key), ticket);
        assert_eq!(answer, waiter.state.answer());
        self.lane(key).queue.retain(|queued| *queued != id);
        assert_eq!(waiting, self.lane(key).queue.len());
        if answer == Some(WaitOutcome::Entered) {
            self.take_grant(key, id);
        }
    }

    fn exit(&mut self, at: usize) {
        let key = self.holders.swap_remove(at);
        let now = self.instant(self.now);
        let may_be_drained = self.shard.exit(self.terms(), self.index(key), || Some(now));
        assert_eq!(may_be_drained, self.is_closed);
        self.lane(key).holders -= 1;
        self.hand_over(key);
    }

    fn close(&mut self) {
        let waited = self.shard.close(self.terms());
        self.is_closed = true;
        let told: Vec<_> = self.lanes.values_mut().flat_map(|lane| lane.queue.drain(..)).collect();
        assert_eq!(waited.len(), told.len());
        wake_all(waited);
        for id in told {
            self.waiter(id).state = State::Closed;
            self.wake(id);
        }
    }

    /// Takes back what is due in the naive queue of a key. Returns how much, and when the oldest that stands was made.
    fn expire_naively(&mut self, key: u8, limit: u64) -> (usize, Option<Instant>) {
        let mut due = 0;
        while let Some(id) = self.lane(key).granted.front().copied()
            && let State::Granted { at } = self.waiter(id).state
            && at <= limit
        {
            self.lane(key).granted.pop_front();
            self.waiter(id).state = State::Expired;
            self.hand_over(key);
            due += 1;
        }
        let stands = self.lane(key).granted.front().copied().map(|id| match self.waiter(id).state {
            State::Granted { at } => at,
            state => panic!("granted, not {state:?}"),
        });
        (due, stands.map(|at| self.instant(at)))
    }

    fn expire(&mut self, at: usize, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let key = self.waiters[at].1.key;
        let (then, now) = (self.instant(limit), self.instant(self.now));
        let expired = self.shard.expire_grants(self.terms(), self.index(key), then, now);
        assert_eq!(expired, self.expire_naively(key, limit));
    }

    fn expire_for(&mut self, key: u8, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let (then, now) = (self.instant(limit), self.instant(self.now));
        let expired = self.shard.expire_for(self.terms(), self.hash(key), &self.key(key), then, now);
        let is_there = self.lanes.contains_key(&key);
        assert_eq!(expired, if is_there { self.expire_naively(key, limit) } else { (0, None) });
    }

    fn expire_all(&mut self, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let expired = self.shard.expire_all(self.terms(), self.instant(limit), self.instant(self.now));
        let keys: Vec<_> = self.lanes.keys().copied().collect();
        let due: usize = keys.into_iter().map(|key| self.expire_naively(key, limit).0).sum();
        assert_eq!(expired, due);
    }

    fn change_elsewhere(&mut self, more: bool) {
        let (Some(limit), Some(most)) = (&self.limit, self.most) else { return };
        if more {
            let room = self.lanes.len() + self.elsewhere < most;
            assert_eq!(limit.take(), room);
            self.elsewhere += usize::from(room);
        } else if self.elsewhere > 0 {
            limit.free();
            self.elsewhere -= 1;
        }
    }

    fn compare(&mut self) {
        self.forget();
        let waiting = self.lanes.values().map(|lane| lane.queue.len()).sum();
        let expected = SemaphoreSnapshot { held: self.held(), waiting, granted: self.turns, is_closed: self.is_closed };
        assert_eq!(self.shard.snapshot(), expected);
        assert_eq!(
            (self.shard.tally().queued.value(), self.shard.tally().cancelled.value()),
            (self.queued, self.cancelled)
        );
        assert_eq!((self.shard.is_closed(), self.shard.is_drained()), (self.is_closed, self.is_drained()));
        assert_eq!(self.shard.len(), self.lanes.len());
        assert_eq!(Arc::strong_count(&self.keys_alive), self.lanes.len() + 1, "each key is there once");
        for number in 0..KEYS {
            let (hash, key, lane) = (self.hash(number), self.key(number), self.lanes.get(&number));
            assert_eq!(self.shard.find(hash, &key), lane.map(|lane| lane.index), "key {number}");
            assert_eq!(self.shard.waiting_for(hash, &key), lane.map_or(0, |lane| lane.queue.len()), "key {number}");
        }
        for (number, (wakes, expected)) in self.wakers.iter().enumerate() {
            assert_eq!(wakes.0.load(Ordering::Relaxed), *expected, "wakes of waker {number}");
        }
    }

    /// Lets everybody go, in an order that the number decides.
    fn drain(&mut self, mut choice: usize) {
        while !self.lanes.is_empty() {
            choice = choice.rotate_right(3);
            let step = match choice % 4 {
                0 => Step::Leave(choice),
                1 => Step::Poll(choice, false),
                _ => Step::Exit(choice),
            };
            self.take(&step);
            // A waiter of which nothing came yet waits for a holder: let one go.
            self.take(&Step::Exit(choice));
        }
        assert!(self.waiters.is_empty() && self.holders.is_empty());
        for (wakes, _) in &self.wakers {
            assert_eq!(Arc::strong_count(wakes), 1, "the shard keeps a waker of someone who has gone");
        }
        // No room was lost, and none was made.
        if let (Some(limit), Some(most)) = (&self.limit, self.most) {
            let free = (0..=most).take_while(|_| limit.take()).count();
            assert_eq!(free, most - self.elsewhere);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shard_does_what_a_naive_queue_for_each_key_does(
        permits in 1..=3_usize,
        bound in 0..=4_usize,
        lifo in any::<bool>(),
        most in prop::option::of(1..=4_usize),
        hashes in 1..=KEYS,
        program in prop::collection::vec(step(), 0..120),
        choice in any::<usize>(),
    ) {
        let order = if lifo { Order::Lifo } else { Order::Fifo };
        let mut pair = Pair::new(SemaphoreConfig { permits, bound, order }, most, hashes);
        for step in &program {
            pair.take(step);
        }
        pair.drain(choice);
    }
}
