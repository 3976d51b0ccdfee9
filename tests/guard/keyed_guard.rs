//! The rules of [`KeyedGuard`], one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

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

/// Keys that all have the same hash, and so the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Colliding(u32);

impl Hash for Colliding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        0_u8.hash(state);
    }
}

/// A guard for the length of the test run, as in a `static`.
fn leaked<K>(guard: KeyedGuard<K>) -> &'static KeyedGuard<K> {
    Box::leak(Box::new(guard))
}

fn assert_idle<K: Hash + Eq>(guard: &KeyedGuard<K>) {
    let GuardStats { held, waiting, detached, .. } = guard.stats();
    assert_eq!((held, waiting, detached), (0, 0, 0));
    assert_eq!(guard.len(), 0, "a key remains");
    assert!(guard.is_empty());
}

/// Fails instead of hanging, at once where time is paused.
async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(1_000 * SECOND, future).await.expect("it hangs")
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
        // What is left fits, as the limit does.
        (self.0 % limit as u64) as usize
    }
}

/// A caller that has lined up.
fn queued<K: Hash + Eq>(guard: &KeyedGuard<K>, key: K) -> task::Spawn<AcquireKey<'_, K>> {
    let mut caller = task::spawn(guard.acquire(key));
    assert_pending!(caller.poll());
    caller
}

/// A caller whose turn has come, and that was not polled since.
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

    fn turns_of_every_key_come_in<K: Hash + Eq + Copy>(order: Order, key: impl Fn(u32) -> K) {
        let guard = KeyedGuard::builder("order").order(order).build();
        let keys: Vec<K> = (0..KEYS as u32).map(key).collect();
        let mut permits: Vec<_> = keys.iter().map(|key| Some(guard.try_acquire(*key).unwrap())).collect();
        let mut callers: Vec<_> = (0..KEYS).map(|_| Vec::new()).collect();
        // One for each key, again and again: those of one key come between those of all others.
        for _ in 0..CALLERS {
            for (key, callers) in keys.iter().zip(&mut callers) {
                callers.push(queued(&guard, *key));
            }
        }
        assert_eq!((guard.len(), guard.stats().waiting), (KEYS, KEYS * CALLERS));
        for turn in 0..CALLERS {
            let next = if order == Order::Lifo { CALLERS - 1 - turn } else { turn };
            for key in 0..KEYS {
                permits[key] = None;
                assert!(callers[key][next].is_woken());
                let woken = callers.iter().flatten().filter(|caller| caller.is_woken()).count();
                assert_eq!(woken, 1, "one permit wakes one caller");
                permits[key] = Some(assert_ready_ok!(callers[key][next].poll()));
                assert_eq!(guard.stats().held, KEYS);
            }
            assert_eq!((guard.len(), guard.stats().waiting), (KEYS, KEYS * (CALLERS - 1 - turn)));
        }
        for (gone, permit) in permits.into_iter().enumerate() {
            assert_eq!(guard.len(), KEYS - gone);
            drop(permit);
        }
        assert_idle(&guard);
    }

    #[test]
    fn fifo_serves_who_came_first_for_each_key() {
        turns_of_every_key_come_in(Order::Fifo, |number| number);
    }

    #[test]
    fn lifo_serves_who_came_last_for_each_key() {
        turns_of_every_key_come_in(Order::Lifo, |number| number);
    }

    #[test]
    fn keys_of_one_hash_have_queues_of_their_own_too() {
        turns_of_every_key_come_in(Order::Fifo, Colliding);
        turns_of_every_key_come_in(Order::Lifo, Colliding);
    }

    #[test]
    fn a_key_that_is_held_and_waited_for_keeps_no_other_key_waiting() {
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
    fn nobody_overtakes_a_caller_whose_turn_has_come() {
        let guard = KeyedGuard::new("hand-off");
        let mut first = granted(&guard, 1);
        assert_eq!(guard.stats().held, 1, "set aside for the first, never free");
        assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
        let mut second = queued(&guard, 1);
        drop(assert_ready_ok!(first.poll()));
        drop(assert_ready_ok!(second.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn the_place_in_the_queue_comes_with_the_first_poll() {
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
    fn permits_count_for_each_key() {
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
    fn a_waiter_polled_by_hand_moves_between_threads() {
        let guard = Arc::new(KeyedGuard::new("by hand"));
        let permit = Arc::clone(&guard).try_acquire_owned("key".to_owned()).unwrap();
        let mut caller = Arc::clone(&guard).acquire_owned("key".to_owned());
        assert!(Pin::new(&mut caller).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // The latest waker counts, not the first.
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

/// A key is there from its first caller to its last.
mod keys {
    use super::*;

    #[test]
    fn a_key_is_there_while_someone_holds_it_or_waits_for_it() {
        let guard = KeyedGuard::new("there");
        assert!(guard.is_empty());
        let unpolled = guard.acquire(1);
        assert!(guard.is_empty(), "nobody has asked yet");
        drop(unpolled);
        let first = guard.try_acquire(1).unwrap();
        assert!(!guard.is_empty());
        let waits = queued(&guard, 1);
        let other = guard.try_acquire(2).unwrap();
        assert_eq!(guard.len(), 2, "however many callers a key has");
        drop(first);
        assert_eq!(guard.len(), 2, "a turn has come that nobody took");
        drop(waits);
        assert_eq!(guard.len(), 1);
        drop(other);
        assert_idle(&guard);
    }

    #[test]
    fn a_key_that_comes_back_starts_anew() {
        let guard = KeyedGuard::new("again");
        for turn in 1..=1_000_u64 {
            let mut second = granted(&guard, "again");
            drop(assert_ready_ok!(second.poll()));
            assert_eq!(guard.stats().granted, 2 * turn);
            assert_idle(&guard);
        }
    }

    #[test]
    fn a_key_stays_until_a_caller_that_lost_its_turn_has_heard_of_it() {
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
    fn of_callers_that_come_at_once_as_many_queue_for_each_key_as_may() {
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

            // A place that is given up can be taken again, but only once, and only for that key.
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
    fn a_guard_without_queues_refuses_with_busy() {
        let guard = KeyedGuard::builder("reject").queue(Queue::Reject).build();
        let permit = guard.try_acquire(1).unwrap();
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire(1)).poll())));
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.run(1, ready(()))).poll())));
        assert!(is_busy(&guard.acquire_blocking(1).unwrap_err()));
        assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
        assert_eq!(guard.stats().refused, 3, "a try is a question, not a refused caller");
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
    async fn a_caller_whose_turn_does_not_come_is_told_how_long_it_waited() {
        let guard = patient();
        let permit = guard.acquire(1).await.unwrap();
        let error = guard.acquire(1).await.unwrap_err();
        let AcquireError::Timeout { waited, .. } = error else { panic!("{error:?}") };
        // tokio's timers are as fine as a millisecond.
        assert!((LIMIT..LIMIT + Duration::from_millis(2)).contains(&waited), "{waited:?}");
        let GuardStats { waiting, timed_out, cancelled, .. } = guard.stats();
        assert_eq!((waiting, timed_out, cancelled), (0, 1, 0));
        drop(permit);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_counts_from_the_first_poll_of_each_caller() {
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
    async fn a_turn_that_came_before_the_timer_was_looked_at_wins() {
        let guard = patient();
        let permit = guard.try_acquire(1).unwrap();
        let mut caller = queued(&guard, 1);
        advance(2 * LIMIT).await;
        assert!(caller.is_woken(), "the timer rang");
        drop(permit);
        drop(assert_ready_ok!(caller.poll()));
        assert_eq!(guard.stats().timed_out, 0);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_timed_out_is_told_when_those_of_its_key_are_served() {
        const HOLD: Duration = Duration::from_millis(100);
        let guard = patient();
        for _ in 0..2 {
            let _permit = guard.try_acquire(1).unwrap();
            assert!(guard.try_acquire(1).is_err(), "so the next holder is timed");
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
        assert_eq!(error.retry_after(), Some(2 * HOLD), "behind the one that still waits for the same key");
    }

    #[test]
    fn a_key_that_is_free_needs_no_timer() {
        let guard = patient();
        let permit = assert_ready_ok!(task::spawn(guard.acquire(1)).poll());
        // A busy one does. What cannot be timed doesn't stay in the queue.
        let mut caller = task::spawn(guard.acquire(1));
        assert!(catch_unwind(AssertUnwindSafe(|| caller.poll())).is_err());
        drop(caller);
        assert_eq!(guard.stats().waiting, 0);
        drop(permit);
        assert_idle(&guard);
    }

    #[test]
    fn a_blocking_caller_gives_up_too() {
        // Real time: a parked thread has no other clock.
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
    async fn a_turn_expires_for_who_tries_the_same_key_and_no_other() {
        let guard = Arc::new(limited());
        for (tried, owned) in [(0, false), (1, false), (0, true), (1, true)] {
            let mut left_alone = [0, 1].map(|key| granted(&guard, Colliding(key)));
            let key = Colliding(tried);
            advance(SECOND - Duration::from_millis(1)).await;
            assert!(is_busy(&guard.try_acquire(key).unwrap_err()));
            advance(Duration::from_millis(1)).await;
            if owned {
                drop(Arc::clone(&guard).try_acquire_owned(key).unwrap());
            } else {
                drop(guard.try_acquire(key).unwrap());
            }
            assert_eq!(assert_ready_err!(left_alone[tried as usize].poll()), AcquireError::GrantExpired);
            drop(assert_ready_ok!(left_alone[1 - tried as usize].poll()));
            assert_idle(&guard);
        }
        assert_eq!(guard.stats().expired, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_wait_for_a_key_watch_over_its_turns_alone() {
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
    async fn a_turn_taken_in_time_does_not_expire() {
        let guard = limited();
        let mut first = granted(&guard, 1);
        let mut second = queued(&guard, 1);
        advance(SECOND / 2).await;
        assert_pending!(second.poll());
        let permit = assert_ready_ok!(first.poll());
        // Who holds a permit may hold it as long as it likes.
        advance(10 * SECOND).await;
        assert_pending!(second.poll());
        drop(permit);
        drop(assert_ready_ok!(second.poll()));
        assert_eq!(guard.stats().expired, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn when_those_that_wait_are_all_left_alone_and_the_queue_is_full_a_newcomer_gets_in() {
        let guard = KeyedGuard::builder("full").queue(Queue::Bounded(1)).grant_timeout(SECOND).build();
        let mut first = granted(&guard, 1);
        let mut second = queued(&guard, 1);
        assert!(is_full(&guard.acquire(1).await.unwrap_err()), "the turn may still be taken");
        advance(SECOND).await;
        drop(in_time(guard.acquire(1)).await.unwrap());
        assert_eq!(assert_ready_err!(first.poll()), AcquireError::GrantExpired);
        assert_eq!(assert_ready_err!(second.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 2);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_of_any_key_that_nobody_takes_do_not_keep_the_guard_from_draining() {
        let guard = limited();
        let mut left_alone: Vec<_> = (0..20).map(|key| granted(&guard, key)).collect();
        guard.close();
        timeout(10 * SECOND, guard.drained()).await.expect("the turns expire, though nobody waits for them any more");
        for caller in &mut left_alone {
            assert_eq!(assert_ready_err!(caller.poll()), AcquireError::GrantExpired);
        }
        assert_eq!(guard.stats().expired, 20);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn everyone_who_waits_for_the_drain_is_told_when_the_last_turn_expires() {
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
        assert!(second.is_woken(), "at once, not when it would have looked itself");
        assert_ready!(second.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_expires_after_close_for_who_tries_drains_the_guard() {
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
    fn a_blocking_caller_watches_too() {
        // Real time: a parked thread has no other clock.
        let guard = leaked(KeyedGuard::builder("blocking").grant_timeout(Duration::from_millis(20)).build());
        let permit = guard.try_acquire(1).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut left_alone = task::spawn(guard.acquire(1));
        {
            let _entered = runtime.enter();
            assert_pending!(left_alone.poll());
        }
        drop(permit);
        let blocking = thread::spawn(|| guard.acquire_blocking(1).map(drop));
        spin_until(|| blocking.is_finished());
        assert_eq!(blocking.join().unwrap(), Ok(()));
        assert_eq!(assert_ready_err!(left_alone.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 1);
        assert_idle(guard);
    }
}

mod max_keys {
    use super::*;

    #[test]
    fn one_key_more_is_refused_at_once_and_those_there_are_go_on() {
        let guard = Arc::new(KeyedGuard::builder("keys").permits(2).max_keys(3).build());
        let mut permits: Vec<_> = (0..3).map(|key| guard.try_acquire(key).unwrap()).collect();
        assert!(is_too_many(&guard.try_acquire(3).unwrap_err()));
        assert!(is_too_many(&Arc::clone(&guard).try_acquire_owned(3).unwrap_err()));
        assert_eq!(guard.stats().refused, 0, "a try is a question, not a refused caller");
        assert!(is_too_many(&assert_ready_err!(task::spawn(guard.acquire(3)).poll())));
        assert!(is_too_many(&assert_ready_err!(task::spawn(Arc::clone(&guard).acquire_owned(3)).poll())));
        assert!(is_too_many(&assert_ready_err!(task::spawn(guard.run(3, ready(()))).poll())));
        assert!(is_too_many(&guard.acquire_blocking(3).unwrap_err()));
        assert!(is_too_many(&assert_ready_err!(task::spawn(guard.acquire_all([0, 3])).poll())));
        assert_eq!((guard.stats().refused, guard.len(), guard.stats().held), (5, 3, 3));

        permits.push(guard.try_acquire(1).unwrap());
        let mut waits = queued(&guard, 1);
        permits.clear();
        drop(assert_ready_ok!(waits.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn there_is_room_again_when_a_key_goes_however_it_goes() {
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
        assert!(is_too_many(&guard.try_acquire(9).unwrap_err()), "the first is still there");
        drop(permit);
        assert_room();
        drop(assert_ready_ok!(task::spawn(guard.acquire_all([1])).poll()));
        assert_room();
        let panics = guard.run(1, async { panic!("in its turn") });
        assert!(catch_unwind(AssertUnwindSafe(|| task::spawn(panics).poll().map(|ran: Result<(), _>| ran))).is_err());
        assert_room();
    }

    #[test]
    fn many_threads_never_have_more_keys_than_may_be_and_no_room_is_lost() {
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
                                // Each permit is another key's, for there is one for each.
                                let others = live.fetch_add(1, Ordering::SeqCst);
                                assert!(others < MOST, "{} keys are live", others + 1);
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
        assert!(refused.into_inner() > 0, "nobody met the limit");
        let permits: Vec<_> = (0..MOST).map(|key| guard.try_acquire(key).unwrap()).collect();
        assert!(is_too_many(&guard.try_acquire(MOST).unwrap_err()));
        drop(permits);
    }

    #[test]
    fn of_threads_that_bring_a_new_key_each_at_once_as_many_get_in_as_may() {
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
            let entered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            let refused = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(is_too_many)).count();
            assert_eq!((entered, refused), (MOST, THREADS - MOST), "round {round}");
            assert_eq!(guard.len(), MOST);
        }
        assert_idle(&guard);
    }
}

mod close {
    use super::*;

    #[test]
    fn those_that_wait_for_any_key_are_told_and_the_holders_finish() {
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
    fn a_key_that_was_waited_for_goes_when_the_last_has_heard_of_it() {
        let guard = KeyedGuard::new("closing");
        let permit = guard.try_acquire(1).unwrap();
        let [mut hears, leaves] = [0; 2].map(|_| queued(&guard, 1));
        guard.close();
        drop(permit);
        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (1, 0, 0));
        assert_eq!(assert_ready_err!(hears.poll()), AcquireError::Closed);
        assert_eq!(guard.len(), 1);
        drop(leaves);
        assert_idle(&guard);
        assert_eq!(guard.stats().cancelled, 0, "it was refused before it left");
    }

    #[test]
    fn who_comes_afterwards_is_refused_for_keys_there_are_and_for_new_ones() {
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
    fn a_guard_that_is_closed_before_its_first_call_is_drained_and_refuses() {
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
    fn an_open_guard_is_not_drained_though_no_key_is_there() {
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
    fn closing_twice_is_closing_once() {
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
    fn a_turn_that_came_before_is_still_the_callers() {
        let guard = KeyedGuard::new("granted");
        let [mut takes, leaves] = [1, 2].map(|key| granted(&guard, key));
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        let permit = assert_ready_ok!(takes.poll());
        drop(permit);
        assert_pending!(drained.poll());
        drop(leaves);
        assert!(drained.is_woken(), "it was the last");
        assert_ready!(drained.poll());
        assert_idle(&guard);
    }

    #[test]
    fn of_holders_that_leave_at_once_one_tells_that_the_guard_is_drained() {
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
    fn closing_as_the_holders_leave_tells_that_the_guard_is_drained() {
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
    fn wakers_that_panic_keep_nobody_of_another_key_from_being_told() {
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
    fn work_runs_in_a_turn_of_its_key_and_its_answer_is_passed_through() {
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
    fn the_same_key_is_refused_inside_and_another_is_not() {
        let guard = KeyedGuard::new("nested");
        let mut run = task::spawn(guard.run(Colliding(1), async {
            let same = guard.acquire(Colliding(1)).await.map(drop);
            let same_run = guard.run(Colliding(1), async {}).await;
            let among_others = guard.acquire_all([0, 1, 2].map(Colliding)).await.map(drop);
            let another = guard.acquire(Colliding(2)).await.map(drop);
            // In a run of the other, and in the place that the first of the others had in memory.
            let back = guard.run(Colliding(3), async { guard.acquire(Colliding(1)).await.map(drop) }).await;
            let again = guard.acquire(Colliding(4)).await.map(drop);
            ([same, same_run, among_others], [another, again], back)
        }));
        let refused = Err(AcquireError::WouldDeadlock);
        let expected = ([(); 3].map(|()| refused.clone()), [Ok(()), Ok(())], Ok(refused));
        assert_eq!(assert_ready_ok!(run.poll()), expected);
        assert_eq!(guard.stats().refused, 4);
        assert_idle(&guard);
        // The key was never held by this thread outside of that poll.
        let _permit = guard.try_acquire(Colliding(1)).unwrap();
        assert_pending!(task::spawn(guard.acquire(Colliding(1))).poll());
    }

    #[test]
    fn another_key_that_is_held_is_waited_for_inside() {
        let guard = KeyedGuard::new("nested");
        let permit = guard.try_acquire(Colliding(2)).unwrap();
        let mut run = task::spawn(guard.run(Colliding(1), async { guard.run(Colliding(2), async {}).await }));
        assert_pending!(run.poll());
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Ok(()));
        assert_idle(&guard);
    }

    #[test]
    fn the_same_key_of_another_guard_is_waited_for_inside() {
        // Many of them: some have the place in their guard's memory that the outer one has in its own.
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
    fn a_permit_that_is_free_may_be_taken_inside() {
        let guard = KeyedGuard::builder("two").permits(2).build();
        let work = async { guard.run(1, async { (guard.stats().held, guard.acquire(1).await.map(drop)) }).await };
        let mut run = task::spawn(guard.run(1, work));
        assert_eq!(assert_ready_ok!(run.poll()), Ok((2, Err(AcquireError::WouldDeadlock))));
        assert_idle(&guard);
    }

    #[test]
    fn a_place_taken_outside_and_awaited_inside_is_refused_and_given_up() {
        let guard = KeyedGuard::new("nested");
        let permit = guard.try_acquire(1).unwrap();
        let place = Mutex::new(None);
        let mut run = task::spawn(guard.run(1, async {
            let acquire: AcquireKey<'_, i32> = place.lock().unwrap().take().expect("it is queued by now");
            acquire.await.map(drop)
        }));
        assert_pending!(run.poll());
        let mut behind = guard.acquire(1);
        assert!(Pin::new(&mut behind).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        *place.lock().unwrap() = Some(behind);
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::WouldDeadlock));
        assert_idle(&guard);
    }

    #[test]
    fn inside_closed_is_the_answer_too() {
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
    async fn two_branches_of_one_task_take_turns_of_one_key() {
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
        let turn = || async {
            assert_eq!(guard.stats().held, 1);
            yield_now().await;
        };
        let all = in_time(async { tokio::join!(acquire(), guard.run(1, turn()), guard.run(1, turn()), acquire()) });
        assert_eq!(all.await, (Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!((guard.stats().granted, guard.stats().queued), (6, 4));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn run_to_completion_refuses_its_key_inside_also_after_its_caller_left() {
        let guard = leaked(KeyedGuard::new("nested"));
        let nested = guard.run_to_completion(1, async {
            // Also after it was away from its thread.
            yield_now().await;
            (guard.run_to_completion(1, async {}).await, guard.run_to_completion(2, async {}).await)
        });
        assert_eq!(in_time(nested).await, Ok((Err(AcquireError::WouldDeadlock), Ok(()))));

        let (tell, told) = oneshot::channel();
        let mut run = task::spawn(guard.run_to_completion(1, async {
            yield_now().await;
            tell.send([1, 2].map(|key| guard.acquire_blocking(key).map(drop))).unwrap();
            tokio::join!(guard.acquire(1), guard.acquire(2)).1.map(drop).unwrap();
        }));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!(in_time(told).await, Ok([(); 2].map(|()| Err(AcquireError::BlockingInAsync))));
        in_time(guard.acquire(1)).await.map(drop).unwrap();
        assert_eq!(guard.stats().finished_detached, 1);
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn work_whose_caller_leaves_ends_with_its_key_held() {
        let guard = Arc::new(KeyedGuard::new("running"));
        let (end, ended) = oneshot::channel::<()>();
        let work = async move { ended.await.unwrap() };
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
        end.send(()).unwrap();
        in_time(guard.drained()).await;
        assert_ready!(drained.poll());
        assert_eq!(guard.stats().finished_detached, 1);
        yield_now().await;
        assert_idle(&guard);
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_of_run_to_completion_that_leaves_before_its_turn_starts_nothing() {
        let guard = leaked(KeyedGuard::new("waiting"));
        for take_turn in [false, true] {
            let permit = guard.acquire(1).await.unwrap();
            let mut run = task::spawn(guard.run_to_completion(1, async { panic!("it never starts") }));
            assert_pending!(run.poll());
            if take_turn {
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
    fn when_the_runtime_ends_the_key_is_free() {
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
    fn every_key_is_taken_once_in_its_order() {
        let guard = KeyedGuard::new("all");
        let mut permits: Vec<_> = (0..4).map(|key| Some(guard.try_acquire(key).unwrap())).collect();
        let mut all = task::spawn(guard.acquire_all([3, 0, 2, 0, 3, 1]));
        assert_pending!(all.poll());
        for (key, permit) in permits.iter_mut().enumerate() {
            assert_eq!(guard.stats().waiting, 1, "for one key at a time");
            // Those after it are not waited for yet: whoever has them may leave without being noticed.
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
    fn of_no_key_it_is_there_at_once() {
        let guard = KeyedGuard::<u32>::new("none");
        let none = assert_ready_ok!(task::spawn(guard.acquire_all([])).poll());
        assert_eq!((none.len(), none.is_empty(), guard.len()), (0, true, 0));
        assert_eq!(guard.stats().granted, 0);
    }

    #[test]
    fn more_keys_than_a_task_may_do_at_once_are_taken_all_the_same() {
        const KEYS: usize = 10_000;
        let guard = KeyedGuard::new("many");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let all = runtime.block_on(guard.acquire_all((0..KEYS).rev())).unwrap();
        assert_eq!((all.len(), guard.len()), (KEYS, KEYS));
        drop(all);
        assert_idle(&guard);
    }

    #[test]
    fn tasks_that_ask_in_different_orders_never_wait_in_a_circle() {
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
                        assert!(!inside[*key].swap(true, Ordering::SeqCst), "two hold key {key}");
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
        for task in all.expect("they wait in a circle") {
            task.unwrap();
        }
        assert_idle(&guard);
    }

    /// All keys but those that `others` hold are free, and nothing of the refused caller is left.
    fn assert_given_back(guard: &KeyedGuard<u32>, others: usize) {
        assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (others, others, 0));
    }

    #[test]
    fn a_refusal_midway_gives_back_the_turns_before_it() {
        let reject = KeyedGuard::builder("busy").queue(Queue::Reject).build();
        let _held = reject.try_acquire(2).unwrap();
        assert!(is_busy(&assert_ready_err!(task::spawn(reject.acquire_all([3, 2, 1])).poll())));
        assert_given_back(&reject, 1);

        let few = KeyedGuard::builder("few").max_keys(2).build();
        assert!(is_too_many(&assert_ready_err!(task::spawn(few.acquire_all([3, 2, 1])).poll())));
        assert_given_back(&few, 0);

        let nested = KeyedGuard::new("nested");
        let mut run = task::spawn(nested.run(2, async {
            let refused = nested.acquire_all([3, 2, 1]).await.map(drop);
            assert_given_back(&nested, 1);
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
        assert_given_back(&closing, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_does_not_come_in_time_gives_back_those_before_it() {
        let guard = KeyedGuard::builder("late").max_wait(SECOND).build();
        let held = [1, 2].map(|key| guard.try_acquire(key).unwrap());
        let mut all = task::spawn(guard.acquire_all([0, 2, 1]));
        assert_pending!(all.poll());
        advance(SECOND - Duration::from_millis(10)).await;
        let [one, two] = held;
        drop(one);
        assert_pending!(all.poll());
        // The time counts for each key anew.
        advance(SECOND - Duration::from_millis(10)).await;
        assert_pending!(all.poll());
        advance(Duration::from_millis(12)).await;
        assert!(is_timeout(&assert_ready_err!(all.poll())));
        assert_given_back(&guard, 1);
        drop(two);
        assert_idle(&guard);
    }

    #[test]
    fn a_caller_that_leaves_midway_gives_back_the_turns_that_it_has() {
        let guard = KeyedGuard::new("leaves");
        for take_turn in [false, true] {
            let mut held = Some(guard.try_acquire(2).unwrap());
            let mut all = task::spawn(guard.acquire_all([3, 2, 1]));
            assert_pending!(all.poll());
            let mut next = [1, 2].map(|key| queued(&guard, key));
            assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (2, 2, 3));
            if take_turn {
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
    fn dropped_before_its_first_poll_it_was_never_there() {
        let guard = KeyedGuard::new("unpolled");
        drop(guard.acquire_all([1, 2]));
        assert_idle(&guard);
        assert_eq!(guard.stats().granted, 0);
    }
}

mod blocking {
    use super::*;

    #[test]
    fn threads_and_tasks_stand_in_one_queue() {
        let guard = KeyedGuard::new("mixed");
        let permit = guard.try_acquire(1).unwrap();
        let mut first = queued(&guard, 1);
        let (enter, leave) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let permit = guard.acquire_blocking(1).unwrap();
                enter.store(true, Ordering::SeqCst);
                spin_until(|| leave.load(Ordering::SeqCst));
                drop(permit);
            });
            spin_until(|| guard.stats().waiting == 2);
            let mut third = queued(&guard, 1);
            // A thread that asks for another key waits for none of them.
            scope.spawn(|| drop(guard.acquire_blocking(2).unwrap())).join().unwrap();

            drop(permit);
            let permit = assert_ready_ok!(first.poll());
            assert_pending!(third.poll());
            assert!(!enter.load(Ordering::SeqCst));
            drop(permit);
            spin_until(|| enter.load(Ordering::SeqCst));
            assert_pending!(third.poll());
            leave.store(true, Ordering::SeqCst);
            spin_until(|| third.is_woken());
            drop(assert_ready_ok!(third.poll()));
        });
        assert_idle(&guard);
    }

    #[test]
    fn where_blocking_is_allowed_it_waits() {
        let guard = leaked(KeyedGuard::new("allowed"));
        let runtime = two_workers();
        let enters = move || guard.acquire_blocking(1).map(drop);
        let outcomes = runtime.block_on(async {
            let on_pool = spawn_blocking(enters).await.unwrap();
            let on_worker = tokio::spawn(async move { block_in_place(enters) }).await.unwrap();
            [on_pool, on_worker]
        });
        assert_eq!(outcomes, [Ok(()), Ok(())]);
    }

    #[test]
    fn on_a_thread_that_runs_tasks_it_is_refused_whether_the_key_is_free_or_not() {
        let guard = leaked(KeyedGuard::new("refused"));
        let _permit = guard.try_acquire(1).unwrap();
        for runtime in [two_workers(), tokio::runtime::Builder::new_current_thread().build().unwrap()] {
            for key in [1, 2] {
                let enters = || async move { guard.acquire_blocking(key).map(drop) };
                assert_eq!(runtime.block_on(enters()), Err(AcquireError::BlockingInAsync));
                let spawned = runtime.block_on(async { tokio::spawn(enters()).await.unwrap() });
                assert_eq!(spawned, Err(AcquireError::BlockingInAsync));
            }
        }
        assert_eq!(guard.stats().refused, 8);
        assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (1, 0, 1));
    }
}

mod panic {
    use super::*;

    /// Keeps what panicked, as a `catch_unwind` around a future does.
    fn poll_caught<F: Future>(future: Pin<&mut F>) -> thread::Result<Poll<F::Output>> {
        catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(Waker::noop()))))
    }

    #[test]
    fn a_panic_in_run_frees_the_key_though_the_run_is_kept() {
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
        // The thread is not taken to be inside any more: who finds the key held waits.
        let _permit = guard.try_acquire(1).unwrap();
        assert_pending!(task::spawn(guard.acquire(1)).poll());
    }

    #[test]
    fn a_panic_of_a_holder_lets_the_next_caller_of_its_key_in() {
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
    fn a_panic_of_who_holds_several_keys_frees_them_all() {
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
        /// After so many more comparisons or hashes, one panics.
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
            // All the same, so that keys are compared.
            0_u8.hash(state);
        }
    }

    /// What callers do that look a key up: those that enter at once, wait, or are refused.
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
            // Its queue is full: it won't block.
            drop(guard.acquire_blocking(Fragile(0)));
        }
    }

    #[test]
    fn a_key_that_panics_as_it_is_hashed_or_compared_leaves_the_guard_as_it_was() {
        let guard = Arc::new(KeyedGuard::builder("fragile").queue(Queue::Bounded(1)).max_keys(4).build());
        let permits = [0, 1, 2].map(|key| guard.try_acquire(Fragile(key)).unwrap());
        let mut waits = queued(&guard, Fragile(0));
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
            assert!(panics > 20, "{panics} are too few");
        }
        drop(permits);
        drop(assert_ready_ok!(waits.poll()));
        assert_idle(&guard);
        // No room was lost.
        let permits = [0, 1, 2, 3].map(|key| guard.try_acquire(Fragile(key)).unwrap());
        assert!(is_too_many(&guard.try_acquire(Fragile(4)).unwrap_err()));
        drop(permits);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}

/// Keys are dropped where their code may call the guard.
mod dropped_keys {
    use super::*;

    static GUARD: KeyedGuard<Calling> = KeyedGuard::builder("calling").queue(Queue::Bounded(2)).max_keys(4).build();
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    /// A key that asks its guard for another key when it is dropped.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Calling(u32);

    impl Hash for Calling {
        fn hash<H: Hasher>(&self, state: &mut H) {
            // All the same, so that they meet in one shard.
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
        assert_eq!(calls_of(|| GUARD.acquire(Calling(1))), 1, "never polled");
        assert_eq!(calls_of(|| GUARD.try_acquire(Calling(1)).unwrap()), 1, "its entry goes");

        let permit = GUARD.try_acquire(Calling(1)).unwrap();
        assert_eq!(calls_of(|| GUARD.try_acquire(Calling(1)).unwrap_err()), 1, "refused");
        let mut waits = None;
        assert_eq!(calls_of(|| waits = Some(queued(&GUARD, Calling(1)))), 1, "its lane knows the key already");
        let leaves = queued(&GUARD, Calling(1));
        assert_eq!(calls_of(|| assert_ready_err!(task::spawn(GUARD.acquire(Calling(1))).poll())), 1, "full");
        assert_eq!(calls_of(|| leaves), 0, "the lane stays");
        assert_eq!(calls_of(|| permit), 0, "the lane stays");
        assert_eq!(calls_of(|| waits), 1, "the last goes as its turn has come");
        assert!(GUARD.is_empty());

        let others = [1, 2, 3].map(|key| GUARD.try_acquire(Calling(key)).unwrap());
        let last = GUARD.try_acquire(Calling(4)).unwrap();
        assert_eq!(calls_of(|| GUARD.try_acquire(Calling(5)).unwrap_err()), 1, "too many");
        assert_eq!(calls_of(|| assert_ready_err!(task::spawn(GUARD.acquire(Calling(5))).poll())), 1, "too many");
        assert_eq!(calls_of(|| last), 1);
        assert_eq!(calls_of(|| others), 3);
        let all = || assert_ready_ok!(task::spawn(GUARD.acquire_all([2, 1, 2].map(Calling))).poll());
        assert_eq!(calls_of(all), 3);

        let permit = GUARD.try_acquire(Calling(1)).unwrap();
        let mut hears = queued(&GUARD, Calling(1));
        assert_eq!(calls_of(|| GUARD.close()), 0);
        assert_eq!(calls_of(|| permit), 0, "one has not heard that it was closed");
        assert_eq!(calls_of(|| assert_ready_err!(hears.poll())), 1);
        assert_idle(&GUARD);
    }

    #[test]
    fn they_may_call_the_guard_as_they_are_dropped() {
        // On a thread of its own, so that a deadlock fails instead of hanging.
        let program = thread::spawn(program);
        spin_until(|| program.is_finished());
        program.join().unwrap();
    }
}

mod numbers {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_counter_counts_its_event_and_no_other() {
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
        assert_eq!(counters(), [2, 0, 0, 0, 0, 0, 0, 0], "permits taken at once");
        assert!(guard.try_acquire(1).is_err());
        assert_eq!(counters(), [2, 0, 0, 0, 0, 0, 0, 0], "a try that finds its key busy");
        let [first, second] = [1, 1].map(|key| queued(guard, key));
        let third = queued(guard, 2);
        assert_eq!(counters(), [2, 3, 0, 0, 0, 0, 0, 0], "three that wait");
        assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (2, 3, 2));
        assert!(guard.acquire(1).await.is_err());
        assert_eq!(counters(), [2, 3, 1, 0, 0, 0, 0, 0], "one too many");
        drop(second);
        assert_eq!(counters(), [2, 3, 1, 0, 1, 0, 0, 0], "one that leaves");
        drop(permit);
        assert_eq!(counters(), [3, 3, 1, 0, 1, 0, 0, 0], "a turn given");
        drop(first);
        assert_eq!(counters(), [3, 3, 1, 0, 2, 0, 0, 0], "a turn not taken because the caller left");
        drop((third, other));
        assert_eq!(counters(), [3, 3, 1, 0, 3, 0, 0, 0], "another key's count too");
        assert_idle(guard);

        let permit = guard.acquire(1).await.unwrap();
        assert!(guard.acquire(1).await.is_err());
        assert_eq!(counters(), [4, 4, 1, 1, 3, 0, 0, 0], "one that waits too long");
        let mut late = queued(guard, 1);
        drop(permit);
        advance(SECOND).await;
        drop(guard.try_acquire(1).unwrap());
        assert_eq!(counters(), [6, 5, 1, 1, 3, 1, 0, 0], "a turn that expires, and goes to another");
        assert_ready_err!(late.poll());
        drop(late);
        assert_eq!(counters(), [6, 5, 1, 1, 3, 1, 0, 0], "hearing of it counts no more");

        assert!(tokio::spawn(guard.run(1, async { panic!("counted") })).await.is_err());
        assert_eq!(counters(), [7, 5, 1, 1, 3, 1, 1, 0], "a panic");
        guard.run(1, async { guard.acquire(1).await.unwrap_err() }).await.unwrap();
        assert_eq!(counters(), [8, 5, 2, 1, 3, 1, 1, 0], "one that would wait for itself");
        assert!(guard.acquire_blocking(1).is_err());
        assert_eq!(counters(), [8, 5, 3, 1, 3, 1, 1, 0], "one that would block");
        let all = guard.acquire_all([1, 2, 3]).await.unwrap();
        assert!(guard.acquire(4).await.is_err());
        assert_eq!(counters(), [11, 5, 4, 1, 3, 1, 1, 0], "one with a key too many");
        drop(all);

        let mut run = task::spawn(guard.run_to_completion(1, yield_now()));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!(guard.stats().detached, 1);
        assert_eq!(counters(), [12, 5, 4, 1, 3, 1, 1, 0], "a caller that leaves its run");
        guard.acquire(1).await.map(drop).unwrap();
        assert_eq!(counters(), [13, 6, 4, 1, 3, 1, 1, 1], "that run ends");

        guard.close();
        assert!(guard.acquire(1).await.is_err());
        assert_eq!(counters(), [13, 6, 5, 1, 3, 1, 1, 1], "one that comes too late");
        assert_eq!((guard.stats().overrun, guard.stats().cut_off), (0, 0));
        assert_idle(guard);
    }

    /// A caller of a key, wherever it stands.
    enum Caller<'a, K: Hash + Eq> {
        Queued(task::Spawn<AcquireKey<'a, K>>),
        Inside(KeyedPermit<'a, K>),
    }

    /// Callers come, look and go at random. Whoever was woken has a turn set aside.
    fn the_numbers_are_those_of_the_callers_there_are<K: Hash + Eq + Ord + Copy + Debug>(key: impl Fn(u32) -> K) {
        const KEYS: usize = 12;
        const MOST: usize = 8;
        let guard = KeyedGuard::builder("mixed").permits(2).queue(Queue::Bounded(3)).max_keys(MOST).build();
        let mut callers: Vec<(K, Caller<'_, K>)> = Vec::new();
        let mut random = Random(11);
        let (mut refused, mut cancelled, mut came_to_wait, mut turns) = (0, 0, 0, 0);
        for step in 0..20_000 {
            // Many come for a while, then many go, so that keys come and go all the time.
            let comes = random.below(8) < if step % 100 < 50 { 5 } else { 2 };
            if comes || callers.is_empty() {
                let key = key(random.below(KEYS) as u32);
                let mut caller = task::spawn(guard.acquire(key));
                match caller.poll() {
                    Poll::Ready(Ok(permit)) => {
                        turns += 1;
                        callers.push((key, Caller::Inside(permit)));
                    }
                    Poll::Ready(Err(error)) => {
                        let known = callers.iter().any(|(other, _)| *other == key);
                        assert!(if known { is_full(&error) } else { is_too_many(&error) }, "{error:?}");
                        refused += 1;
                    }
                    Poll::Pending => {
                        came_to_wait += 1;
                        callers.push((key, Caller::Queued(caller)));
                    }
                }
            } else {
                let at = random.below(callers.len());
                let (key, caller) = callers.swap_remove(at);
                match caller {
                    Caller::Queued(mut caller) if random.below(3) > 0 => {
                        let turn_has_come = caller.is_woken();
                        match caller.poll() {
                            Poll::Ready(permit) => {
                                assert!(turn_has_come);
                                turns += 1;
                                callers.push((key, Caller::Inside(permit.unwrap())));
                            }
                            Poll::Pending => {
                                assert!(!turn_has_come);
                                callers.push((key, Caller::Queued(caller)));
                            }
                        }
                    }
                    Caller::Queued(caller) => {
                        turns += u64::from(caller.is_woken());
                        cancelled += 1;
                        drop(caller);
                    }
                    Caller::Inside(permit) => drop(permit),
                }
            }
            let waits = |caller: &Caller<'_, K>| matches!(caller, Caller::Queued(caller) if !caller.is_woken());
            let waiting = callers.iter().filter(|(_, caller)| waits(caller)).count();
            let untaken =
                callers.iter().filter(|(_, caller)| matches!(caller, Caller::Queued(c) if c.is_woken())).count();
            let mut keys: Vec<_> = callers.iter().map(|(key, _)| *key).collect();
            keys.sort_unstable();
            keys.dedup();
            let stats = guard.stats();
            assert_eq!((stats.held, stats.waiting, guard.len()), (callers.len() - waiting, waiting, keys.len()));
            assert_eq!((stats.refused, stats.cancelled, stats.queued), (refused, cancelled, came_to_wait));
            assert_eq!(stats.granted, turns + untaken as u64);
        }
        assert!(refused > 100 && cancelled > 100 && came_to_wait > 100, "{:?}", guard.stats());
        drop(callers);
        assert_idle(&guard);
    }

    #[test]
    fn of_a_mixed_program_they_are_exact() {
        the_numbers_are_those_of_the_callers_there_are(|number| number);
    }

    #[test]
    fn of_a_mixed_program_with_keys_of_one_hash_they_are_exact() {
        the_numbers_are_those_of_the_callers_there_are(Colliding);
    }
}

#[test]
fn debug_output_names_the_guard() {
    let guard = Arc::new(KeyedGuard::builder("named").permits(2).build());
    let permit = guard.try_acquire(7).unwrap();
    let owned = Arc::clone(&guard).try_acquire_owned(7).unwrap();
    let waits = queued(&guard, 7);
    assert_eq!(
        format!("{guard:?}"),
        "KeyedGuard { name: \"named\", permits: 2, keys: 1, held: 2, waiting: 1, closed: false, .. }"
    );
    assert_eq!(
        format!("{permit:?} {owned:?}"),
        "KeyedPermit { guard: \"named\" } OwnedKeyedPermit { guard: \"named\" }"
    );
    assert_eq!(format!("{:?}", *waits), "AcquireKey { guard: Some(\"named\"), queued: true }");
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
fn a_limit_of_no_keys_is_refused_with_the_way_out() {
    let panic = catch_unwind(|| KeyedGuard::<u32>::builder("x").max_keys(0).build()).unwrap_err();
    let message = "max_keys(0) would admit nobody: give 1 or more, or close() the guard";
    assert_eq!(panic.downcast_ref::<&str>(), Some(&message));
}

#[test]
fn a_time_limit_of_zero_is_refused_with_the_way_out() {
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
fn a_static_takes_every_setting() {
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

/// Threads and tasks, all at few keys.
mod storm {
    use super::*;

    const THREADS: u64 = 8;
    const CALLS: usize = 40_000;
    const KEYS: usize = 4;

    /// What callers of one key do inside. The visits are counted in two steps: where two overlap, one is lost.
    #[derive(Default)]
    struct Room {
        is_taken: AtomicBool,
        visits: AtomicUsize,
    }

    /// Someone in a room.
    struct Visit<'a>(&'a Room);

    impl Room {
        fn enter(&self) -> Visit<'_> {
            assert!(!self.is_taken.swap(true, Ordering::Relaxed), "two are in the room");
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

    fn rooms() -> Arc<[Room; KEYS]> {
        Arc::default()
    }

    fn visits(rooms: &[Room]) -> u64 {
        rooms.iter().map(|room| room.visits.load(Ordering::Relaxed) as u64).sum()
    }

    #[test]
    fn callers_of_a_key_never_overlap_and_none_is_lost() {
        let guard = KeyedGuard::new("storm");
        let rooms = rooms();
        thread::scope(|scope| {
            for seed in 1..=THREADS {
                let (guard, rooms) = (&guard, &rooms);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    for _ in 0..CALLS {
                        let key = random.below(KEYS);
                        let visit = || {
                            let visit = rooms[key].enter();
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
        assert_eq!(visits(&*rooms), calls);
        let GuardStats { granted, queued, cancelled, refused, .. } = guard.stats();
        assert_eq!((granted, cancelled, refused), (calls, 0, 0));
        assert!(queued > 0, "nobody ever waited");
        assert_idle(&guard);
    }

    /// Is pending so many times.
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
    fn callers_polled_by_hand_and_dropped_anywhere_lose_nobody_elses_turn() {
        let guard = KeyedGuard::new("storm");
        let rooms = rooms();
        let finished = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 1..=THREADS {
                let (guard, rooms, finished) = (&guard, &rooms, &finished);
                scope.spawn(move || {
                    let mut random = Random(seed);
                    let mut cx = Context::from_waker(Waker::noop());
                    let mut ended = 0;
                    for _ in 0..CALLS {
                        let key = random.below(KEYS);
                        let (inside, as_run) = (random.below(3), random.below(2) == 0);
                        let mut caller = pin!(async {
                            if as_run {
                                let work = async {
                                    let _visit = rooms[key].enter();
                                    yields(inside).await;
                                };
                                guard.run(key, work).await.unwrap();
                            } else {
                                let _permit = guard.acquire(key).await.unwrap();
                                let _visit = rooms[key].enter();
                                yields(inside).await;
                            }
                        });
                        for _ in 0..random.below(6) {
                            if caller.as_mut().poll(&mut cx).is_ready() {
                                ended += 1;
                                break;
                            }
                            thread::yield_now();
                        }
                    }
                    finished.fetch_add(ended, Ordering::Relaxed);
                });
            }
        });
        assert_idle(&guard);
        let GuardStats { granted, cancelled, refused, .. } = guard.stats();
        let visits = visits(&*rooms);
        // A turn that came to someone who then left was given, but nobody visited.
        assert!((visits..=visits + cancelled).contains(&granted), "{visits} visits: {:?}", guard.stats());
        assert!(finished.load(Ordering::Relaxed) as u64 <= visits);
        assert!(finished.into_inner() > 0 && cancelled > 0, "{:?}", guard.stats());
        assert_eq!(refused, 0);
    }

    #[test]
    fn tasks_that_leave_anywhere_and_tasks_that_stay_all_get_their_turns() {
        const TASKS: u64 = 32;
        const ROUNDS: usize = 400;
        let guard = Arc::new(KeyedGuard::builder("storm").max_wait(1_000 * SECOND).build());
        let rooms = rooms();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let tasks = (1..=TASKS).map(|seed| {
            let (guard, rooms) = (Arc::clone(&guard), Arc::clone(&rooms));
            runtime.spawn(async move {
                let mut random = Random(seed);
                let mut finished = 0;
                for _ in 0..ROUNDS {
                    let key = random.below(KEYS);
                    let (kind, patience) = (random.below(3), random.below(40));
                    let work = {
                        let rooms = Arc::clone(&rooms);
                        async move {
                            let _visit = rooms[key].enter();
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
                    let leaves = async {
                        for _ in 0..patience {
                            yield_now().await;
                        }
                        // Half of them stay, however long it takes.
                        if patience % 2 == 0 {
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::select! {
                        () = call => finished += 1,
                        () = leaves => {}
                    }
                }
                finished
            })
        });
        let tasks: Vec<_> = tasks.collect();
        let finished: u64 = runtime.block_on(async {
            let all = timeout(120 * SECOND, futures::future::join_all(tasks)).await.expect("a turn was lost");
            guard.close();
            timeout(60 * SECOND, guard.drained()).await.expect("a permit was lost");
            all.into_iter().map(Result::unwrap).sum()
        });
        // What is left of the runs without their callers.
        drop(runtime);
        assert_idle(&guard);
        let stats = guard.stats();
        let visits = visits(&*rooms);
        assert!(finished <= visits && finished >= TASKS * ROUNDS as u64 / 3, "{finished} of {visits}: {stats:?}");
        assert!((visits..=visits + stats.cancelled).contains(&stats.granted), "{visits} visits: {stats:?}");
        assert!(stats.cancelled > 0 && stats.finished_detached > 0, "nobody left: {stats:?}");
        assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.panicked), (0, 0, 0, 0));
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
