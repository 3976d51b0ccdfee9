//! The cost of one permit of a key, compared to the keyed locks that are in common use. Ids are `group/variant`, and
//! the goals are ratios.
//!
//! `cargo bench --features full --bench keyed`
//!
//! Two peers leak memory: in `lockable` and `keyed_lock`, a waiter that is dropped between its grant and its next poll
//! leaves its key behind until the same key is locked again. A client that disconnects in the queue causes exactly
//! that. `dashmap_tokio` keeps every key by design. The lines `cancelled_waiters VARIANT: N of 1000 keys remain` show
//! it.

#![allow(clippy::print_stdout, reason = "it prints which keys the peers leak")]

mod harness;

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use keyed_lock::r#async::{Guard, KeyedLock};
use lockable::{LockPool, Lockable};
use onelane::{KeyedGuard, KeyedPermit};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{unconstrained, yield_now};

use harness::{RacyCounter, is_measured, leak, one_thread};

const UNIFORM_KEYS: u64 = 1_000_000;
const TASKS: u64 = 64;
const CANCELLED: u64 = 1_000;

trait Key: Hash + Eq + Clone + Send + Sync + 'static {}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Key for K {}

/// A map with one lock per key.
trait Locks<K: Key>: Send + Sync + 'static {
    const NAME: &str;
    type Held<'a>: Send;

    fn new() -> Self;

    fn lock(&self, key: K) -> impl Future<Output = Self::Held<'_>> + Send;

    /// Returns the number of keys, if the map can count those in use.
    fn count(&self) -> Option<usize>;

    /// Brings the map to the state in which every key was used before.
    fn prefill(&self, _keys: impl Iterator<Item = K>) {}
}

impl<K: Key> Locks<K> for KeyedGuard<K> {
    const NAME: &str = "onelane";
    type Held<'a> = KeyedPermit<'a, K>;

    fn new() -> Self {
        Self::new("bench")
    }

    async fn lock(&self, key: K) -> Self::Held<'_> {
        self.acquire(key).await.expect("open")
    }

    fn count(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl<K: Key> Locks<K> for LockPool<K> {
    const NAME: &str = "lockable";
    type Held<'a> = <Self as Lockable<K, ()>>::Guard<'a>;

    fn new() -> Self {
        Self::new()
    }

    async fn lock(&self, key: K) -> Self::Held<'_> {
        self.async_lock(key).await
    }

    fn count(&self) -> Option<usize> {
        Some(self.num_locked())
    }
}

impl<K: Key> Locks<K> for KeyedLock<K> {
    const NAME: &str = "keyed_lock";
    type Held<'a> = Guard<'a, K>;

    fn new() -> Self {
        Self::new()
    }

    async fn lock(&self, key: K) -> Self::Held<'_> {
        self.lock(key).await
    }

    fn count(&self) -> Option<usize> {
        None
    }
}

/// The common recipe: a concurrent map of mutexes. It cannot know when to remove one, so it never does.
struct DashmapTokio<K>(DashMap<K, Arc<Mutex<()>>>);

impl<K: Key> Locks<K> for DashmapTokio<K> {
    const NAME: &str = "dashmap_tokio";
    type Held<'a> = OwnedMutexGuard<()>;

    fn new() -> Self {
        Self(DashMap::new())
    }

    async fn lock(&self, key: K) -> Self::Held<'_> {
        let mutex = Arc::clone(&self.0.entry(key).or_default());
        mutex.lock_owned().await
    }

    fn count(&self) -> Option<usize> {
        // The map keeps all keys, in use or not.
        None
    }

    fn prefill(&self, keys: impl Iterator<Item = K>) {
        for key in keys {
            self.0.entry(key).or_default();
        }
    }
}

fn assert_unused<K: Key>(locks: &impl Locks<K>) {
    assert!(locks.count().is_none_or(|count| count == 0), "a key remains");
}

/// Times locking of keys on one thread, without the yield that tokio forces after every 128 operations of a task.
fn bench_sequential<L: Locks<u64>>(c: &mut Criterion, group: &str, locks: &L, mut key: impl FnMut() -> u64) {
    let runtime = one_thread();
    c.benchmark_group(group).bench_function(L::NAME, |b| {
        b.iter_custom(|iterations| {
            let counter = RacyCounter::default();
            runtime.block_on(unconstrained(async {
                let start = Instant::now();
                for before in 0..iterations {
                    let _held = locks.lock(key()).await;
                    assert_eq!(counter.add_one(), before + 1);
                }
                let elapsed = start.elapsed();
                counter.assert_total(iterations);
                assert_unused(locks);
                elapsed
            }))
        });
    });
}

fn one_key(c: &mut Criterion) {
    fn bench<L: Locks<u64>>(c: &mut Criterion) {
        bench_sequential(c, "one_key", &L::new(), || 7);
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
}

/// Returns a generator of uniformly distributed keys, one of a million. (Knuth's MMIX generator: its high bits are good
/// enough, and it takes a nanosecond.)
fn uniform() -> impl FnMut() -> u64 {
    let mut state: u64 = 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 32) * UNIFORM_KEYS) >> 32
    }
}

fn uniform_1m(c: &mut Criterion) {
    fn bench<L: Locks<u64>>(c: &mut Criterion) {
        let locks = L::new();
        if is_measured() {
            locks.prefill(0..UNIFORM_KEYS);
        }
        bench_sequential(c, "uniform_1m", &locks, uniform());
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
    // The share of the generator and the loop.
    let mut key = uniform();
    c.benchmark_group("uniform_1m").bench_function("key_alone", |b| b.iter(&mut key));
}

/// Times 64 tasks on two workers. Each yields once while it holds the lock.
fn contended_one_key(c: &mut Criterion) {
    fn bench<L: Locks<u64>>(c: &mut Criterion) {
        let locks = leak(L::new());
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        c.benchmark_group("contended_one_key").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| {
                let counter = leak(RacyCounter::default());
                let rounds = iterations.div_ceil(TASKS);
                let elapsed = runtime.block_on(async {
                    let start = Instant::now();
                    let tasks: Vec<_> = (0..TASKS)
                        .map(|_| {
                            tokio::spawn(async move {
                                for _ in 0..rounds {
                                    let _held = locks.lock(7).await;
                                    let before = counter.add_one();
                                    yield_now().await;
                                    assert_eq!(counter.get(), before, "callers overlapped");
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no panic");
                    }
                    start.elapsed()
                });
                counter.assert_total(rounds * TASKS);
                assert_unused(locks);
                elapsed.mul_f64(iterations as f64 / (rounds * TASKS) as f64)
            });
        });
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
}

/// A key whose reference count shows if a map still has it.
type Counted = Arc<u64>;

/// Storage for a future, so that no allocation of the bench is timed.
struct Slot<F>(Pin<Box<Option<F>>>);

impl<F: Future> Slot<F> {
    fn empty() -> Self {
        Self(Box::pin(None))
    }

    fn poll(&mut self, future: F) -> Poll<F::Output> {
        self.0.set(Some(future));
        let future = self.0.as_mut().as_pin_mut().expect("the future was just stored");
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn clear(&mut self) {
        self.0.set(None);
    }
}

/// Locks 1,000 keys and enqueues a waiter for each. Then releases the locks, which grants them to the waiters, and
/// drops the waiters without polling them again. Returns the elapsed time and the number of keys that remain. (The
/// remaining keys are freed after that time, which spares a map that leaks.)
fn cancel_waiters<L: Locks<Counted>>(keys: &[Counted]) -> (Duration, usize) {
    let locks = L::new();
    let mut slots: Vec<_> = keys.iter().map(|_| (Slot::empty(), Slot::empty())).collect();
    // A first use of all keys, so that no map grows for the first time below.
    let mut held = Vec::with_capacity(keys.len());
    for ((first, _), key) in slots.iter_mut().zip(keys) {
        held.push(first.poll(locks.lock(Arc::clone(key))));
    }
    held.clear();
    assert_unused(&locks);

    let start = Instant::now();
    for ((first, second), key) in slots.iter_mut().zip(keys) {
        let holder = first.poll(locks.lock(Arc::clone(key)));
        assert!(holder.is_ready(), "the first caller is admitted");
        held.push(holder);
        assert!(second.poll(locks.lock(Arc::clone(key))).is_pending(), "the second waits");
    }
    held.clear();
    for (_, second) in &mut slots {
        second.clear();
    }
    let elapsed = start.elapsed();

    slots.iter_mut().for_each(|(first, _)| first.clear());
    let remaining = keys.iter().filter(|key| Arc::strong_count(key) > 1).count();
    assert!(locks.count().is_none_or(|count| count == remaining), "the map's own count agrees");
    if L::NAME == "onelane" {
        assert_eq!(remaining, 0, "a key remains");
    }
    (elapsed, remaining)
}

fn cancelled_waiters(c: &mut Criterion) {
    fn bench<L: Locks<Counted>>(c: &mut Criterion) {
        let keys: Vec<_> = (0..CANCELLED).map(Arc::new).collect();
        let (_, remaining) = cancel_waiters::<L>(&keys);
        println!("cancelled_waiters {}: {remaining} of {CANCELLED} keys remain", L::NAME);
        c.benchmark_group("cancelled_waiters").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| (0..iterations).map(|_| cancel_waiters::<L>(&keys).0).sum());
        });
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = one_key, uniform_1m, contended_one_key, cancelled_waiters
}
criterion_main!(benches);
