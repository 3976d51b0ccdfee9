//! Compares the shard with a naive queue for each key over random programs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::key_entry::ShardConfig;
use super::shard::Shard;
use crate::guard::key_map::Hash64;
use crate::guard::keyed::key_entry::KeyLimit;
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, Order, ReleaseOutcome, SemaphoreConfig, SemaphoreRefusal, SemaphoreSnapshot,
    WaitOutcome, WaitTotals, WaiterId,
};
use crate::wake::wake_all;

const KEYS: u8 = 5;

/// One step of a program. An index selects one of the existing waiters or holders.
#[derive(Clone, Debug)]
enum Step {
    TryAcquire(u8),
    Enqueue(u8),
    /// Polls with the previous waker, or with a new one.
    Poll(usize, bool),
    Cancel(usize),
    PollFinal(usize),
    Release(usize),
    Close,
    /// Revokes the grants that are at least this many steps old: of a waiter's entry, of a key, or of all keys.
    Expire(usize, u64),
    ExpireKey(u8, u64),
    ExpireAll(u64),
    /// Another shard adds or removes one of the keys that the limit allows.
    Elsewhere(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS;
    let age = || 1..6_u64;
    prop_oneof![
        4 => key().prop_map(Step::TryAcquire),
        10 => key().prop_map(Step::Enqueue),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(index, fresh)| Step::Poll(index, fresh)),
        3 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::PollFinal),
        8 => any::<usize>().prop_map(Step::Release),
        1 => prop::bool::weighted(0.15).prop_map(|close| if close { Step::Close } else { Step::Release(0) }),
        1 => (any::<usize>(), age()).prop_map(|(index, age)| Step::Expire(index, age)),
        1 => (key(), age()).prop_map(|(key, age)| Step::ExpireKey(key, age)),
        1 => age().prop_map(Step::ExpireAll),
        1 => any::<bool>().prop_map(Step::Elsewhere),
    ]
}

/// A key that counts its copies.
#[derive(Debug)]
struct Key(u8, #[expect(dead_code, reason = "its references are counted")] Arc<()>);

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

/// The state of a waiter in the naive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NaiveState {
    Waiting,
    Granted { at: u64 },
    Expired,
    Evicted,
    Closed,
}

impl NaiveState {
    fn outcome(self) -> Option<WaitOutcome> {
        match self {
            Self::Waiting => None,
            Self::Granted { .. } => Some(WaitOutcome::Acquired),
            Self::Expired => Some(WaitOutcome::Expired),
            Self::Evicted => Some(WaitOutcome::Evicted),
            Self::Closed => Some(WaitOutcome::Closed),
        }
    }
}

struct Waiter {
    key: u8,
    id: Option<WaiterId>,
    /// The index of the waiter's latest waker.
    waker: usize,
    state: NaiveState,
}

/// The naive queue of a key.
#[derive(Default)]
struct NaiveEntry {
    index: u32,
    holders: usize,
    queue: VecDeque<usize>,
    granted: VecDeque<usize>,
}

impl NaiveEntry {
    fn held(&self) -> usize {
        self.holders + self.granted.len()
    }
}

/// A shard, and naive queues that must do the same.
struct Pair {
    shard: Shard<Key>,
    config: SemaphoreConfig,
    key_limit: Option<KeyLimit>,
    /// The number of distinct hashes, at most the number of keys.
    hashes: u8,
    epoch: Instant,
    now: u64,

    max_keys: Option<usize>,
    elsewhere: usize,
    is_closed: bool,
    entries: BTreeMap<u8, NaiveEntry>,
    /// The waiters that have not been removed, with their numbers. A granted waiter stays in the list.
    waiters: Vec<(usize, Waiter)>,
    /// The key of each holder.
    holders: Vec<u8>,
    /// Every waker that was passed to the shard, with the expected number of wake-ups.
    wakers: Vec<(Arc<Wakes>, usize)>,
    keys_alive: Arc<()>,

    enqueues: usize,
    grants: u64,
    queued: u64,
    cancelled: u64,
    evicted: u64,
}

impl Pair {
    fn new(config: SemaphoreConfig, max_keys: Option<usize>, hashes: u8) -> Self {
        Self {
            shard: Shard::new(),
            config,
            key_limit: max_keys.map(KeyLimit::new),
            hashes,
            epoch: Instant::now(),
            now: 0,
            max_keys,
            elsewhere: 0,
            is_closed: false,
            entries: BTreeMap::new(),
            waiters: Vec::new(),
            holders: Vec::new(),
            wakers: Vec::new(),
            keys_alive: Arc::default(),
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
            Step::TryAcquire(key) => self.try_acquire(key),
            Step::Enqueue(key) => self.enqueue(key),
            Step::Poll(index, fresh) => self.with_waiter(index, |pair, at| pair.poll(at, fresh)),
            Step::Cancel(index) => self.with_waiter(index, Self::cancel),
            Step::PollFinal(index) => self.with_waiter(index, Self::poll_final),
            Step::Release(index) => {
                if !self.holders.is_empty() {
                    self.release(index % self.holders.len());
                }
            }
            Step::Close => self.close(),
            Step::Expire(index, age) => self.with_waiter(index, |pair, at| pair.expire(at, age)),
            Step::ExpireKey(key, age) => self.expire_key(key, age),
            Step::ExpireAll(age) => self.expire_all_keys(age),
            Step::Elsewhere(more) => self.change_elsewhere(more),
        }
        self.compare();
    }

    fn with_waiter(&mut self, index: usize, f: impl FnOnce(&mut Self, usize)) {
        if !self.waiters.is_empty() {
            f(self, index % self.waiters.len());
        }
    }

    fn shard_config(&self) -> ShardConfig<'_> {
        ShardConfig { semaphore: &self.config, key_limit: self.key_limit.as_ref() }
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
        self.entries.values().map(NaiveEntry::held).sum()
    }

    fn is_drained(&self) -> bool {
        self.is_closed && self.held() == 0
    }

    fn entry(&mut self, key: u8) -> &mut NaiveEntry {
        self.entries.get_mut(&key).expect("a key with a caller has an entry")
    }

    fn index(&self, key: u8) -> u32 {
        self.entries[&key].index
    }

    fn waiter(&mut self, number: usize) -> &mut Waiter {
        let found = self.waiters.iter_mut().find(|(known, _)| *known == number);
        &mut found.expect("the naive queue contains existing waiters").1
    }

    fn new_waker(&mut self) -> (usize, Waker) {
        let wakes = Arc::new(Wakes::default());
        self.wakers.push((Arc::clone(&wakes), 0));
        (self.wakers.len() - 1, Waker::from(wakes))
    }

    fn wake(&mut self, number: usize) {
        let waker = self.waiter(number).waker;
        self.wakers[waker].1 += 1;
    }

    /// Returns why a caller of the key would not get a permit at once, or `None` if it would.
    fn obstacle(&self, key: u8) -> Option<SemaphoreRefusal> {
        let has_room = self.max_keys.is_none_or(|max| self.entries.len() + self.elsewhere < max);
        match self.entries.get(&key) {
            _ if self.is_closed => Some(SemaphoreRefusal::Closed),
            None if !has_room => Some(SemaphoreRefusal::TooManyKeys),
            Some(entry) if entry.held() == self.config.permits || !entry.queue.is_empty() => {
                Some(SemaphoreRefusal::Busy)
            }
            _ => None,
        }
    }

    fn acquired(&mut self, key: u8, index: u32) {
        let entry = self.entries.entry(key).or_insert_with(|| NaiveEntry { index, ..NaiveEntry::default() });
        assert_eq!(entry.index, index);
        entry.holders += 1;
        self.holders.push(key);
        self.grants += 1;
    }

    /// Removes the keys without holders and waiters.
    fn remove_unused(&mut self) {
        let waiters = &self.waiters;
        self.entries.retain(|key, entry| entry.holders > 0 || waiters.iter().any(|(_, waiter)| waiter.key == *key));
    }

    /// Grants a released permit to the next waiter of the key.
    fn grant_next(&mut self, key: u8) {
        let order = self.config.order;
        let queue = &mut self.entry(key).queue;
        let next = if order == Order::Lifo { queue.pop_back() } else { queue.pop_front() };
        if let Some(number) = next {
            self.entry(key).granted.push_back(number);
            let at = self.now;
            self.waiter(number).state = NaiveState::Granted { at };
            self.grants += 1;
            self.wake(number);
        }
    }

    fn try_acquire(&mut self, key: u8) {
        let is_new = !self.entries.contains_key(&key);
        let mut passed = Some(self.key(key));
        let result = self.shard.try_acquire(self.shard_config(), self.hash(key), &mut passed);
        assert_eq!(result.err(), self.obstacle(key));
        assert_eq!(passed.is_none(), is_new && result.is_ok(), "only a new key is kept");
        if let Ok(index) = result {
            self.acquired(key, index);
        }
    }

    fn enqueue(&mut self, key: u8) {
        let is_new = !self.entries.contains_key(&key);
        let (waker, passed_waker) = self.new_waker();
        let mut passed = Some(self.key(key));
        let result = self.shard.enqueue(self.shard_config(), self.hash(key), &mut passed, &passed_waker);
        assert_eq!(passed.is_none(), is_new && result.is_ok(), "only a new key is kept");
        match (result, self.obstacle(key)) {
            (Ok((index, EnqueueOutcome::Acquired)), None) => self.acquired(key, index),
            (Ok((index, EnqueueOutcome::Queued(id))), Some(SemaphoreRefusal::Busy)) => {
                let (number, bound) = (self.enqueues, self.config.bound);
                if self.entry(key).queue.len() == bound {
                    self.evict(key);
                }
                let entry = self.entry(key);
                assert_eq!(entry.index, index);
                entry.queue.push_back(number);
                self.waiters.push((number, Waiter { key, id: Some(id), waker, state: NaiveState::Waiting }));
                self.queued += 1;
            }
            (Err(refusal), Some(SemaphoreRefusal::Busy)) => {
                assert_eq!(
                    refusal,
                    if self.config.bound == 0 { SemaphoreRefusal::Busy } else { SemaphoreRefusal::QueueFull }
                );
                assert_eq!(self.entries[&key].queue.len(), self.config.bound);
                assert!(self.config.bound == 0 || self.config.order == Order::Fifo, "Lifo evicts a waiter");
            }
            (result, obstacle) => {
                let result = result.map(|_| ());
                assert!(result.is_err() && result.err() == obstacle, "{result:?}, not {obstacle:?}");
            }
        }
        self.enqueues += 1;
    }

    /// Ends the wait of the oldest waiter of a key.
    fn evict(&mut self, key: u8) {
        assert_eq!(self.config.order, Order::Lifo);
        let number = self.entry(key).queue.pop_front().expect("a full queue has a waiter");
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
        let index = self.index(self.waiters[at].1.key);
        let config = ShardConfig { semaphore: &self.config, key_limit: self.key_limit.as_ref() };
        let (number, waiter) = &mut self.waiters[at];
        let (number, key) = (*number, waiter.key);
        let (outcome, waiting) = self.shard.poll(config, index, &mut waiter.id, &passed);
        assert_eq!(waiter.id.is_none(), outcome.is_some());
        assert_eq!(outcome, waiter.state.outcome());
        waiter.waker = waker;
        assert_eq!(waiting, self.entries[&key].queue.len());
        if outcome.is_some() {
            self.waiters.remove(at);
        }
        if outcome == Some(WaitOutcome::Acquired) {
            self.take_grant(key, number);
        }
    }

    /// Turns a granted waiter into a holder. The grant is already counted.
    fn take_grant(&mut self, key: u8, number: usize) {
        let entry = self.entry(key);
        entry.granted.retain(|granted| *granted != number);
        entry.holders += 1;
        self.holders.push(key);
    }

    fn cancel(&mut self, at: usize) {
        let (number, waiter) = self.waiters.remove(at);
        let (key, now) = (waiter.key, self.instant(self.now));
        let id = waiter.id.expect("it was not removed");
        let outcome = self.shard.cancel(self.shard_config(), self.index(key), id, Some(now));
        let expected = match waiter.state {
            NaiveState::Waiting => CancelOutcome::Dequeued,
            NaiveState::Granted { .. } => CancelOutcome::Released,
            NaiveState::Expired | NaiveState::Evicted | NaiveState::Closed => CancelOutcome::AlreadyEnded,
        };
        assert_eq!(outcome, expected);
        let entry = self.entry(key);
        entry.queue.retain(|queued| *queued != number);
        entry.granted.retain(|granted| *granted != number);
        self.cancelled += u64::from(outcome != CancelOutcome::AlreadyEnded);
        if outcome == CancelOutcome::Released {
            self.grant_next(key);
        }
    }

    fn poll_final(&mut self, at: usize) {
        let (number, waiter) = self.waiters.remove(at);
        let key = waiter.key;
        let id = waiter.id.expect("it was not removed");
        let (outcome, waiting) = self.shard.poll_final(self.shard_config(), self.index(key), id);
        assert_eq!(outcome, waiter.state.outcome());
        self.entry(key).queue.retain(|queued| *queued != number);
        assert_eq!(waiting, self.entry(key).queue.len());
        if outcome == Some(WaitOutcome::Acquired) {
            self.take_grant(key, number);
        }
    }

    fn release(&mut self, at: usize) {
        let key = self.holders.swap_remove(at);
        let now = self.instant(self.now);
        let outcome = self.shard.release(self.shard_config(), self.index(key), || Some(now));
        let may_be_drained = outcome == ReleaseOutcome::Drained;
        assert_eq!(may_be_drained, self.is_closed);
        self.entry(key).holders -= 1;
        self.grant_next(key);
    }

    fn close(&mut self) {
        let wakers = self.shard.close(self.shard_config());
        self.is_closed = true;
        let waiting: Vec<_> = self.entries.values_mut().flat_map(|entry| entry.queue.drain(..)).collect();
        assert_eq!(wakers.len(), waiting.len());
        wake_all(wakers);
        for number in waiting {
            self.waiter(number).state = NaiveState::Closed;
            self.wake(number);
        }
    }

    /// Revokes the expired grants in the naive queue of a key. Returns how many it revoked, and when the oldest
    /// remaining grant was made.
    fn expire_naively(&mut self, key: u8, limit: u64) -> (usize, Option<Instant>) {
        let mut due = 0;
        while let Some(number) = self.entry(key).granted.front().copied()
            && let NaiveState::Granted { at } = self.waiter(number).state
            && at <= limit
        {
            self.entry(key).granted.pop_front();
            self.waiter(number).state = NaiveState::Expired;
            self.grant_next(key);
            due += 1;
        }
        let remaining = self.entry(key).granted.front().copied().map(|number| match self.waiter(number).state {
            NaiveState::Granted { at } => at,
            state => panic!("the waiter must be granted, not {state:?}"),
        });
        (due, remaining.map(|at| self.instant(at)))
    }

    fn expire(&mut self, at: usize, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let key = self.waiters[at].1.key;
        let (then, now) = (self.instant(limit), self.instant(self.now));
        let expired = self.shard.expire_grants(self.shard_config(), self.index(key), then, now);
        assert_eq!(expired, self.expire_naively(key, limit));
    }

    fn expire_key(&mut self, key: u8, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let (then, now) = (self.instant(limit), self.instant(self.now));
        let expired = self.shard.expire_grants_of_key(self.shard_config(), self.hash(key), &self.key(key), then, now);
        let exists = self.entries.contains_key(&key);
        assert_eq!(expired, if exists { self.expire_naively(key, limit) } else { (0, None) });
    }

    fn expire_all_keys(&mut self, age: u64) {
        let Some(limit) = self.now.checked_sub(age) else { return };
        let expired = self.shard.expire_all_grants(self.shard_config(), self.instant(limit), self.instant(self.now));
        let keys: Vec<_> = self.entries.keys().copied().collect();
        let due: usize = keys.into_iter().map(|key| self.expire_naively(key, limit).0).sum();
        assert_eq!(expired, due);
    }

    fn change_elsewhere(&mut self, more: bool) {
        let (Some(limit), Some(max)) = (&self.key_limit, self.max_keys) else { return };
        if more {
            let has_room = self.entries.len() + self.elsewhere < max;
            assert_eq!(limit.try_add(), has_room);
            self.elsewhere += usize::from(has_room);
        } else if self.elsewhere > 0 {
            limit.remove();
            self.elsewhere -= 1;
        }
    }

    fn compare(&mut self) {
        self.remove_unused();
        let waiting = self.entries.values().map(|entry| entry.queue.len()).sum();
        let expected =
            SemaphoreSnapshot { held: self.held(), waiting, granted: self.grants, is_closed: self.is_closed };
        assert_eq!(self.shard.snapshot(), expected);
        let (queued, cancelled, evicted) = (self.queued, self.cancelled, self.evicted);
        assert_eq!(self.shard.wait_counters().totals(), WaitTotals { queued, cancelled, evicted, forgotten: 0 });
        assert_eq!((self.shard.is_closed(), self.shard.is_drained()), (self.is_closed, self.is_drained()));
        assert_eq!(self.shard.len(), self.entries.len());
        assert_eq!(Arc::strong_count(&self.keys_alive), self.entries.len() + 1, "each key is stored once");
        for number in 0..KEYS {
            let (hash, key, entry) = (self.hash(number), self.key(number), self.entries.get(&number));
            assert_eq!(self.shard.find(hash, &key), entry.map(|entry| entry.index), "key {number}");
            assert_eq!(self.shard.waiting_for(hash, &key), entry.map_or(0, |entry| entry.queue.len()), "key {number}");
        }
        for (number, (wakes, expected)) in self.wakers.iter().enumerate() {
            assert_eq!(wakes.0.load(Ordering::Relaxed), *expected, "wakes of waker {number}");
        }
    }

    /// Removes every waiter and holder, in an order that `choice` decides.
    fn drain(&mut self, mut choice: usize) {
        while !self.entries.is_empty() {
            choice = choice.rotate_right(3);
            let step = match choice % 4 {
                0 => Step::Cancel(choice),
                1 => Step::Poll(choice, false),
                _ => Step::Release(choice),
            };
            self.apply(&step);
            // While a waiter is queued, its key has a holder: release one of the holders.
            self.apply(&Step::Release(choice));
        }
        assert!(self.waiters.is_empty() && self.holders.is_empty());
        for (wakes, _) in &self.wakers {
            assert_eq!(Arc::strong_count(wakes), 1, "the shard keeps the waker of a removed waiter");
        }
        // At the end, the limit allows as many keys as at the start.
        if let (Some(limit), Some(max)) = (&self.key_limit, self.max_keys) {
            let free = (0..=max).take_while(|_| limit.try_add()).count();
            assert_eq!(free, max - self.elsewhere);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shard_behaves_like_a_naive_queue_for_each_key(
        permits in 1..=3_usize,
        bound in 0..=4_usize,
        lifo in any::<bool>(),
        max_keys in prop::option::of(1..=4_usize),
        hashes in 1..=KEYS,
        program in prop::collection::vec(step(), 0..120),
        choice in any::<usize>(),
    ) {
        let order = if lifo { Order::Lifo } else { Order::Fifo };
        let mut pair = Pair::new(SemaphoreConfig { permits, bound, order }, max_keys, hashes);
        for step in &program {
            pair.apply(step);
        }
        pair.drain(choice);
    }
}
