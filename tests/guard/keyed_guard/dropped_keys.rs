//! The guard drops keys where their destructors may call it.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use onelane::{KeyedGuard, Queue};
use tokio_test::{assert_ready_err, assert_ready_ok, task};

use support::waiting::spin_until;

use super::{assert_idle, queued};

static GUARD: KeyedGuard<Calling> = KeyedGuard::builder("calling").queue(Queue::Bounded(2)).max_keys(4).build();
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A key whose destructor acquires another key of the same guard.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Calling(u32);

impl Hash for Calling {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // All hashes are equal, so that all keys share one shard.
        0_u8.hash(state);
    }
}

const QUIET: u32 = 1_000;

impl Drop for Calling {
    fn drop(&mut self) {
        if self.0 >= QUIET {
            return;
        }
        CALLS.fetch_add(1, Ordering::SeqCst);
        assert!(GUARD.len() <= 4);
        assert!(GUARD.stats().held <= 4);
        drop(GUARD.try_acquire(Self(QUIET + self.0)));
        drop(task::spawn(GUARD.acquire(Self(QUIET + 1 + self.0))).poll());
    }
}

fn calls_of<R>(f: impl FnOnce() -> R) -> usize {
    let before = CALLS.load(Ordering::SeqCst);
    drop(f());
    CALLS.load(Ordering::SeqCst) - before
}

fn program() {
    assert_eq!(calls_of(|| GUARD.acquire(Calling(1))), 1, "the caller is never polled");
    assert_eq!(calls_of(|| GUARD.try_acquire(Calling(1)).unwrap()), 1, "the key's entry is removed");

    let permit = GUARD.try_acquire(Calling(1)).unwrap();
    assert_eq!(calls_of(|| GUARD.try_acquire(Calling(1)).unwrap_err()), 1, "the caller is refused");
    let mut waiter = None;
    assert_eq!(calls_of(|| waiter = Some(queued(&GUARD, Calling(1)))), 1, "the entry already has an equal key");
    let cancelled = queued(&GUARD, Calling(1));
    assert_eq!(calls_of(|| assert_ready_err!(task::spawn(GUARD.acquire(Calling(1))).poll())), 1, "the queue is full");
    assert_eq!(calls_of(|| cancelled), 0, "the entry is still in use");
    assert_eq!(calls_of(|| permit), 0, "the entry is still in use");
    assert_eq!(calls_of(|| waiter), 1, "the last caller is dropped with its grant");
    assert!(GUARD.is_empty());

    let others = [1, 2, 3].map(|key| GUARD.try_acquire(Calling(key)).unwrap());
    let last = GUARD.try_acquire(Calling(4)).unwrap();
    assert_eq!(calls_of(|| GUARD.try_acquire(Calling(5)).unwrap_err()), 1, "there are too many keys");
    assert_eq!(
        calls_of(|| assert_ready_err!(task::spawn(GUARD.acquire(Calling(5))).poll())),
        1,
        "there are too many keys"
    );
    assert_eq!(calls_of(|| last), 1);
    assert_eq!(calls_of(|| others), 3);
    let all = || assert_ready_ok!(task::spawn(GUARD.acquire_all([2, 1, 2].map(Calling))).poll());
    assert_eq!(calls_of(all), 3);

    let permit = GUARD.try_acquire(Calling(1)).unwrap();
    let mut polled = queued(&GUARD, Calling(1));
    assert_eq!(calls_of(|| GUARD.close()), 0);
    assert_eq!(calls_of(|| permit), 0, "one waiter was not polled since the close");
    assert_eq!(calls_of(|| assert_ready_err!(polled.poll())), 1);
    assert_idle(&GUARD);
}

#[test]
fn destructor_of_a_key_may_call_the_guard() {
    // On a separate thread, so that a deadlock fails instead of hanging.
    let program = thread::spawn(program);
    spin_until(|| program.is_finished());
    program.join().unwrap();
}
