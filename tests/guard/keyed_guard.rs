//! The contract of [`KeyedGuard`], one module per rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::cell::Cell;
use std::fmt::Debug;
use std::future::{Future, poll_fn, ready};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use onelane::{AcquireError, AcquireKey, GuardStats, KeyedGuard, KeyedPermit, Order, Queue};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::{block_in_place, spawn_blocking, yield_now};
use tokio::time::{advance, timeout};
use tokio_test::task;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};

use support::waiting::spin_until;

const SECOND: Duration = Duration::from_secs(1);

/// Keys that all have the same hash, and therefore the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Colliding(u32);

impl Hash for Colliding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        0_u8.hash(state);
    }
}

/// Leaks a guard, so that it lives as long as one in a `static`.
fn leaked<K>(guard: KeyedGuard<K>) -> &'static KeyedGuard<K> {
    Box::leak(Box::new(guard))
}

fn assert_idle<K: Hash + Eq>(guard: &KeyedGuard<K>) {
    let GuardStats { held, waiting, detached, .. } = guard.stats();
    assert_eq!((held, waiting, detached), (0, 0, 0));
    assert_eq!(guard.len(), 0, "a key remains");
    assert!(guard.is_empty());
}

/// Fails instead of hanging. Where time is paused, it fails at once.
async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(1_000 * SECOND, future).await.expect("the future hangs")
}

fn two_workers() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("woken");
    }
}

fn is_full(error: &AcquireError) -> bool {
    matches!(error, AcquireError::QueueFull { .. })
}

fn is_busy(error: &AcquireError) -> bool {
    matches!(error, AcquireError::Busy { .. })
}

fn is_too_many(error: &AcquireError) -> bool {
    matches!(error, AcquireError::TooManyKeys { .. })
}

fn is_timeout(error: &AcquireError) -> bool {
    matches!(error, AcquireError::Timeout { .. })
}

/// Marsaglia's xorshift: random enough to choose what a caller does, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The remainder fits into `usize` because it is smaller than `limit`.
        (self.0 % limit as u64) as usize
    }
}

/// Returns a caller that is enqueued.
fn queued<K: Hash + Eq>(guard: &KeyedGuard<K>, key: K) -> task::Spawn<AcquireKey<'_, K>> {
    let mut caller = task::spawn(guard.acquire(key));
    assert_pending!(caller.poll());
    caller
}

/// Returns a caller that was granted a permit and has not been polled since.
fn granted<K: Hash + Eq + Copy>(guard: &KeyedGuard<K>, key: K) -> task::Spawn<AcquireKey<'_, K>> {
    let permit = guard.try_acquire(key).unwrap();
    let caller = queued(guard, key);
    drop(permit);
    assert!(caller.is_woken());
    caller
}

mod order {
    use super::*;

    const KEYS: usize = 40;
    const CALLERS: usize = 25;

    fn serves_the_waiters_of_every_key_in<K: Hash + Eq + Copy>(order: Order, key: impl Fn(u32) -> K) {
        let guard = KeyedGuard::builder("order").order(order).build();
        let keys: Vec<K> = (0..KEYS as u32).map(key).collect();
        let mut permits: Vec<_> = keys.iter().map(|key| Some(guard.try_acquire(*key).unwrap())).collect();
        let mut callers: Vec<_> = (0..KEYS).map(|_| Vec::new()).collect();
        // One caller per key in each round, so that the callers of all keys are interleaved.
        for _ in 0..CALLERS {
            for (key, callers) in keys.iter().zip(&mut callers) {
                callers.push(queued(&guard, *key));
            }
        }
        assert_eq!((guard.len(), guard.stats().waiting), (KEYS, KEYS * CALLERS));
        for served in 0..CALLERS {
            let next = if order == Order::Lifo { CALLERS - 1 - served } else { served };
            for key in 0..KEYS {
                permits[key] = None;
                assert!(callers[key][next].is_woken());
                let woken = callers.iter().flatten().filter(|caller| caller.is_woken()).count();
                assert_eq!(woken, 1, "one permit wakes one caller");
                permits[key] = Some(assert_ready_ok!(callers[key][next].poll()));
                assert_eq!(guard.stats().held, KEYS);
            }
            assert_eq!((guard.len(), guard.stats().waiting), (KEYS, KEYS * (CALLERS - 1 - served)));
        }
        for (released, permit) in permits.into_iter().enumerate() {
            assert_eq!(guard.len(), KEYS - released);
            drop(permit);
        }
        assert_idle(&guard);
    }

    #[test]
    fn fifo_serves_the_oldest_waiter_of_each_key_first() {
        serves_the_waiters_of_every_key_in(Order::Fifo, |number| number);
    }

    #[test]
    fn lifo_serves_the_newest_waiter_of_each_key_first() {
        serves_the_waiters_of_every_key_in(Order::Lifo, |number| number);
    }

    #[test]
    fn keys_with_equal_hashes_have_separate_queues() {
        serves_the_waiters_of_every_key_in(Order::Fifo, Colliding);
        serves_the_waiters_of_every_key_in(Order::Lifo, Colliding);
    }

    #[test]
    fn contended_key_delays_no_other_key() {
        let guard = KeyedGuard::builder("others").queue(Queue::Bounded(3)).build();
        let _permit = guard.try_acquire(Colliding(0)).unwrap();
        let waiting = [0; 3].map(|_| queued(&guard, Colliding(0)));
        assert!(is_full(&assert_ready_err!(task::spawn(guard.acquire(Colliding(0))).poll())));
        for other in 1..100 {
            drop(guard.try_acquire(Colliding(other)).unwrap());
            drop(assert_ready_ok!(task::spawn(guard.acquire(Colliding(other))).poll()));
        }
        assert!(waiting.iter().all(|caller| !caller.is_woken()));
        assert_eq!(guard.len(), 1);
    }

    #[test]
    fn granted_waiter_is_not_overtaken() {
        let guard = KeyedGuard::new("hand-off");
        let mut first = granted(&guard, 1);
        assert_eq!(guard.stats().held, 1, "the permit is granted to the first waiter and never free");
        assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
        let mut second = queued(&guard, 1);
        drop(assert_ready_ok!(first.poll()));
        drop(assert_ready_ok!(second.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn caller_is_enqueued_by_its_first_poll() {
        let guard = KeyedGuard::new("first poll");
        let permit = guard.try_acquire(1).unwrap();
        let mut made_first = task::spawn(guard.acquire(1));
        let mut polled_first = queued(&guard, 1);
        assert_pending!(made_first.poll());
        drop(permit);
        assert_pending!(made_first.poll());
        drop(assert_ready_ok!(polled_first.poll()));
        drop(assert_ready_ok!(made_first.poll()));
    }

    #[test]
    fn permits_are_counted_per_key() {
        const PERMITS: usize = 3;
        let guard = KeyedGuard::builder("three").permits(PERMITS).build();
        let mut held: Vec<_> = (0..10 * PERMITS as u32).map(|i| Some(guard.try_acquire(i % 10).unwrap())).collect();
        assert_eq!((guard.len(), guard.stats().held, guard.stats().permits), (10, 30, PERMITS));
        for key in 0..10 {
            assert!(is_busy(&guard.try_acquire(key).unwrap_err()));
        }
        let mut seven = queued(&guard, 7);
        let mut other = queued(&guard, 8);
        held[17] = None;
        held[16] = None;
        let fourth = assert_ready_ok!(seven.poll());
        assert_pending!(other.poll());
        assert!(is_busy(&guard.try_acquire(7).unwrap_err()));
        drop(guard.try_acquire(6).unwrap());
        drop((held, fourth, other));
        assert_idle(&guard);
    }

    #[test]
    fn waiter_polled_by_hand_can_move_between_threads() {
        let guard = Arc::new(KeyedGuard::new("by hand"));
        let permit = Arc::clone(&guard).try_acquire_owned("key".to_owned()).unwrap();
        let mut caller = Arc::clone(&guard).acquire_owned("key".to_owned());
        assert!(Pin::new(&mut caller).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // The waiter uses its latest waker, not the first one.
        let moved = thread::spawn(move || {
            let mut caller = task::spawn(caller);
            assert_pending!(caller.poll());
            caller
        });
        let mut caller = moved.join().unwrap();
        thread::spawn(move || drop(permit)).join().unwrap();
        assert!(caller.is_woken());
        let permit = assert_ready_ok!(caller.poll());
        thread::spawn(move || drop(permit)).join().unwrap();
        assert_idle(&guard);
    }
}

/// A key exists from its first caller to its last.
mod keys {
    use super::*;

    #[test]
    fn key_exists_while_it_is_held_or_waited_for() {
        let guard = KeyedGuard::new("there");
        assert!(guard.is_empty());
        let unpolled = guard.acquire(1);
        assert!(guard.is_empty(), "no caller was polled yet");
        drop(unpolled);
        let first = guard.try_acquire(1).unwrap();
        assert!(!guard.is_empty());
        let waiter = queued(&guard, 1);
        let other = guard.try_acquire(2).unwrap();
        assert_eq!(guard.len(), 2, "a key with several callers counts once");
        drop(first);
        assert_eq!(guard.len(), 2, "a granted permit is not taken yet");
        drop(waiter);
        assert_eq!(guard.len(), 1);
        drop(other);
        assert_idle(&guard);
    }

    #[test]
    fn key_that_is_used_again_starts_fresh() {
        let guard = KeyedGuard::new("again");
        for round in 1..=1_000_u64 {
            let mut second = granted(&guard, "again");
            drop(assert_ready_ok!(second.poll()));
            assert_eq!(guard.stats().granted, 2 * round);
            assert_idle(&guard);
        }
    }

    #[test]
    fn key_exists_until_the_waiter_of_an_expired_grant_is_polled() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let guard = KeyedGuard::builder("late").grant_timeout(SECOND).build();
            let mut late = granted(&guard, 1);
            advance(SECOND).await;
            drop(guard.try_acquire(1).unwrap());
            assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 0, 0));
            assert_eq!(assert_ready_err!(late.poll()), AcquireError::GrantExpired);
            assert_idle(&guard);
        });
    }
}

mod queue_bound {
    use super::*;

    #[test]
    fn concurrent_callers_fill_the_queue_of_each_key_to_its_bound() {
        const THREADS: usize = 4;
        const EACH: usize = 50;
        const KEYS: usize = 3;
        for bound in [1, 7, 199] {
            let guard = Arc::new(KeyedGuard::builder("bound").queue(Queue::Bounded(bound)).build());
            let permits: Vec<_> = (0..KEYS).map(|key| guard.try_acquire(key).unwrap()).collect();
            let barrier = Barrier::new(THREADS);
            let queues = [(); KEYS].map(|()| Mutex::new(Vec::new()));
            let refused = [(); KEYS].map(|()| AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        for call in 0..KEYS * EACH {
                            let key = call % KEYS;
                            let mut caller = task::spawn(Arc::clone(&guard).acquire_owned(key));
                            match caller.poll() {
                                Poll::Pending => queues[key].lock().unwrap().push(caller),
                                Poll::Ready(result) => {
                                    assert!(is_full(&result.unwrap_err()));
                                    refused[key].fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    });
                }
            });
            let mut queues = queues.map(|queue| queue.into_inner().unwrap());
            assert_eq!(queues.each_ref().map(Vec::len), [bound; KEYS]);
            assert_eq!(refused.map(AtomicUsize::into_inner), [THREADS * EACH - bound; KEYS]);
            assert_eq!(guard.stats().waiting, KEYS * bound);
            assert_eq!(guard.stats().refused, (KEYS * (THREADS * EACH - bound)) as u64);

            // A cancelled waiter makes room for exactly one other of the same key.
            queues[1].pop();
            let mut late = [0, 1, 1, 2].map(|key| task::spawn(guard.acquire(key)));
            assert!(is_full(&assert_ready_err!(late[0].poll())));
            assert_pending!(late[1].poll());
            assert!(is_full(&assert_ready_err!(late[2].poll())));
            assert!(is_full(&assert_ready_err!(late[3].poll())));
            drop((permits, queues, late));
            assert_idle(&guard);
        }
    }

    #[test]
    fn guard_without_queues_refuses_with_busy() {
        let guard = KeyedGuard::builder("reject").queue(Queue::Reject).build();
        let permit = guard.try_acquire(1).unwrap();
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire(1)).poll())));
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.run(1, ready(()))).poll())));
        assert!(is_busy(&guard.acquire_blocking(1).unwrap_err()));
        assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
        assert_eq!(guard.stats().refused, 3, "a failed `try_acquire` is not a refused caller");
        drop(guard.try_acquire(2).unwrap());
        drop(permit);
        drop(assert_ready_ok!(task::spawn(guard.acquire(1)).poll()));
        assert_idle(&guard);
    }
}

mod max_wait {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn patient() -> KeyedGuard<u32> {
        KeyedGuard::builder("patient").max_wait(LIMIT).build()
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_reports_how_long_the_caller_waited() {
        let guard = patient();
        let permit = guard.acquire(1).await.unwrap();
        let error = guard.acquire(1).await.unwrap_err();
        let AcquireError::Timeout { waited, .. } = error else { panic!("{error:?}") };
        // tokio's timers have a resolution of one millisecond.
        assert!((LIMIT..LIMIT + Duration::from_millis(2)).contains(&waited), "{waited:?}");
        let GuardStats { waiting, timed_out, cancelled, .. } = guard.stats();
        assert_eq!((waiting, timed_out, cancelled), (0, 1, 0));
        drop(permit);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_starts_at_the_first_poll_of_each_caller() {
        let guard = patient();
        let permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
        let mut first = queued(&guard, 1);
        advance(LIMIT / 2).await;
        let mut second = queued(&guard, 1);
        let mut other = queued(&guard, 2);
        advance(LIMIT / 2 + Duration::from_millis(2)).await;
        assert!(is_timeout(&assert_ready_err!(first.poll())));
        assert_pending!(second.poll());
        assert_pending!(other.poll());
        drop(permits);
        drop(assert_ready_ok!(second.poll()));
        drop(assert_ready_ok!(other.poll()));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn permit_granted_before_the_timeout_is_observed_wins() {
        let guard = patient();
        let permit = guard.try_acquire(1).unwrap();
        let mut caller = queued(&guard, 1);
        advance(2 * LIMIT).await;
        assert!(caller.is_woken(), "the timer fired");
        drop(permit);
        drop(assert_ready_ok!(caller.poll()));
        assert_eq!(guard.stats().timed_out, 0);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_estimates_the_retry_from_waiters_of_the_same_key() {
        const HOLD: Duration = Duration::from_millis(100);
        let guard = patient();
        for _ in 0..2 {
            let _permit = guard.try_acquire(1).unwrap();
            assert!(guard.try_acquire(1).is_err(), "a refusal makes the next hold be measured");
            advance(HOLD).await;
        }
        let _permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
        let _of_another = [2; 5].map(|key| queued(&guard, key));
        let mut first = queued(&guard, 1);
        advance(LIMIT / 2).await;
        let _second = queued(&guard, 1);
        assert_eq!(guard.try_acquire(1).unwrap_err().retry_after(), Some(3 * HOLD));
        advance(LIMIT / 2 + Duration::from_millis(2)).await;
        let error = assert_ready_err!(first.poll());
        assert!(is_timeout(&error));
        assert_eq!(error.retry_after(), Some(2 * HOLD), "one waiter of the same key is still ahead");
    }

    #[test]
    fn free_key_needs_no_timer() {
        let guard = patient();
        let permit = assert_ready_ok!(task::spawn(guard.acquire(1)).poll());
        // A busy key does. A caller that cannot start its timer does not stay in the queue.
        let mut caller = task::spawn(guard.acquire(1));
        assert!(catch_unwind(AssertUnwindSafe(|| caller.poll())).is_err());
        drop(caller);
        assert_eq!(guard.stats().waiting, 0);
        drop(permit);
        assert_idle(&guard);
    }

    #[test]
    fn blocking_caller_times_out_too() {
        // Real time, because a parked thread has no other clock.
        const SHORT: Duration = Duration::from_millis(20);
        let guard = KeyedGuard::builder("short").max_wait(SHORT).build();
        let permit = guard.acquire_blocking(1).unwrap();
        let error = guard.acquire_blocking(1).unwrap_err();
        let AcquireError::Timeout { waited, .. } = error else { panic!("{error:?}") };
        assert!(waited >= SHORT, "{waited:?}");
        assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 1));
        drop(permit);
        assert_idle(&guard);
    }
}

mod grant_timeout {
    use super::*;

    fn limited<K>() -> KeyedGuard<K> {
        KeyedGuard::builder("limited").grant_timeout(SECOND).build()
    }

    #[tokio::test(start_paused = true)]
    async fn try_acquire_revokes_expired_grants_of_its_own_key_only() {
        let guard = Arc::new(limited());
        for (tried, owned) in [(0, false), (1, false), (0, true), (1, true)] {
            let mut stalled = [0, 1].map(|key| granted(&guard, Colliding(key)));
            let key = Colliding(tried);
            advance(SECOND - Duration::from_millis(1)).await;
            assert!(is_busy(&guard.try_acquire(key).unwrap_err()));
            advance(Duration::from_millis(1)).await;
            if owned {
                drop(Arc::clone(&guard).try_acquire_owned(key).unwrap());
            } else {
                drop(guard.try_acquire(key).unwrap());
            }
            assert_eq!(assert_ready_err!(stalled[tried as usize].poll()), AcquireError::GrantExpired);
            drop(assert_ready_ok!(stalled[1 - tried as usize].poll()));
            assert_idle(&guard);
        }
        assert_eq!(guard.stats().expired, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_revoke_expired_grants_of_their_own_key_only() {
        let guard = limited();
        let mut first = granted(&guard, Colliding(1));
        let mut second = granted(&guard, Colliding(2));
        drop(in_time(guard.acquire(Colliding(1))).await.unwrap());
        assert_eq!(assert_ready_err!(first.poll()), AcquireError::GrantExpired);
        drop(assert_ready_ok!(second.poll()));
        assert_eq!(guard.stats().expired, 1);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn permit_taken_in_time_does_not_expire() {
        let guard = limited();
        let mut first = granted(&guard, 1);
        let mut second = queued(&guard, 1);
        advance(SECOND / 2).await;
        assert_pending!(second.poll());
        let permit = assert_ready_ok!(first.poll());
        // A permit that was taken can be held for any time.
        advance(10 * SECOND).await;
        assert_pending!(second.poll());
        drop(permit);
        drop(assert_ready_ok!(second.poll()));
        assert_eq!(guard.stats().expired, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn new_caller_is_admitted_when_all_waiters_are_stalled_and_the_queue_is_full() {
        let guard = KeyedGuard::builder("full").queue(Queue::Bounded(1)).grant_timeout(SECOND).build();
        let mut first = granted(&guard, 1);
        let mut second = queued(&guard, 1);
        assert!(is_full(&guard.acquire(1).await.unwrap_err()), "the grant has not expired yet");
        advance(SECOND).await;
        drop(in_time(guard.acquire(1)).await.unwrap());
        assert_eq!(assert_ready_err!(first.poll()), AcquireError::GrantExpired);
        assert_eq!(assert_ready_err!(second.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 2);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn untaken_grants_of_any_key_do_not_prevent_draining() {
        let guard = limited();
        let mut stalled: Vec<_> = (0..20).map(|key| granted(&guard, key)).collect();
        guard.close();
        timeout(10 * SECOND, guard.drained()).await.expect("the grants expire although no caller waits any more");
        for caller in &mut stalled {
            assert_eq!(assert_ready_err!(caller.poll()), AcquireError::GrantExpired);
        }
        assert_eq!(guard.stats().expired, 20);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn every_drained_future_is_woken_when_the_last_grant_expires() {
        let guard = limited();
        let _left_alone = granted(&guard, 1);
        guard.close();
        let mut first = task::spawn(guard.drained());
        assert_pending!(first.poll());
        advance(SECOND / 2).await;
        let mut second = task::spawn(guard.drained());
        assert_pending!(second.poll());
        advance(SECOND / 2 + Duration::from_millis(2)).await;
        assert_ready!(first.poll());
        assert!(second.is_woken(), "woken at once, and not by its own timer");
        assert_ready!(second.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn grant_revoked_by_try_acquire_after_close_drains_the_guard() {
        let guard = limited();
        let mut caller = granted(&guard, 1);
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        advance(2 * SECOND).await;
        assert_eq!(guard.try_acquire(1).unwrap_err(), AcquireError::Closed);
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
        assert_eq!(assert_ready_err!(caller.poll()), AcquireError::GrantExpired);
    }

    #[test]
    fn blocking_waiter_revokes_expired_grants_too() {
        // Real time, because a parked thread has no other clock.
        let guard = leaked(KeyedGuard::builder("blocking").grant_timeout(Duration::from_millis(20)).build());
        let permit = guard.try_acquire(1).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut stalled = task::spawn(guard.acquire(1));
        {
            let _entered = runtime.enter();
            assert_pending!(stalled.poll());
        }
        drop(permit);
        let blocking = thread::spawn(|| guard.acquire_blocking(1).map(drop));
        spin_until(|| blocking.is_finished());
        assert_eq!(blocking.join().unwrap(), Ok(()));
        assert_eq!(assert_ready_err!(stalled.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 1);
        assert_idle(guard);
    }
}

mod max_keys {
    use super::*;

    #[test]
    fn one_key_too_many_is_refused_and_existing_keys_are_unaffected() {
        let guard = Arc::new(KeyedGuard::builder("keys").permits(2).max_keys(3).build());
        let mut permits: Vec<_> = (0..3).map(|key| guard.try_acquire(key).unwrap()).collect();
        assert!(is_too_many(&guard.try_acquire(3).unwrap_err()));
        assert!(is_too_many(&Arc::clone(&guard).try_acquire_owned(3).unwrap_err()));
        assert_eq!(guard.stats().refused, 0, "a failed `try_acquire` is not a refused caller");
        assert!(is_too_many(&assert_ready_err!(task::spawn(guard.acquire(3)).poll())));
        assert!(is_too_many(&assert_ready_err!(task::spawn(Arc::clone(&guard).acquire_owned(3)).poll())));
        assert!(is_too_many(&assert_ready_err!(task::spawn(guard.run(3, ready(()))).poll())));
        assert!(is_too_many(&guard.acquire_blocking(3).unwrap_err()));
        assert!(is_too_many(&assert_ready_err!(task::spawn(guard.acquire_all([0, 3])).poll())));
        assert_eq!((guard.stats().refused, guard.len(), guard.stats().held), (5, 3, 3));

        permits.push(guard.try_acquire(1).unwrap());
        let mut waiter = queued(&guard, 1);
        permits.clear();
        drop(assert_ready_ok!(waiter.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn removed_key_makes_room_however_it_was_removed() {
        let guard = KeyedGuard::builder("room").max_keys(1).build();
        let assert_room = || {
            drop(guard.try_acquire(9).unwrap());
            assert_idle(&guard);
        };
        drop(guard.try_acquire(1).unwrap());
        assert_room();
        drop(granted(&guard, 1));
        assert_room();
        let permit = guard.try_acquire(1).unwrap();
        drop(queued(&guard, 1));
        assert!(is_too_many(&guard.try_acquire(9).unwrap_err()), "key 1 is still held");
        drop(permit);
        assert_room();
        drop(assert_ready_ok!(task::spawn(guard.acquire_all([1])).poll()));
        assert_room();
        let panics = guard.run(1, async { panic!("in the work") });
        assert!(catch_unwind(AssertUnwindSafe(|| task::spawn(panics).poll().map(|ran: Result<(), _>| ran))).is_err());
        assert_room();
    }

    #[test]
    fn many_threads_never_exceed_the_limit_of_keys_and_lose_no_room() {
        const MOST: usize = 3;
        let guard = KeyedGuard::builder("most").max_keys(MOST).build();
        let live = AtomicUsize::new(0);
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 1..=8 {
                let (guard, live, refused) = (&guard, &live, &refused);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    for _ in 0..20_000 {
                        match guard.try_acquire(random.below(64)) {
                            Ok(permit) => {
                                // Every permit belongs to another key, because each key has only one.
                                let others = live.fetch_add(1, Ordering::SeqCst);
                                assert!(others < MOST, "{} keys are in use", others + 1);
                                if random.below(8) == 0 {
                                    thread::yield_now();
                                }
                                live.fetch_sub(1, Ordering::SeqCst);
                                drop(permit);
                            }
                            Err(error) if is_too_many(&error) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => assert!(is_busy(&error), "{error:?}"),
                        }
                    }
                });
            }
        });
        assert_idle(&guard);
        assert!(refused.into_inner() > 0, "no caller reached the limit");
        let permits: Vec<_> = (0..MOST).map(|key| guard.try_acquire(key).unwrap()).collect();
        assert!(is_too_many(&guard.try_acquire(MOST).unwrap_err()));
        drop(permits);
    }

    #[test]
    fn threads_with_new_keys_are_admitted_up_to_the_limit() {
        const MOST: usize = 3;
        const THREADS: usize = 8;
        let guard = KeyedGuard::builder("at once").max_keys(MOST).build();
        for round in 0..200 {
            let barrier = Barrier::new(THREADS);
            let outcomes = thread::scope(|scope| {
                let threads = [(); THREADS].map(|()| {
                    scope.spawn(|| {
                        barrier.wait();
                        guard.try_acquire(thread::current().id())
                    })
                });
                threads.map(|thread| thread.join().unwrap())
            });
            let admitted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            let refused = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(is_too_many)).count();
            assert_eq!((admitted, refused), (MOST, THREADS - MOST), "round {round}");
            assert_eq!(guard.len(), MOST);
        }
        assert_idle(&guard);
    }
}

mod close {
    use super::*;

    #[test]
    fn waiters_of_every_key_are_refused_and_the_holders_finish() {
        const KEYS: u32 = 50;
        let guard = KeyedGuard::builder("closing").permits(2).build();
        let mut permits: Vec<_> = (0..2 * KEYS).map(|i| guard.try_acquire(i % KEYS).unwrap()).collect();
        let mut callers: Vec<_> = (0..10 * KEYS).map(|i| queued(&guard, i % KEYS)).collect();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        thread::scope(|scope| {
            let blocking = scope.spawn(|| guard.acquire_blocking(7).map(drop));
            spin_until(|| guard.stats().waiting == 10 * KEYS as usize + 1);
            guard.close();
            assert_eq!(blocking.join().unwrap(), Err(AcquireError::Closed));
        });
        let GuardStats { held, waiting, closed, .. } = guard.stats();
        assert_eq!((held, waiting, closed), (2 * KEYS as usize, 0, true));
        for caller in &mut callers {
            assert!(caller.is_woken());
            assert_eq!(assert_ready_err!(caller.poll()), AcquireError::Closed);
        }
        assert_eq!(guard.stats().refused, u64::from(10 * KEYS) + 1);

        while let Some(permit) = permits.pop() {
            assert!(!drained.is_woken());
            assert_pending!(drained.poll());
            drop(permit);
        }
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
        assert_idle(&guard);
    }

    #[test]
    fn key_is_removed_when_the_last_refused_waiter_is_gone() {
        let guard = KeyedGuard::new("closing");
        let permit = guard.try_acquire(1).unwrap();
        let [mut polled, dropped] = [0; 2].map(|_| queued(&guard, 1));
        guard.close();
        drop(permit);
        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 0, 0));
        assert_eq!(assert_ready_err!(polled.poll()), AcquireError::Closed);
        assert_eq!(guard.len(), 1);
        drop(dropped);
        assert_idle(&guard);
        assert_eq!(guard.stats().cancelled, 0, "the waiter was refused before it was dropped");
    }

    #[test]
    fn later_callers_are_refused_for_existing_and_new_keys() {
        let guard = Arc::new(KeyedGuard::builder("closed").permits(2).build());
        let _permit = guard.try_acquire(1).unwrap();
        guard.close();
        for key in [1, 2] {
            assert_eq!(assert_ready_err!(task::spawn(guard.acquire(key)).poll()), AcquireError::Closed);
            assert_eq!(assert_ready_err!(task::spawn(guard.run(key, ready(()))).poll()), AcquireError::Closed);
            assert_eq!(assert_ready_err!(task::spawn(guard.acquire_all([key])).poll()), AcquireError::Closed);
            assert_eq!(guard.acquire_blocking(key).unwrap_err(), AcquireError::Closed);
            assert_eq!(guard.try_acquire(key).unwrap_err(), AcquireError::Closed);
            assert_eq!(Arc::clone(&guard).try_acquire_owned(key).unwrap_err(), AcquireError::Closed);
        }
        assert_eq!((guard.stats().refused, guard.len()), (8, 1));
    }

    #[test]
    fn unused_guard_that_is_closed_is_drained_and_refuses() {
        let guard = KeyedGuard::new("unused");
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        assert!(!guard.stats().closed);
        guard.close();
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
        assert_ready!(task::spawn(guard.drained()).poll());
        assert!(guard.stats().closed);
        assert_eq!(guard.try_acquire(1).unwrap_err(), AcquireError::Closed);
        assert_eq!(assert_ready_err!(task::spawn(guard.acquire(1)).poll()), AcquireError::Closed);
        assert_idle(&guard);
    }

    #[test]
    fn open_guard_without_keys_is_not_drained() {
        let guard = KeyedGuard::new("open");
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        drop(guard.try_acquire(1).unwrap());
        assert_pending!(drained.poll());
        guard.close();
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
    }

    #[test]
    fn closing_twice_has_no_further_effect() {
        let guard = KeyedGuard::new("twice");
        let permit = guard.try_acquire(1).unwrap();
        guard.close();
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        drop(permit);
        guard.close();
        assert_ready!(drained.poll());
    }

    #[test]
    fn permit_granted_before_close_can_still_be_taken() {
        let guard = KeyedGuard::new("granted");
        let [mut taken, dropped] = [1, 2].map(|key| granted(&guard, key));
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        let permit = assert_ready_ok!(taken.poll());
        drop(permit);
        assert_pending!(drained.poll());
        drop(dropped);
        assert!(drained.is_woken(), "the dropped caller was the last one");
        assert_ready!(drained.poll());
        assert_idle(&guard);
    }

    #[test]
    fn concurrent_releases_notify_drained() {
        for _ in 0..200 {
            let guard = KeyedGuard::new("at once");
            let barrier = Barrier::new(4);
            let permits = [1, 2, 3, 4].map(|key| guard.try_acquire(key).unwrap());
            guard.close();
            let mut drained = task::spawn(guard.drained());
            assert_pending!(drained.poll());
            thread::scope(|scope| {
                for permit in permits {
                    scope.spawn(|| {
                        barrier.wait();
                        drop(permit);
                    });
                }
            });
            assert!(drained.is_woken());
            assert_ready!(drained.poll());
        }
    }

    #[test]
    fn close_concurrent_with_releases_notifies_drained() {
        for _ in 0..200 {
            let guard = KeyedGuard::new("meanwhile");
            let barrier = Barrier::new(3);
            let permits = [1, 2].map(|key| guard.try_acquire(key).unwrap());
            let mut drained = task::spawn(guard.drained());
            assert_pending!(drained.poll());
            thread::scope(|scope| {
                for permit in permits {
                    scope.spawn(|| {
                        barrier.wait();
                        drop(permit);
                    });
                }
                barrier.wait();
                guard.close();
            });
            assert!(drained.is_woken());
            assert_ready!(drained.poll());
        }
    }

    #[test]
    fn panicking_waker_does_not_keep_waiters_of_other_keys_asleep() {
        const KEYS: u32 = 50;
        let guard = KeyedGuard::new("closing");
        let _permits: Vec<_> = (0..KEYS).map(|key| guard.try_acquire(key).unwrap()).collect();
        let panics = Waker::from(Arc::new(PanicsWhenWoken));
        let mut first = guard.acquire(0);
        assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&panics)).is_pending());
        let mut others: Vec<_> = (0..KEYS).map(|key| queued(&guard, key)).collect();
        assert!(catch_unwind(AssertUnwindSafe(|| guard.close())).is_err());
        for other in &mut others {
            assert!(other.is_woken());
            assert_eq!(assert_ready_err!(other.poll()), AcquireError::Closed);
        }
        for new in KEYS..2 * KEYS {
            assert_eq!(guard.try_acquire(new).unwrap_err(), AcquireError::Closed);
        }
    }
}

mod run {
    use super::*;

    #[test]
    fn work_runs_with_its_key_held_and_its_output_is_returned() {
        let guard = KeyedGuard::new("run");
        let permit = guard.try_acquire(1).unwrap();
        let started = Cell::new(false);
        let mut run = task::spawn(guard.run(1, async {
            started.set(true);
            (guard.stats().held, guard.len())
        }));
        assert_pending!(run.poll());
        drop(permit);
        assert!(!started.get());
        assert_eq!(assert_ready_ok!(run.poll()), (1, 1));
        assert_idle(&guard);
    }

    #[test]
    fn same_key_is_refused_inside_and_another_is_not() {
        let guard = KeyedGuard::new("nested");
        let mut run = task::spawn(guard.run(Colliding(1), async {
            let same = guard.acquire(Colliding(1)).await.map(drop);
            let same_run = guard.run(Colliding(1), async {}).await;
            let among_others = guard.acquire_all([0, 1, 2].map(Colliding)).await.map(drop);
            let another = guard.acquire(Colliding(2)).await.map(drop);
            // Key 1 is still recognized in a nested run, whose entry reuses the slot of a key that was released.
            let back = guard.run(Colliding(3), async { guard.acquire(Colliding(1)).await.map(drop) }).await;
            let again = guard.acquire(Colliding(4)).await.map(drop);
            ([same, same_run, among_others], [another, again], back)
        }));
        let refused = Err(AcquireError::WouldDeadlock);
        let expected = ([(); 3].map(|()| refused.clone()), [Ok(()), Ok(())], Ok(refused));
        assert_eq!(assert_ready_ok!(run.poll()), expected);
        assert_eq!(guard.stats().refused, 4);
        assert_idle(&guard);
        // This thread did not hold the key outside that poll.
        let _permit = guard.try_acquire(Colliding(1)).unwrap();
        assert_pending!(task::spawn(guard.acquire(Colliding(1))).poll());
    }

    #[test]
    fn acquiring_another_held_key_inside_waits() {
        let guard = KeyedGuard::new("nested");
        let permit = guard.try_acquire(Colliding(2)).unwrap();
        let mut run = task::spawn(guard.run(Colliding(1), async { guard.run(Colliding(2), async {}).await }));
        assert_pending!(run.poll());
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Ok(()));
        assert_idle(&guard);
    }

    #[test]
    fn acquiring_the_same_key_of_another_guard_inside_waits() {
        // With this many keys, some occupy the same slot in the inner guard as key 1 does in the outer guard.
        const KEYS: u32 = 1_000;
        let (outer, inner) = (KeyedGuard::new("outer"), KeyedGuard::new("inner"));
        let permits: Vec<_> = (0..KEYS).map(|key| inner.try_acquire(key).unwrap()).collect();
        let mut run = task::spawn(outer.run(1, async {
            let mut waiting: Vec<_> = (0..KEYS).map(|key| queued(&inner, key)).collect();
            drop(permits);
            waiting.iter_mut().for_each(|caller| drop(assert_ready_ok!(caller.poll())));
        }));
        assert_ready_ok!(run.poll());
        assert_idle(&inner);
    }

    #[test]
    fn free_permit_can_be_acquired_inside() {
        let guard = KeyedGuard::builder("two").permits(2).build();
        let work = async { guard.run(1, async { (guard.stats().held, guard.acquire(1).await.map(drop)) }).await };
        let mut run = task::spawn(guard.run(1, work));
        assert_eq!(assert_ready_ok!(run.poll()), Ok((2, Err(AcquireError::WouldDeadlock))));
        assert_idle(&guard);
    }

    #[test]
    fn waiter_enqueued_outside_and_awaited_inside_is_refused_and_cancelled() {
        let guard = KeyedGuard::new("nested");
        let permit = guard.try_acquire(1).unwrap();
        let enqueued = Mutex::new(None);
        let mut run = task::spawn(guard.run(1, async {
            let acquire: AcquireKey<'_, i32> = enqueued.lock().unwrap().take().expect("the waiter is enqueued by now");
            acquire.await.map(drop)
        }));
        assert_pending!(run.poll());
        let mut behind = guard.acquire(1);
        assert!(Pin::new(&mut behind).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        *enqueued.lock().unwrap() = Some(behind);
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::WouldDeadlock));
        assert_idle(&guard);
    }

    #[test]
    fn acquiring_again_inside_a_closed_guard_fails_with_closed() {
        let guard = KeyedGuard::new("closed");
        let mut run = task::spawn(guard.run(1, async {
            guard.close();
            guard.acquire(1).await.map(drop)
        }));
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::Closed));
    }

    #[test]
    fn blocking_inside_is_refused_for_the_same_key_on_a_thread_without_a_runtime() {
        let guard = KeyedGuard::new("nested");
        let work = async { (guard.acquire_blocking(1).map(drop), guard.acquire_blocking(2).map(drop)) };
        let nested = futures::executor::block_on(guard.run(1, work));
        assert_eq!(nested, Ok((Err(AcquireError::WouldDeadlock), Ok(()))));
    }

    #[tokio::test(start_paused = true)]
    async fn two_branches_of_one_task_run_one_after_the_other() {
        let guard = KeyedGuard::new("joined");
        let acquire = || async {
            let permit = guard.acquire(1).await?;
            assert_eq!(guard.stats().held, 1);
            yield_now().await;
            drop(permit);
            Ok::<_, AcquireError>(())
        };
        let both = in_time(async { tokio::join!(acquire(), acquire()) });
        assert_eq!(both.await, (Ok(()), Ok(())));
        let work = || async {
            assert_eq!(guard.stats().held, 1);
            yield_now().await;
        };
        let all = in_time(async { tokio::join!(acquire(), guard.run(1, work()), guard.run(1, work()), acquire()) });
        assert_eq!(all.await, (Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!((guard.stats().granted, guard.stats().queued), (6, 4));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn run_to_completion_refuses_its_key_inside_also_when_detached() {
        let guard = leaked(KeyedGuard::new("nested"));
        let nested = guard.run_to_completion(1, async {
            // The run is recognized after it yielded, too.
            yield_now().await;
            (guard.run_to_completion(1, async {}).await, guard.run_to_completion(2, async {}).await)
        });
        assert_eq!(in_time(nested).await, Ok((Err(AcquireError::WouldDeadlock), Ok(()))));

        let (sender, outcome) = oneshot::channel();
        let mut run = task::spawn(guard.run_to_completion(1, async {
            yield_now().await;
            sender.send([1, 2].map(|key| guard.acquire_blocking(key).map(drop))).unwrap();
            tokio::join!(guard.acquire(1), guard.acquire(2)).1.map(drop).unwrap();
        }));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!(in_time(outcome).await, Ok([(); 2].map(|()| Err(AcquireError::BlockingInAsync))));
        in_time(guard.acquire(1)).await.map(drop).unwrap();
        assert_eq!(guard.stats().finished_detached, 1);
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn detached_work_holds_its_key_until_it_ends() {
        let guard = Arc::new(KeyedGuard::new("running"));
        let (finish, finished) = oneshot::channel::<()>();
        let work = async move { finished.await.unwrap() };
        let mut run = task::spawn(Arc::clone(&guard).run_to_completion_owned("a".to_owned(), work));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!((guard.stats().held, guard.stats().detached, guard.len()), (1, 1, 1));
        let mut next = queued(&guard, "a".to_owned());
        drop(guard.try_acquire("b".to_owned()).unwrap());
        yield_now().await;
        assert_pending!(next.poll());

        guard.close();
        assert_eq!(assert_ready_err!(next.poll()), AcquireError::Closed);
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        finish.send(()).unwrap();
        in_time(guard.drained()).await;
        assert_ready!(drained.poll());
        assert_eq!(guard.stats().finished_detached, 1);
        yield_now().await;
        assert_idle(&guard);
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn caller_of_run_to_completion_cancelled_before_it_runs_starts_nothing() {
        let guard = leaked(KeyedGuard::new("waiting"));
        for grant_first in [false, true] {
            let permit = guard.acquire(1).await.unwrap();
            let mut run = task::spawn(guard.run_to_completion(1, async { panic!("the work never starts") }));
            assert_pending!(run.poll());
            if grant_first {
                drop(permit);
                drop(run);
            } else {
                drop(run);
                drop(permit);
            }
            yield_now().await;
            assert_idle(guard);
        }
        let GuardStats { cancelled, panicked, finished_detached, .. } = guard.stats();
        assert_eq!((cancelled, panicked, finished_detached), (2, 0, 0));
    }

    #[test]
    fn runtime_shutdown_releases_the_key() {
        let guard = leaked(KeyedGuard::new("runtime ends"));
        let runtime = two_workers();
        runtime.block_on(async {
            let mut run = task::spawn(guard.run_to_completion(1, std::future::pending::<()>()));
            assert_pending!(run.poll());
        });
        assert_eq!((guard.stats().held, guard.stats().detached, guard.len()), (1, 1, 1));
        drop(runtime);
        assert_idle(guard);
        assert_eq!(guard.stats().cut_off, 1);
    }
}

mod acquire_all {
    use super::*;

    #[test]
    fn every_key_is_acquired_once_in_key_order() {
        let guard = KeyedGuard::new("all");
        let mut permits: Vec<_> = (0..4).map(|key| Some(guard.try_acquire(key).unwrap())).collect();
        let mut all = task::spawn(guard.acquire_all([3, 0, 2, 0, 3, 1]));
        assert_pending!(all.poll());
        for (key, permit) in permits.iter_mut().enumerate() {
            assert_eq!(guard.stats().waiting, 1, "it waits for one key at a time");
            // It does not wait for the later keys yet, so that releasing one of them would not wake it.
            assert!(!all.is_woken());
            *permit = None;
            assert!(all.is_woken(), "it waited for key {key}");
            if key < 3 {
                assert_pending!(all.poll());
            }
        }
        let all = assert_ready_ok!(all.poll());
        assert_eq!((all.len(), all.is_empty(), guard.len(), guard.stats().held), (4, false, 4, 4));
        drop(all);
        assert_eq!(guard.stats().granted, 8);
        assert_idle(&guard);
    }

    #[test]
    fn acquiring_no_keys_succeeds_at_once() {
        let guard = KeyedGuard::<u32>::new("none");
        let none = assert_ready_ok!(task::spawn(guard.acquire_all([])).poll());
        assert_eq!((none.len(), none.is_empty(), guard.len()), (0, true, 0));
        assert_eq!(guard.stats().granted, 0);
    }

    #[test]
    fn more_keys_than_the_coop_budget_allows_can_be_acquired() {
        const KEYS: usize = 10_000;
        let guard = KeyedGuard::new("many");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all = runtime.block_on(guard.acquire_all((0..KEYS).rev())).unwrap();
        assert_eq!((all.len(), guard.len()), (KEYS, KEYS));
        drop(all);
        assert_idle(&guard);
    }

    #[test]
    fn tasks_that_name_keys_in_different_orders_never_deadlock() {
        const TASKS: u64 = 16;
        const ROUNDS: usize = 200;
        const KEYS: usize = 5;
        let guard = Arc::new(KeyedGuard::new("circle"));
        let inside = Arc::new([(); KEYS].map(|()| AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let tasks = (1..=TASKS).map(|seed| {
            let (guard, inside) = (Arc::clone(&guard), Arc::clone(&inside));
            runtime.spawn(async move {
                let mut random = Random(seed);
                for _ in 0..ROUNDS {
                    let keys = [(); 3].map(|()| random.below(KEYS));
                    let mut distinct = keys.to_vec();
                    distinct.sort_unstable();
                    distinct.dedup();
                    let permits = guard.acquire_all(keys).await.unwrap();
                    assert_eq!(permits.len(), distinct.len());
                    for key in &distinct {
                        assert!(!inside[*key].swap(true, Ordering::SeqCst), "two tasks hold key {key}");
                    }
                    yield_now().await;
                    for key in &distinct {
                        inside[*key].store(false, Ordering::SeqCst);
                    }
                    drop(permits);
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let all = runtime.block_on(async { timeout(60 * SECOND, futures::future::join_all(tasks)).await });
        for task in all.expect("the tasks deadlock") {
            task.unwrap();
        }
        assert_idle(&guard);
    }

    /// Asserts that only `others` keys are held, and that nothing remains of the refused caller.
    fn assert_released(guard: &KeyedGuard<u32>, others: usize) {
        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (others, others, 0));
    }

    #[test]
    fn refusal_midway_releases_the_permits_acquired_before_it() {
        let reject = KeyedGuard::builder("busy").queue(Queue::Reject).build();
        let _held = reject.try_acquire(2).unwrap();
        assert!(is_busy(&assert_ready_err!(task::spawn(reject.acquire_all([3, 2, 1])).poll())));
        assert_released(&reject, 1);

        let few = KeyedGuard::builder("few").max_keys(2).build();
        assert!(is_too_many(&assert_ready_err!(task::spawn(few.acquire_all([3, 2, 1])).poll())));
        assert_released(&few, 0);

        let nested = KeyedGuard::new("nested");
        let mut run = task::spawn(nested.run(2, async {
            let refused = nested.acquire_all([3, 2, 1]).await.map(drop);
            assert_released(&nested, 1);
            refused
        }));
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::WouldDeadlock));

        let closing = KeyedGuard::new("closing");
        let _held = closing.try_acquire(2).unwrap();
        let mut all = task::spawn(closing.acquire_all([3, 2, 1]));
        assert_pending!(all.poll());
        closing.close();
        assert!(all.is_woken());
        assert_eq!(assert_ready_err!(all.poll()), AcquireError::Closed);
        assert_released(&closing, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_midway_releases_the_permits_acquired_before_it() {
        let guard = KeyedGuard::builder("late").max_wait(SECOND).build();
        let held = [1, 2].map(|key| guard.try_acquire(key).unwrap());
        let mut all = task::spawn(guard.acquire_all([0, 2, 1]));
        assert_pending!(all.poll());
        advance(SECOND - Duration::from_millis(10)).await;
        let [one, two] = held;
        drop(one);
        assert_pending!(all.poll());
        // The time limit starts again for each key.
        advance(SECOND - Duration::from_millis(10)).await;
        assert_pending!(all.poll());
        advance(Duration::from_millis(12)).await;
        assert!(is_timeout(&assert_ready_err!(all.poll())));
        assert_released(&guard, 1);
        drop(two);
        assert_idle(&guard);
    }

    #[test]
    fn cancellation_midway_releases_the_permits_acquired_before_it() {
        let guard = KeyedGuard::new("cancelled");
        for grant_first in [false, true] {
            let mut held = Some(guard.try_acquire(2).unwrap());
            let mut all = task::spawn(guard.acquire_all([3, 2, 1]));
            assert_pending!(all.poll());
            let mut next = [1, 2].map(|key| queued(&guard, key));
            assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (2, 2, 3));
            if grant_first {
                held = None;
            }
            drop(all);
            drop(held);
            for next in &mut next {
                assert!(next.is_woken());
                drop(assert_ready_ok!(next.poll()));
            }
            assert_idle(&guard);
        }
    }

    #[test]
    fn acquire_all_dropped_before_its_first_poll_has_no_effect() {
        let guard = KeyedGuard::new("unpolled");
        drop(guard.acquire_all([1, 2]));
        assert_idle(&guard);
        assert_eq!(guard.stats().granted, 0);
    }
}

mod blocking {
    use super::*;

    #[test]
    fn threads_and_tasks_share_one_queue() {
        let guard = KeyedGuard::new("mixed");
        let permit = guard.try_acquire(1).unwrap();
        let mut first = queued(&guard, 1);
        let (acquired, release) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let permit = guard.acquire_blocking(1).unwrap();
                acquired.store(true, Ordering::SeqCst);
                spin_until(|| release.load(Ordering::SeqCst));
                drop(permit);
            });
            spin_until(|| guard.stats().waiting == 2);
            let mut third = queued(&guard, 1);
            // A thread that acquires another key waits for none of these callers.
            scope.spawn(|| drop(guard.acquire_blocking(2).unwrap())).join().unwrap();

            drop(permit);
            let permit = assert_ready_ok!(first.poll());
            assert_pending!(third.poll());
            assert!(!acquired.load(Ordering::SeqCst));
            drop(permit);
            spin_until(|| acquired.load(Ordering::SeqCst));
            assert_pending!(third.poll());
            release.store(true, Ordering::SeqCst);
            spin_until(|| third.is_woken());
            drop(assert_ready_ok!(third.poll()));
        });
        assert_idle(&guard);
    }

    #[test]
    fn acquire_blocking_waits_where_blocking_is_allowed() {
        let guard = leaked(KeyedGuard::new("allowed"));
        let runtime = two_workers();
        let acquire = move || guard.acquire_blocking(1).map(drop);
        let outcomes = runtime.block_on(async {
            let on_pool = spawn_blocking(acquire).await.unwrap();
            let on_worker = tokio::spawn(async move { block_in_place(acquire) }).await.unwrap();
            [on_pool, on_worker]
        });
        assert_eq!(outcomes, [Ok(()), Ok(())]);
    }

    #[test]
    fn acquire_blocking_on_a_thread_that_runs_tasks_is_refused_even_if_the_key_is_free() {
        let guard = leaked(KeyedGuard::new("the caller is refused"));
        let _permit = guard.try_acquire(1).unwrap();
        for runtime in [two_workers(), tokio::runtime::Builder::new_current_thread().build().unwrap()] {
            for key in [1, 2] {
                let acquire = || async move { guard.acquire_blocking(key).map(drop) };
                assert_eq!(runtime.block_on(acquire()), Err(AcquireError::BlockingInAsync));
                let spawned = runtime.block_on(async { tokio::spawn(acquire()).await.unwrap() });
                assert_eq!(spawned, Err(AcquireError::BlockingInAsync));
            }
        }
        assert_eq!(guard.stats().refused, 8);
        assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (1, 0, 1));
    }
}

mod panic {
    use super::*;

    /// Polls once and returns the panic, if any. The future is kept, as by a `catch_unwind` around it.
    fn poll_caught<F: Future>(future: Pin<&mut F>) -> thread::Result<Poll<F::Output>> {
        catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(Waker::noop()))))
    }

    #[test]
    fn panic_in_run_releases_the_key_while_the_future_is_kept() {
        let guard = leaked(KeyedGuard::new("panic"));
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
}

/// The guard drops keys where their destructors may call it.
mod dropped_keys {
    use super::*;

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
        assert_eq!(calls_of(|| assert_ready_err!(task::spawn(GUARD.acquire(Calling(5))).poll())), 1, "there are too many keys");
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
}

mod stats {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_counter_counts_only_its_own_event() {
        let guard = leaked(
            KeyedGuard::builder("counted")
                .queue(Queue::Bounded(2))
                .max_wait(10 * SECOND)
                .grant_timeout(SECOND)
                .max_keys(3)
                .build(),
        );
        let counters = || {
            let GuardStats {
                granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached, ..
            } = guard.stats();
            [granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached]
        };
        assert_eq!((counters(), guard.len()), ([0; 8], 0));
        assert_eq!((guard.stats().name, guard.name(), guard.stats().permits), ("counted", "counted", 1));

        let other = guard.acquire(2).await.unwrap();
        let permit = guard.acquire(1).await.unwrap();
        assert_eq!(counters(), [2, 0, 0, 0, 0, 0, 0, 0], "permits acquired at once");
        assert!(guard.try_acquire(1).is_err());
        assert_eq!(counters(), [2, 0, 0, 0, 0, 0, 0, 0], "a `try_acquire` that finds its key busy");
        let [first, second] = [1, 1].map(|key| queued(guard, key));
        let third = queued(guard, 2);
        assert_eq!(counters(), [2, 3, 0, 0, 0, 0, 0, 0], "three waiters");
        assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (2, 3, 2));
        assert!(guard.acquire(1).await.is_err());
        assert_eq!(counters(), [2, 3, 1, 0, 0, 0, 0, 0], "a caller that finds the queue full");
        drop(second);
        assert_eq!(counters(), [2, 3, 1, 0, 1, 0, 0, 0], "a waiter that is cancelled");
        drop(permit);
        assert_eq!(counters(), [3, 3, 1, 0, 1, 0, 0, 0], "a permit granted to a waiter");
        drop(first);
        assert_eq!(counters(), [3, 3, 1, 0, 2, 0, 0, 0], "a granted waiter that is cancelled");
        drop((third, other));
        assert_eq!(counters(), [3, 3, 1, 0, 3, 0, 0, 0], "a cancelled waiter of another key");
        assert_idle(guard);

        let permit = guard.acquire(1).await.unwrap();
        assert!(guard.acquire(1).await.is_err());
        assert_eq!(counters(), [4, 4, 1, 1, 3, 0, 0, 0], "a waiter that times out");
        let mut late = queued(guard, 1);
        drop(permit);
        advance(SECOND).await;
        drop(guard.try_acquire(1).unwrap());
        assert_eq!(counters(), [6, 5, 1, 1, 3, 1, 0, 0], "a grant that expires, and its permit acquired by another caller");
        assert_ready_err!(late.poll());
        drop(late);
        assert_eq!(counters(), [6, 5, 1, 1, 3, 1, 0, 0], "reporting the expiry to the waiter counts nothing");

        assert!(tokio::spawn(guard.run(1, async { panic!("counted") })).await.is_err());
        assert_eq!(counters(), [7, 5, 1, 1, 3, 1, 1, 0], "a panic in a run");
        guard.run(1, async { guard.acquire(1).await.unwrap_err() }).await.unwrap();
        assert_eq!(counters(), [8, 5, 2, 1, 3, 1, 1, 0], "a caller that would wait for itself");
        assert!(guard.acquire_blocking(1).is_err());
        assert_eq!(counters(), [8, 5, 3, 1, 3, 1, 1, 0], "a caller that would block an async thread");
        let all = guard.acquire_all([1, 2, 3]).await.unwrap();
        assert!(guard.acquire(4).await.is_err());
        assert_eq!(counters(), [11, 5, 4, 1, 3, 1, 1, 0], "a caller with one key too many");
        drop(all);

        let mut run = task::spawn(guard.run_to_completion(1, yield_now()));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!(guard.stats().detached, 1);
        assert_eq!(counters(), [12, 5, 4, 1, 3, 1, 1, 0], "a run that is detached");
        guard.acquire(1).await.map(drop).unwrap();
        assert_eq!(counters(), [13, 6, 4, 1, 3, 1, 1, 1], "the detached run finishes");

        guard.close();
        assert!(guard.acquire(1).await.is_err());
        assert_eq!(counters(), [13, 6, 5, 1, 3, 1, 1, 1], "a caller after close");
        assert_eq!((guard.stats().overrun, guard.stats().cut_off), (0, 0));
        assert_idle(guard);
    }

    /// A caller that is enqueued or holds a permit.
    enum Caller<'a, K: Hash + Eq> {
        Queued(task::Spawn<AcquireKey<'a, K>>),
        Holding(KeyedPermit<'a, K>),
    }

    /// Callers are created, polled and dropped at random. A waiter that was woken has been granted a permit.
    fn stats_match_the_callers_of_a_random_program<K: Hash + Eq + Ord + Copy + Debug>(key: impl Fn(u32) -> K) {
        const KEYS: usize = 12;
        const MOST: usize = 8;
        let guard = KeyedGuard::builder("mixed").permits(2).queue(Queue::Bounded(3)).max_keys(MOST).build();
        let mut callers: Vec<(K, Caller<'_, K>)> = Vec::new();
        let mut random = Random(11);
        let (mut refused, mut cancelled, mut queued_callers, mut grants) = (0, 0, 0, 0);
        for step in 0..20_000 {
            // Mostly creates callers for a while, then mostly drops them, so that keys are added and removed all the time.
            let creates = random.below(8) < if step % 100 < 50 { 5 } else { 2 };
            if creates || callers.is_empty() {
                let key = key(random.below(KEYS) as u32);
                let mut caller = task::spawn(guard.acquire(key));
                match caller.poll() {
                    Poll::Ready(Ok(permit)) => {
                        grants += 1;
                        callers.push((key, Caller::Holding(permit)));
                    }
                    Poll::Ready(Err(error)) => {
                        let known = callers.iter().any(|(other, _)| *other == key);
                        assert!(if known { is_full(&error) } else { is_too_many(&error) }, "{error:?}");
                        refused += 1;
                    }
                    Poll::Pending => {
                        queued_callers += 1;
                        callers.push((key, Caller::Queued(caller)));
                    }
                }
            } else {
                let at = random.below(callers.len());
                let (key, caller) = callers.swap_remove(at);
                match caller {
                    Caller::Queued(mut caller) if random.below(3) > 0 => {
                        let is_granted = caller.is_woken();
                        match caller.poll() {
                            Poll::Ready(permit) => {
                                assert!(is_granted);
                                grants += 1;
                                callers.push((key, Caller::Holding(permit.unwrap())));
                            }
                            Poll::Pending => {
                                assert!(!is_granted);
                                callers.push((key, Caller::Queued(caller)));
                            }
                        }
                    }
                    Caller::Queued(caller) => {
                        grants += u64::from(caller.is_woken());
                        cancelled += 1;
                        drop(caller);
                    }
                    Caller::Holding(permit) => drop(permit),
                }
            }
            let is_waiting = |caller: &Caller<'_, K>| matches!(caller, Caller::Queued(caller) if !caller.is_woken());
            let waiting = callers.iter().filter(|(_, caller)| is_waiting(caller)).count();
            let untaken =
                callers.iter().filter(|(_, caller)| matches!(caller, Caller::Queued(c) if c.is_woken())).count();
            let mut keys: Vec<_> = callers.iter().map(|(key, _)| *key).collect();
            keys.sort_unstable();
            keys.dedup();
            let stats = guard.stats();
            assert_eq!((stats.held, stats.waiting, guard.len()), (callers.len() - waiting, waiting, keys.len()));
            assert_eq!((stats.refused, stats.cancelled, stats.queued), (refused, cancelled, queued_callers));
            assert_eq!(stats.granted, grants + untaken as u64);
        }
        assert!(refused > 100 && cancelled > 100 && queued_callers > 100, "{:?}", guard.stats());
        drop(callers);
        assert_idle(&guard);
    }

    #[test]
    fn stats_of_a_random_program_are_exact() {
        stats_match_the_callers_of_a_random_program(|number| number);
    }

    #[test]
    fn stats_of_a_random_program_with_colliding_keys_are_exact() {
        stats_match_the_callers_of_a_random_program(Colliding);
    }
}

#[test]
fn debug_output_names_the_guard() {
    let guard = Arc::new(KeyedGuard::builder("named").permits(2).build());
    let permit = guard.try_acquire(7).unwrap();
    let owned = Arc::clone(&guard).try_acquire_owned(7).unwrap();
    let waiter = queued(&guard, 7);
    assert_eq!(
        format!("{guard:?}"),
        "KeyedGuard { name: \"named\", permits: 2, keys: 1, held: 2, waiting: 1, closed: false, .. }"
    );
    assert_eq!(
        format!("{permit:?} {owned:?}"),
        "KeyedPermit { guard: \"named\" } OwnedKeyedPermit { guard: \"named\" }"
    );
    assert_eq!(format!("{:?}", *waiter), "AcquireKey { guard: Some(\"named\"), queued: true }");
    let all = guard.acquire_all([1, 2]);
    assert_eq!(format!("{all:?}"), "AcquireAll { guard: \"named\", held: Some(0), to_come: 2, .. }");
    let others = [
        format!("{:?}", Arc::clone(&guard).acquire_owned(1)),
        format!("{:?}", guard.run(1, async {})),
        format!("{:?}", Arc::clone(&guard).run_to_completion_owned(1, async {})),
        format!("{:?}", assert_ready_ok!(task::spawn(all).poll())),
        format!("{:?}", KeyedGuard::<u32>::builder("named")),
    ];
    for other in others {
        assert!(other.contains("\"named\""), "{other}");
    }
}

#[test]
fn limit_of_no_keys_panics_with_advice() {
    let panic = catch_unwind(|| KeyedGuard::<u32>::builder("x").max_keys(0).build()).unwrap_err();
    let message = "max_keys(0) would admit nobody: give 1 or more, or close() the guard";
    assert_eq!(panic.downcast_ref::<&str>(), Some(&message));
}

#[test]
fn time_limit_of_zero_panics_with_advice() {
    type Case = (&'static str, fn() -> KeyedGuard<u32>);
    let cases: [Case; 2] = [
        ("a max_wait of zero lets nobody wait: say Queue::Reject", || {
            KeyedGuard::builder("x").max_wait(Duration::ZERO).build()
        }),
        ("a grant_timeout of zero lets nobody take a turn: give a second or so, or none", || {
            KeyedGuard::builder("x").grant_timeout(Duration::ZERO).build()
        }),
    ];
    for (message, build) in cases {
        let panic = catch_unwind(build).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&message));
    }
}

#[test]
fn static_accepts_every_setting() {
    static MOST: KeyedGuard<String> = KeyedGuard::builder("most")
        .permits(65_535)
        .queue(Queue::Bounded(8_388_607))
        .order(Order::Lifo)
        .max_wait(Duration::MAX)
        .grant_timeout(Duration::from_nanos(1))
        .max_keys(usize::MAX)
        .build();
    drop(MOST.try_acquire(String::new()).unwrap());
    assert_eq!((MOST.stats().permits, MOST.stats().granted), (65_535, 1));
}

/// Threads and tasks compete for a few keys.
mod storm {
    use super::*;

    const THREADS: u64 = 8;
    const CALLS: usize = 40_000;
    const KEYS: usize = 4;

    /// The critical section of one key. Visits are counted in two steps, so that a visit is lost if two overlap.
    #[derive(Default)]
    struct CriticalSection {
        is_taken: AtomicBool,
        visits: AtomicUsize,
    }

    /// A caller inside a critical section.
    struct Visit<'a>(&'a CriticalSection);

    impl CriticalSection {
        fn enter(&self) -> Visit<'_> {
            assert!(!self.is_taken.swap(true, Ordering::Relaxed), "two callers overlap");
            Visit(self)
        }
    }

    impl Drop for Visit<'_> {
        fn drop(&mut self) {
            let visits = self.0.visits.load(Ordering::Relaxed);
            self.0.visits.store(visits + 1, Ordering::Relaxed);
            self.0.is_taken.store(false, Ordering::Relaxed);
        }
    }

    fn sections() -> Arc<[CriticalSection; KEYS]> {
        Arc::default()
    }

    fn visits(sections: &[CriticalSection]) -> u64 {
        sections.iter().map(|section| section.visits.load(Ordering::Relaxed) as u64).sum()
    }

    #[test]
    fn callers_of_a_key_never_overlap_and_none_is_lost() {
        let guard = KeyedGuard::new("storm");
        let sections = sections();
        thread::scope(|scope| {
            for seed in 1..=THREADS {
                let (guard, sections) = (&guard, &sections);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    for _ in 0..CALLS {
                        let key = random.below(KEYS);
                        let visit = || {
                            let visit = sections[key].enter();
                            if key == 0 {
                                thread::yield_now();
                            }
                            drop(visit);
                        };
                        match random.below(3) {
                            0 => {
                                let _permit = guard.acquire_blocking(key).unwrap();
                                visit();
                            }
                            1 => {
                                let _permit = futures::executor::block_on(guard.acquire(key)).unwrap();
                                visit();
                            }
                            _ => futures::executor::block_on(guard.run(key, async { visit() })).unwrap(),
                        }
                    }
                });
            }
        });
        let calls = THREADS * CALLS as u64;
        assert_eq!(visits(&*sections), calls);
        let GuardStats { granted, queued, cancelled, refused, .. } = guard.stats();
        assert_eq!((granted, cancelled, refused), (calls, 0, 0));
        assert!(queued > 0, "no caller ever waited");
        assert_idle(&guard);
    }

    /// Returns `Pending` the given number of times.
    async fn yields(times: usize) {
        let mut left = times;
        poll_fn(|_| match left.checked_sub(1) {
            Some(less) => {
                left = less;
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
        .await;
    }

    #[test]
    fn callers_polled_by_hand_and_dropped_anywhere_lose_no_permit() {
        let guard = KeyedGuard::new("storm");
        let sections = sections();
        let finished = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 1..=THREADS {
                let (guard, sections, finished) = (&guard, &sections, &finished);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    let mut cx = Context::from_waker(Waker::noop());
                    let mut finished_here = 0;
                    for _ in 0..CALLS {
                        let key = random.below(KEYS);
                        let (inside, as_run) = (random.below(3), random.below(2) == 0);
                        let mut caller = pin!(async {
                            if as_run {
                                let work = async {
                                    let _visit = sections[key].enter();
                                    yields(inside).await;
                                };
                                guard.run(key, work).await.unwrap();
                            } else {
                                let _permit = guard.acquire(key).await.unwrap();
                                let _visit = sections[key].enter();
                                yields(inside).await;
                            }
                        });
                        for _ in 0..random.below(6) {
                            if caller.as_mut().poll(&mut cx).is_ready() {
                                finished_here += 1;
                                break;
                            }
                            thread::yield_now();
                        }
                    }
                    finished.fetch_add(finished_here, Ordering::Relaxed);
                });
            }
        });
        assert_idle(&guard);
        let GuardStats { granted, cancelled, refused, .. } = guard.stats();
        let visits = visits(&*sections);
        // A grant whose waiter was then cancelled counts as granted without a visit.
        assert!((visits..=visits + cancelled).contains(&granted), "{visits} visits: {:?}", guard.stats());
        assert!(finished.load(Ordering::Relaxed) as u64 <= visits);
        assert!(finished.into_inner() > 0 && cancelled > 0, "{:?}", guard.stats());
        assert_eq!(refused, 0);
    }

    #[test]
    fn tasks_cancelled_anywhere_never_keep_the_others_from_being_served() {
        const TASKS: u64 = 32;
        const ROUNDS: usize = 400;
        let guard = Arc::new(KeyedGuard::builder("storm").max_wait(1_000 * SECOND).build());
        let sections = sections();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let tasks = (1..=TASKS).map(|seed| {
            let (guard, sections) = (Arc::clone(&guard), Arc::clone(&sections));
            runtime.spawn(async move {
                let mut random = Random(seed);
                let mut finished = 0;
                for _ in 0..ROUNDS {
                    let key = random.below(KEYS);
                    let (kind, yields) = (random.below(3), random.below(40));
                    let work = {
                        let sections = Arc::clone(&sections);
                        async move {
                            let _visit = sections[key].enter();
                            yield_now().await;
                        }
                    };
                    let guard = Arc::clone(&guard);
                    let call = async move {
                        match kind {
                            0 => {
                                let _permit = guard.acquire_owned(key).await.unwrap();
                                work.await;
                            }
                            1 => guard.run(key, work).await.unwrap(),
                            _ => guard.run_to_completion_owned(key, work).await.unwrap(),
                        }
                    };
                    let cancelled = async {
                        for _ in 0..yields {
                            yield_now().await;
                        }
                        // Half of the callers are never cancelled.
                        if yields % 2 == 0 {
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::select! {
                        () = call => finished += 1,
                        () = cancelled => {}
                    }
                }
                finished
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let finished: u64 = runtime.block_on(async {
            let all = timeout(120 * SECOND, futures::future::join_all(tasks)).await.expect("a permit or a wake-up was lost");
            guard.close();
            timeout(60 * SECOND, guard.drained()).await.expect("a permit was lost");
            all.into_iter().map(Result::unwrap).sum()
        });
        // Ends the tasks of detached runs.
        drop(runtime);
        assert_idle(&guard);
        let stats = guard.stats();
        let visits = visits(&*sections);
        assert!(finished <= visits && finished >= TASKS * ROUNDS as u64 / 3, "{finished} of {visits}: {stats:?}");
        assert!((visits..=visits + stats.cancelled).contains(&stats.granted), "{visits} visits: {stats:?}");
        assert!(stats.cancelled > 0 && stats.finished_detached > 0, "no caller was cancelled: {stats:?}");
        assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.panicked), (0, 0, 0, 0));
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
