//! What a turn of one key costs, beside the keyed locks that people use today. Ids are `group/variant`; the goals are
//! ratios.
//!
//! `cargo bench --features full --bench keyed`
//!
//! Two peers lose memory: a waiter that is dropped after its turn came, and before it was polled, leaves its key behind
//! in `lockable` and in `keyed_lock`, until someone asks for the same key again. That is what a client does that
//! disconnects in the queue. `dashmap_tokio` keeps every key by design. The lines `cancelled_waiters VARIANT: N of 1000
//! keys remain` show it.

#![allow(clippy::print_stdout, reason = "it prints what the peers leave behind")]

use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use keyed_lock::r#async::{Guard, KeyedLock};
use lockable::{LockPool, Lockable};
use onelane::{KeyedGuard, KeyedPermit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{unconstrained, yield_now};

const UNIFORM_KEYS: u64 = 1_000_000;
const TASKS: u64 = 64;
const CANCELLED: u64 = 1_000;

trait Key: Hash + Eq + Clone + Send + Sync + 'static {}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Key for K {}

/// One lock for each key.
trait Locks<K: Key>: Send + Sync + 'static {
    const NAME: &str;
    type Held<'a>: Send;

    fn new() -> Self;

    fn lock(&self, key: K) -> impl Future<Output = Self::Held<'_>> + Send;

    /// How many keys it knows, where it can tell.
    fn count(&self) -> Option<usize>;

    /// Makes it as it is after every key was used.
    fn visit(&self, _keys: impl Iterator<Item = K>) {}
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

/// What people paste: a concurrent map of mutexes. Nothing says when one may be removed, so it never is.
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
        // It keeps them all, in use or not.
        None
    }

    fn visit(&self, keys: impl Iterator<Item = K>) {
        for key in keys {
            self.0.entry(key).or_default();
        }
    }
}

/// Work that only one caller at a time may do: a read and a write that are not one step.
#[derive(Default)]
struct Till(AtomicU64);

impl Till {
    fn add_one(&self) -> u64 {
        let value = self.0.load(Ordering::Relaxed) + 1;
        self.0.store(value, Ordering::Relaxed);
        value
    }

    fn assert_is(&self, sum: u64) {
        assert_eq!(self.0.load(Ordering::Relaxed), sum, "callers overlapped, or calls were lost");
    }
}

fn assert_unused<K: Key>(locks: &impl Locks<K>) {
    assert!(locks.count().is_none_or(|count| count == 0), "a key remains");
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

/// Whether this is a measurement, and not a test that the benches run.
fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Times turns of keys on one thread, without the yield that tokio forces every 128 operations of a task.
fn bench_turns<L: Locks<u64>>(c: &mut Criterion, group: &str, locks: &L, mut key: impl FnMut() -> u64) {
    let runtime = one_thread();
    c.benchmark_group(group).bench_function(L::NAME, |b| {
        b.iter_custom(|iterations| {
            let till = Till::default();
            runtime.block_on(unconstrained(async {
                let start = Instant::now();
                for before in 0..iterations {
                    let _held = locks.lock(key()).await;
                    assert_eq!(till.add_one(), before + 1);
                }
                let elapsed = start.elapsed();
                till.assert_is(iterations);
                assert_unused(locks);
                elapsed
            }))
        });
    });
}

fn one_key(c: &mut Criterion) {
    fn bench<L: Locks<u64>>(c: &mut Criterion) {
        bench_turns(c, "one_key", &L::new(), || 7);
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
}

/// One of a million keys, as likely as any other. (Knuth's MMIX generator: its high bits are good enough, and it takes
/// a nanosecond.)
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
            locks.visit(0..UNIFORM_KEYS);
        }
        bench_turns(c, "uniform_1m", &locks, uniform());
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
    // What the generator and the loop take of it.
    let mut key = uniform();
    c.benchmark_group("uniform_1m").bench_function("key_alone", |b| b.iter(&mut key));
}

/// Two workers, 64 tasks, one yield inside each turn.
fn contended_one_key(c: &mut Criterion) {
    fn bench<L: Locks<u64>>(c: &mut Criterion) {
        let locks = leak(L::new());
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        c.benchmark_group("contended_one_key").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| {
                let till = leak(Till::default());
                let each = iterations.div_ceil(TASKS);
                let elapsed = runtime.block_on(async {
                    let start = Instant::now();
                    let tasks: Vec<_> = (0..TASKS)
                        .map(|_| {
                            tokio::spawn(async move {
                                for _ in 0..each {
                                    let _held = locks.lock(7).await;
                                    let before = till.add_one();
                                    yield_now().await;
                                    assert_eq!(till.0.load(Ordering::Relaxed), before, "callers overlapped");
                                }
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no panic");
                    }
                    start.elapsed()
                });
                till.assert_is(each * TASKS);
                assert_unused(locks);
                elapsed.mul_f64(iterations as f64 / (each * TASKS) as f64)
            });
        });
    }
    bench::<KeyedGuard<_>>(c);
    bench::<LockPool<_>>(c);
    bench::<KeyedLock<_>>(c);
    bench::<DashmapTokio<_>>(c);
}

/// A key that tells whether a map has it: by how many share it.
type Counted = Arc<u64>;

/// A place for a future, so that no allocation of the bench is timed.
struct Slot<F>(Pin<Box<Option<F>>>);

impl<F: Future> Slot<F> {
    fn empty() -> Self {
        Self(Box::pin(None))
    }

    fn poll(&mut self, future: F) -> Poll<F::Output> {
        self.0.set(Some(future));
        let future = self.0.as_mut().as_pin_mut().expect("it was just put there");
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn clear(&mut self) {
        self.0.set(None);
    }
}

/// 1,000 keys are held and have a waiter each. The holders leave, so the waiters' turns have come, and then the waiters
/// leave without ever having been polled again. Returns the time that took, and how many keys remain. (What remains is
/// freed outside of that time: whoever leaks saves it.)
fn cancel_waiters<L: Locks<Counted>>(keys: &[Counted]) -> (Duration, usize) {
    let locks = L::new();
    let mut slots: Vec<_> = keys.iter().map(|_| (Slot::empty(), Slot::empty())).collect();
    // Maps don't grow any more then, or not for the first time.
    let mut held = Vec::with_capacity(keys.len());
    for ((first, _), key) in slots.iter_mut().zip(keys) {
        held.push(first.poll(locks.lock(Arc::clone(key))));
    }
    held.clear();
    assert_unused(&locks);

    let start = Instant::now();
    for ((first, second), key) in slots.iter_mut().zip(keys) {
        let holder = first.poll(locks.lock(Arc::clone(key)));
        assert!(holder.is_ready(), "the first caller gets in");
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
    assert!(locks.count().is_none_or(|count| count == remaining), "it says so itself");
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
