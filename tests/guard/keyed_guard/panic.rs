//! Panics of holders and of keys.

use std::cell::Cell;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use onelane::guard::GuardStats;
use onelane::{KeyedGuard, Queue};
use tokio_test::{assert_pending, assert_ready_ok, task};

use support::leak;
use support::polling::poll_caught;

use super::{assert_idle, is_too_many, queued};

#[test]
fn panic_in_run_releases_the_key_while_the_future_is_kept() {
    let guard = leak(KeyedGuard::new("panic"));
    let mut run = pin!(guard.run(1, async { panic!("in the work") }));
    let mut next = task::spawn(guard.acquire(1));
    assert!(poll_caught(run.as_mut()).is_err());
    assert_idle(guard);
    drop(assert_ready_ok!(next.poll()));

    let mut run = pin!(guard.run_to_completion(1, async { panic!("in the work") }));
    assert!(poll_caught(run.as_mut()).is_err());
    assert_idle(guard);
    assert_eq!(guard.stats().panicked, 2);
    // The thread no longer counts as inside the guard: a caller that finds the key held waiter.
    let _permit = guard.try_acquire(1).unwrap();
    assert_pending!(task::spawn(guard.acquire(1)).poll());
}

#[test]
fn panic_of_a_holder_passes_the_permit_to_the_next_waiter_of_its_key() {
    let guard = Arc::new(KeyedGuard::new("panic"));
    let permits = [1, 2].map(|key| Arc::clone(&guard).try_acquire_owned(key).unwrap());
    let mut callers = [1, 2].map(|key| queued(&guard, key));
    let [first, second] = permits;
    let holder = thread::spawn(move || {
        let _permit = first;
        panic!("while it holds the permit");
    });
    assert!(holder.join().is_err());
    assert_pending!(callers[1].poll());
    drop(assert_ready_ok!(callers[0].poll()));
    drop(second);
    drop(assert_ready_ok!(callers[1].poll()));
    assert_eq!(guard.stats().panicked, 1);
    assert_idle(&guard);
}

#[test]
fn panic_of_a_holder_of_several_keys_releases_them_all() {
    let guard = Arc::new(KeyedGuard::new("panic"));
    let holder = thread::spawn({
        let guard = Arc::clone(&guard);
        move || {
            let _permits = assert_ready_ok!(task::spawn(guard.acquire_all([1, 2, 3])).poll());
            panic!("while it holds the permits");
        }
    });
    assert!(holder.join().is_err());
    assert_eq!(guard.stats().panicked, 3);
    assert_idle(&guard);
}

thread_local! {
    /// The number of comparisons and hashes until one panics.
    static FUSE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn burn() {
    if let Some(left) = FUSE.get() {
        FUSE.set(left.checked_sub(1));
        assert!(left > 0, "a key panics");
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord)]
struct Fragile(u32);

impl PartialEq for Fragile {
    fn eq(&self, other: &Self) -> bool {
        burn();
        self.0 == other.0
    }
}

impl Hash for Fragile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        burn();
        // All hashes are equal, so that keys are compared.
        0_u8.hash(state);
    }
}

/// Calls every method that looks a key up: callers are admitted at once, wait, or are refused.
fn look_up(guard: &Arc<KeyedGuard<Fragile>>, key: u32) {
    let key = Fragile(key);
    drop(guard.try_acquire(key));
    drop(Arc::clone(guard).try_acquire_owned(key));
    drop(task::spawn(guard.acquire(key)).poll());
    drop(task::spawn(guard.run(key, async {})).poll());
    drop(task::spawn(guard.run(Fragile(8), async { drop(guard.acquire(key).await) })).poll());
    drop(task::spawn(guard.acquire_all([key, Fragile(9), key])).poll());
    drop(task::spawn(Arc::clone(guard).run_to_completion_owned(key, async {})).poll());
    if guard.stats().waiting > 0 {
        // The queue of key 0 is full, so this call does not block.
        drop(guard.acquire_blocking(Fragile(0)));
    }
}

#[test]
fn key_that_panics_when_hashed_or_compared_leaves_the_guard_unchanged() {
    let guard = Arc::new(KeyedGuard::builder("fragile").queue(Queue::Bounded(1)).max_keys(4).build());
    let permits = [0, 1, 2].map(|key| guard.try_acquire(Fragile(key)).unwrap());
    let mut waiter = queued(&guard, Fragile(0));
    let now = || {
        let GuardStats { held, waiting, detached, .. } = guard.stats();
        (guard.len(), held, waiting, detached)
    };
    for key in [0, 1, 3] {
        let mut panics = 0;
        loop {
            FUSE.set(Some(panics));
            let panicked = catch_unwind(AssertUnwindSafe(|| look_up(&guard, key))).is_err();
            FUSE.set(None);
            assert_eq!(now(), (3, 3, 1, 0), "key {key}, panic {panics}");
            if !panicked {
                break;
            }
            panics += 1;
        }
        assert!(panics > 20, "only {panics} panics");
    }
    drop(permits);
    drop(assert_ready_ok!(waiter.poll()));
    assert_idle(&guard);
    // All of `max_keys` is still available.
    let permits = [0, 1, 2, 3].map(|key| guard.try_acquire(Fragile(key)).unwrap());
    assert!(is_too_many(&guard.try_acquire(Fragile(4)).unwrap_err()));
    drop(permits);
    assert_eq!(Arc::strong_count(&guard), 1);
}
