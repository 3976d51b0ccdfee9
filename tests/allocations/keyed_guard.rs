//! A keyed guard keeps no byte of keys that are gone.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use onelane::guard::futures::AcquireKey;
use onelane::{AcquireError, KeyedGuard, KeyedPermit};
use tokio::task::coop::unconstrained;
use tokio::time::advance;

use support::counting::{allocations_of, live_bytes};
use support::leak;
use support::polling::{self, poll_once};
use support::runtimes::paused;

const KEYS: u32 = 100_000;

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    polling::poll(Pin::new(future))
}

/// Returns a key that owns memory, because it is too long for any inline storage of short strings.
fn key(number: u32) -> String {
    format!("a key whose name takes memory: {number:08}")
}

fn held(guard: &KeyedGuard<String>, number: u32) -> KeyedPermit<'_, String> {
    guard.try_acquire(key(number)).unwrap()
}

fn queued(guard: &KeyedGuard<String>, number: u32) -> AcquireKey<'_, String> {
    let mut caller = guard.acquire(key(number));
    assert!(poll(&mut caller).is_pending());
    caller
}

/// Returns a caller that was granted a permit and has not taken it.
fn granted(guard: &KeyedGuard<String>, number: u32) -> AcquireKey<'_, String> {
    let permit = held(guard, number);
    let caller = queued(guard, number);
    drop(permit);
    caller
}

fn assert_nothing_remains(guard: &KeyedGuard<String>) {
    let GuardStats { held, waiting, .. } = guard.stats();
    assert_eq!((guard.len(), held, waiting), (0, 0, 0));
}

/// Begins and ends every key, first one after the other, then all at the same time, and compares the memory before and
/// after.
///
/// A first round that is not counted makes the allocations that happen only once.
fn assert_no_memory_remains<'a, T>(
    guard: &'a KeyedGuard<String>,
    begin: impl Fn(&'a KeyedGuard<String>, u32) -> T,
    end: impl Fn(u32, T),
) {
    end(0, begin(guard, 0));
    let before = live_bytes();
    for number in 0..KEYS {
        let begun = begin(guard, number);
        assert!(live_bytes() > before, "a key in use takes memory");
        end(number, begun);
        assert_eq!(live_bytes() - before, 0, "key {number}");
    }
    assert_nothing_remains(guard);

    // From the front, and in scattered order: 7,919 and the number of keys are coprime.
    let orders: [fn(u32) -> u32; 2] = [|i| i, |i| i * 7_919 % KEYS];
    for next in orders {
        let mut begun: Vec<_> = (0..KEYS).map(|number| Some(begin(guard, number))).collect();
        assert_eq!(guard.len(), KEYS as usize);
        for i in 0..KEYS {
            end(next(i), begun[next(i) as usize].take().unwrap());
            if i % 1_000 == 0 {
                assert_eq!(guard.len(), (KEYS - 1 - i) as usize);
            }
        }
        drop(begun);
        assert_eq!(live_bytes() - before, 0, "all at the same time");
        assert_nothing_remains(guard);
    }
}

#[test]
fn allocator_counts() {
    crate::assert_allocator_counts();
}

#[test]
fn keys_of_finished_callers_leave_no_memory() {
    let guard = KeyedGuard::new("finished");
    assert_no_memory_remains(&guard, held, |_, permit| drop(permit));
    assert_eq!(guard.stats().granted, 3 * u64::from(KEYS) + 1);
}

#[test]
fn keys_of_cancelled_waiters_leave_no_memory() {
    let guard = KeyedGuard::new("cancelled");
    let begin = |guard, number| (held(guard, number), queued(guard, number), queued(guard, number));
    assert_no_memory_remains(&guard, begin, |_, (permit, first, second)| {
        drop(first);
        drop(permit);
        drop(second);
    });
}

#[test]
fn keys_of_cancelled_grants_leave_no_memory() {
    let guard = KeyedGuard::new("granted");
    assert_no_memory_remains(&guard, granted, |_, caller| drop(caller));
    assert_eq!(guard.stats().cancelled, 3 * u64::from(KEYS) + 1);
}

#[test]
fn keys_of_panicking_holders_leave_no_memory() {
    let guard = KeyedGuard::new("panicked");
    assert_no_memory_remains(&guard, held, |_, permit| {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _permit = permit;
            // Panics without calling the panic hook, so that no message is printed.
            resume_unwind(Box::new("panicked"));
        }));
        assert!(panicked.is_err());
    });
    assert_eq!(guard.stats().panicked, 3 * u64::from(KEYS) + 1);
}

#[test]
fn keys_of_panicking_runs_leave_no_memory() {
    let guard = KeyedGuard::new("panicked");
    let begin = |guard: &'static KeyedGuard<String>, number| {
        let mut run = Box::pin(guard.run(key(number), async {
            tokio::task::yield_now().await;
            resume_unwind(Box::new("panicked"));
        }));
        assert!(poll(&mut run).is_pending());
        run
    };
    let guard: &'static KeyedGuard<String> = leak(guard);
    assert_no_memory_remains(guard, begin, |_, mut run| {
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut run))).is_err());
    });
}

#[test]
fn keys_of_timed_out_callers_leave_no_memory() {
    const LIMIT: Duration = Duration::from_secs(1);
    let runtime = paused();
    let guard = KeyedGuard::builder("late").max_wait(LIMIT).build();
    let round = |keys: u32| {
        // One poll makes more calls than the coop budget allows.
        runtime.block_on(unconstrained(async {
            let permits: Vec<_> = (0..keys).map(|number| held(&guard, number)).collect();
            let mut callers: Vec<_> = (0..keys).map(|number| queued(&guard, number)).collect();
            advance(2 * LIMIT).await;
            for caller in &mut callers {
                let Poll::Ready(Err(error)) = poll(caller) else { panic!("the caller should have timed out") };
                assert_eq!(error, AcquireErrorKind::Timeout);
            }
            assert_eq!((guard.len(), guard.stats().waiting), (keys as usize, 0));
            drop((permits, callers));
        }));
    };
    // The runtime allocates once for its first timers.
    round(KEYS);
    let before = live_bytes();
    round(KEYS);
    for _ in 0..1_000 {
        round(1);
    }
    assert_eq!(live_bytes() - before, 0);
    assert_eq!(guard.stats().timed_out, 2 * u64::from(KEYS) + 1_000);
    assert_nothing_remains(&guard);
}

#[test]
fn keys_of_expired_grants_leave_no_memory_after_the_last_poll() {
    const LIMIT: Duration = Duration::from_secs(1);
    let runtime = paused();
    let guard = KeyedGuard::builder("expired").grant_timeout(LIMIT).build();
    let round = || {
        runtime.block_on(unconstrained(async {
            let mut callers: Vec<_> = (0..KEYS).map(|number| granted(&guard, number)).collect();
            advance(2 * LIMIT).await;
            for (number, caller) in (0..KEYS).zip(&mut callers) {
                drop(held(&guard, number));
                assert!(matches!(poll(caller), Poll::Ready(Err(error)) if error == AcquireErrorKind::GrantExpired));
            }
            assert_eq!(guard.len(), 0);
        }));
    };
    round();
    let before = live_bytes();
    round();
    assert_eq!(live_bytes() - before, 0);
    assert_eq!(guard.stats().expired, 2 * u64::from(KEYS));
    assert_nothing_remains(&guard);
}

#[test]
fn keys_beyond_the_limit_leave_no_memory() {
    let guard = KeyedGuard::builder("full").max_keys(1).build();
    let permit = held(&guard, KEYS);
    let refused = |number| {
        let is_too_many = |error: AcquireError| error == AcquireErrorKind::TooManyKeys;
        assert!(is_too_many(guard.try_acquire(key(number)).unwrap_err()));
        assert!(is_too_many(poll_once(guard.acquire(key(number))).unwrap_err()));
        assert!(is_too_many(poll_once(guard.run(key(number), ready(()))).unwrap_err()));
        assert!(is_too_many(poll_once(guard.acquire_all([key(number), key(KEYS + 1)])).unwrap_err()));
    };
    refused(0);
    let before = live_bytes();
    for number in 0..KEYS {
        refused(number);
        assert_eq!(live_bytes() - before, 0, "key {number}");
    }
    assert_eq!(guard.len(), 1);
    drop(permit);
    assert_nothing_remains(&guard);
}

#[test]
fn keys_acquired_together_leave_no_memory() {
    let guard = KeyedGuard::new("together");
    let both = |guard: &'static KeyedGuard<String>, number| {
        poll_once(guard.acquire_all([key(number), key(number + KEYS), key(number)])).unwrap()
    };
    let guard: &'static KeyedGuard<String> = leak(guard);
    drop(both(guard, 0));
    let before = live_bytes();
    for number in 0..KEYS {
        drop(both(guard, number));
        assert_eq!(live_bytes() - before, 0, "key {number}");
    }
    let all: Vec<_> = (0..KEYS / 2).map(|number| both(guard, number)).collect();
    assert_eq!(guard.len(), KEYS as usize);
    drop(all);
    assert_eq!(live_bytes() - before, 0);

    let all = poll_once(guard.acquire_all((0..KEYS).map(key))).unwrap();
    assert_eq!((all.len(), guard.len()), (KEYS as usize, KEYS as usize));
    drop(all);
    assert_eq!(live_bytes() - before, 0);

    // A caller is cancelled while it waits for the last key.
    let permit = held(guard, KEYS - 1);
    let mut waiter = guard.acquire_all((0..KEYS).map(key));
    assert!(poll(&mut waiter).is_pending());
    assert_eq!(guard.stats().held, KEYS as usize);
    drop(waiter);
    assert_eq!(guard.len(), 1);
    drop(permit);
    assert_eq!(live_bytes() - before, 0);
    assert_nothing_remains(guard);
}

#[test]
fn keys_of_callers_refused_by_close_leave_no_memory() {
    let guard = KeyedGuard::new("closed");
    let first = granted(&guard, 0);
    // The first refusal of a name keeps the name for the life of the process.
    guard.try_acquire(key(0)).unwrap_err();
    drop(first);
    let before = live_bytes();
    let permits: Vec<_> = (0..KEYS).map(|number| held(&guard, number)).collect();
    let mut callers: Vec<_> = (0..KEYS).map(|number| queued(&guard, number)).collect();
    guard.close();
    drop(permits);
    assert_eq!(guard.len(), KEYS as usize, "no waiter was polled since the close");
    for caller in callers.iter_mut().step_by(2) {
        assert!(matches!(poll(caller), Poll::Ready(Err(error)) if error == AcquireErrorKind::Closed));
    }
    assert_eq!(guard.len(), KEYS as usize / 2);
    drop(callers);
    assert_eq!(live_bytes() - before, 0);
    assert_nothing_remains(&guard);
}

#[test]
fn slots_of_keys_are_reused_while_one_key_is_held() {
    let guard = KeyedGuard::new("kept");
    drop(held(&guard, 0));
    let before = live_bytes();
    let kept = held(&guard, KEYS);
    for number in 0..KEYS {
        drop(held(&guard, number));
    }
    // Each shard keeps at most one entry, in addition to that of the key that is held.
    assert!(live_bytes() - before < 2_048, "{} bytes for one key", live_bytes() - before);
    drop(kept);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn free_key_allocates_nothing() {
    let guard = Arc::new(KeyedGuard::builder("free").max_wait(Duration::from_secs(1)).max_keys(10).build());
    // The first run allocates the map and the thread's list of the guards that it is inside.
    poll_once(guard.run(0, ready(()))).unwrap();
    let made = [
        allocations_of(|| poll_once(guard.acquire(1)).unwrap()),
        allocations_of(|| poll_once(Arc::clone(&guard).acquire_owned(2)).unwrap()),
        allocations_of(|| guard.try_acquire(3).unwrap()),
        allocations_of(|| Arc::clone(&guard).try_acquire_owned(4).unwrap()),
        allocations_of(|| guard.acquire_blocking(5).unwrap()),
        allocations_of(|| poll_once(guard.run(6, async { 7 })).unwrap()),
        allocations_of(|| (guard.stats(), guard.len())),
    ];
    assert_eq!(made, [0; 7]);
    let _permit = guard.try_acquire(1).unwrap();
    // The first refusal of a name keeps the name for the life of the process.
    guard.try_acquire(1).unwrap_err();
    assert_eq!(allocations_of(|| guard.try_acquire(1).unwrap_err()), 0);
}
