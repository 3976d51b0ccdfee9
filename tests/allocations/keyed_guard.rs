//! What a keyed guard keeps of keys that are gone: nothing, to the byte.
//!
//! A binary of its own, because it counts every allocation. It counts by thread, so that tests don't see each other.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use onelane::{AcquireError, AcquireKey, GuardStats, KeyedGuard, KeyedPermit};
use tokio::runtime::{Builder, Runtime};
use tokio::task::coop::unconstrained;
use tokio::time::advance;

use support::counting::{allocations_of, live_bytes};

const KEYS: u32 = 100_000;

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn poll_once<F: Future>(future: F) -> F::Output {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the key is free, or the caller is refused at once"),
    }
}

/// Keys with memory of their own, longer than what a short string may be kept in.
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

/// A turn has come that nobody took yet.
fn granted(guard: &KeyedGuard<String>, number: u32) -> AcquireKey<'_, String> {
    let permit = held(guard, number);
    let caller = queued(guard, number);
    drop(permit);
    caller
}

fn paused() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn assert_nothing_remains(guard: &KeyedGuard<String>) {
    let GuardStats { held, waiting, .. } = guard.stats();
    assert_eq!((guard.len(), held, waiting), (0, 0, 0));
}

/// Lets every key begin and end, first one after the other, then all at once, and compares the memory before and after.
///
/// What is made once, by the first call or by the first of its kind, is made by a round that does not count.
fn leaves_nothing<'a, T>(
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

    // From the front, and all over the place: 7,919 is prime to the number of keys.
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
        assert_eq!(live_bytes() - before, 0, "all at once");
        assert_nothing_remains(guard);
    }
}

#[test]
fn the_allocator_counts() {
    let before = live_bytes();
    let made = allocations_of(|| {
        let bytes = vec![0_u8; 1_000];
        assert_eq!(live_bytes() - before, 1_000);
        bytes
    });
    assert_eq!((made, live_bytes() - before), (1, 0));
}

#[test]
fn keys_whose_callers_have_finished_leave_nothing() {
    let guard = KeyedGuard::new("finished");
    leaves_nothing(&guard, held, |_, permit| drop(permit));
    assert_eq!(guard.stats().granted, 3 * u64::from(KEYS) + 1);
}

#[test]
fn keys_whose_callers_left_the_queue_leave_nothing() {
    let guard = KeyedGuard::new("cancelled");
    let begin = |guard, number| (held(guard, number), queued(guard, number), queued(guard, number));
    leaves_nothing(&guard, begin, |_, (permit, first, second)| {
        drop(first);
        drop(permit);
        drop(second);
    });
}

#[test]
fn keys_whose_turn_nobody_took_leave_nothing() {
    let guard = KeyedGuard::new("granted");
    leaves_nothing(&guard, granted, |_, caller| drop(caller));
    assert_eq!(guard.stats().cancelled, 3 * u64::from(KEYS) + 1);
}

#[test]
fn keys_whose_holder_panicked_leave_nothing() {
    let guard = KeyedGuard::new("panicked");
    leaves_nothing(&guard, held, |_, permit| {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _permit = permit;
            // As a panic, without its message on the screen.
            resume_unwind(Box::new("panicked"));
        }));
        assert!(panicked.is_err());
    });
    assert_eq!(guard.stats().panicked, 3 * u64::from(KEYS) + 1);
}

#[test]
fn keys_whose_run_panicked_leave_nothing() {
    let guard = KeyedGuard::new("panicked");
    let begin = |guard: &'static KeyedGuard<String>, number| {
        let mut run = Box::pin(guard.run(key(number), async {
            tokio::task::yield_now().await;
            resume_unwind(Box::new("panicked"));
        }));
        assert!(poll(&mut run).is_pending());
        run
    };
    let guard: &'static KeyedGuard<String> = Box::leak(Box::new(guard));
    leaves_nothing(guard, begin, |_, mut run| {
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut run))).is_err());
    });
}

#[test]
fn keys_whose_callers_waited_too_long_leave_nothing() {
    const LIMIT: Duration = Duration::from_secs(1);
    let runtime = paused();
    let guard = KeyedGuard::builder("late").max_wait(LIMIT).build();
    let round = |keys: u32| {
        // One poll asks for all of them, which is more than a task may do.
        runtime.block_on(unconstrained(async {
            let permits: Vec<_> = (0..keys).map(|number| held(&guard, number)).collect();
            let mut callers: Vec<_> = (0..keys).map(|number| queued(&guard, number)).collect();
            advance(2 * LIMIT).await;
            for caller in &mut callers {
                let Poll::Ready(Err(AcquireError::Timeout { .. })) = poll(caller) else { panic!("its time is over") };
            }
            assert_eq!((guard.len(), guard.stats().waiting), (keys as usize, 0));
            drop((permits, callers));
        }));
    };
    // The runtime sets up what it needs for its first timers.
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
fn keys_whose_turn_expired_leave_nothing_once_that_was_heard() {
    const LIMIT: Duration = Duration::from_secs(1);
    let runtime = paused();
    let guard = KeyedGuard::builder("expired").grant_timeout(LIMIT).build();
    let round = || {
        runtime.block_on(unconstrained(async {
            let mut callers: Vec<_> = (0..KEYS).map(|number| granted(&guard, number)).collect();
            advance(2 * LIMIT).await;
            for (number, caller) in (0..KEYS).zip(&mut callers) {
                drop(held(&guard, number));
                assert!(matches!(poll(caller), Poll::Ready(Err(AcquireError::GrantExpired))));
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
fn keys_that_are_one_too_many_leave_nothing() {
    let guard = KeyedGuard::builder("full").max_keys(1).build();
    let permit = held(&guard, KEYS);
    let refused = |number| {
        let is_too_many = |error| matches!(error, AcquireError::TooManyKeys { .. });
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
fn keys_that_were_taken_together_leave_nothing() {
    let guard = KeyedGuard::new("together");
    let both = |guard: &'static KeyedGuard<String>, number| {
        poll_once(guard.acquire_all([key(number), key(number + KEYS), key(number)])).unwrap()
    };
    let guard: &'static KeyedGuard<String> = Box::leak(Box::new(guard));
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

    // Those that leave midway, as they wait for the last key.
    let permit = held(guard, KEYS - 1);
    let mut waits = guard.acquire_all((0..KEYS).map(key));
    assert!(poll(&mut waits).is_pending());
    assert_eq!(guard.stats().held, KEYS as usize);
    drop(waits);
    assert_eq!(guard.len(), 1);
    drop(permit);
    assert_eq!(live_bytes() - before, 0);
    assert_nothing_remains(guard);
}

#[test]
fn keys_whose_callers_are_closed_out_leave_nothing() {
    let guard = KeyedGuard::new("closed");
    drop(granted(&guard, 0));
    let before = live_bytes();
    let permits: Vec<_> = (0..KEYS).map(|number| held(&guard, number)).collect();
    let mut callers: Vec<_> = (0..KEYS).map(|number| queued(&guard, number)).collect();
    guard.close();
    drop(permits);
    assert_eq!(guard.len(), KEYS as usize, "none of them has heard of it");
    for caller in callers.iter_mut().step_by(2) {
        assert!(matches!(poll(caller), Poll::Ready(Err(AcquireError::Closed))));
    }
    assert_eq!(guard.len(), KEYS as usize / 2);
    drop(callers);
    assert_eq!(live_bytes() - before, 0);
    assert_nothing_remains(&guard);
}

#[test]
fn places_of_keys_are_used_again_while_one_key_stays() {
    let guard = KeyedGuard::new("stays");
    drop(held(&guard, 0));
    let before = live_bytes();
    let stays = held(&guard, KEYS);
    for number in 0..KEYS {
        drop(held(&guard, number));
    }
    // At most one more entry for each shard: the key that stays has one in its own.
    assert!(live_bytes() - before < 2_048, "{} bytes for one key", live_bytes() - before);
    drop(stays);
    assert_eq!(live_bytes() - before, 0);
}

#[test]
fn a_free_key_allocates_nothing() {
    let guard = Arc::new(KeyedGuard::builder("free").max_wait(Duration::from_secs(1)).max_keys(10).build());
    // The map, and a thread's list of what it is inside of, are made with its first run.
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
    assert_eq!(allocations_of(|| guard.try_acquire(1).unwrap_err()), 0);
}
