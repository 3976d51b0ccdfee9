//! The contract of [`CapacityLimiter`], rule by rule.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;

use onelane::CapacityLimiter;
use onelane::offload::{AcquireTokens, LimiterError, LimiterPermit, LimiterStats};
use tokio::runtime::Runtime;
use tokio::task::{block_in_place, spawn_blocking, yield_now};
use tokio_test::task;
use tokio_test::task::Spawn;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};

use support::waiting::spin_until;

/// Asserts that no token is held, no caller is queued, and the total is free.
pub(super) fn assert_idle(limiter: &CapacityLimiter) {
    let now = limiter.stats();
    assert_eq!((now.borrowed, now.waiting, now.reserve_borrowed, now.reserve_waiting), (0, 0, 0, 0));
    assert_eq!(now.available, now.total as i64);
}

fn numbers(limiter: &CapacityLimiter) -> (usize, i64, usize) {
    let now = limiter.stats();
    (now.borrowed, now.available, now.waiting)
}

/// Creates a caller that is queued for `tokens` tokens.
pub(super) fn queued(limiter: &CapacityLimiter, tokens: usize) -> Spawn<AcquireTokens<'_>> {
    let mut caller = task::spawn(limiter.acquire_many(tokens));
    assert_pending!(caller.poll());
    caller
}

fn two_workers() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Marsaglia's xorshift: random enough to choose what a caller does, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

mod order {
    use super::*;

    #[test]
    fn tokens_are_granted_first_in_first_out() {
        const CALLERS: usize = 1_000;
        let limiter = CapacityLimiter::new(1);
        let mut permit = limiter.try_acquire().unwrap();
        let mut callers: Vec<_> = (0..CALLERS).map(|_| queued(&limiter, 1)).collect();
        for round in 0..CALLERS {
            drop(permit);
            assert!(callers[round].is_woken());
            assert!(callers.get(round + 1).is_none_or(|after| !after.is_woken()), "one token wakes one caller");
            assert_eq!(numbers(&limiter), (1, 0, CALLERS - 1 - round));
            permit = assert_ready_ok!(callers[round].poll());
        }
        drop(permit);
        assert_idle(&limiter);
    }

    #[test]
    fn small_request_waits_behind_a_large_one_even_if_enough_tokens_are_free() {
        let limiter = CapacityLimiter::new(3);
        let two = limiter.try_acquire_many(2).unwrap();
        let mut large = queued(&limiter, 3);
        let mut small = queued(&limiter, 1);
        assert_eq!(limiter.try_acquire().unwrap_err(), LimiterError::WouldBlock);
        assert_eq!(numbers(&limiter), (2, 1, 2));
        drop(two);
        assert!(large.is_woken() && !small.is_woken());
        drop(assert_ready_ok!(large.poll()));
        drop(assert_ready_ok!(small.poll()));
        assert_idle(&limiter);
    }

    #[test]
    fn granted_token_is_not_available_to_other_callers() {
        let limiter = CapacityLimiter::new(1);
        let permit = limiter.try_acquire().unwrap();
        let mut first = queued(&limiter, 1);
        drop(permit);
        assert_eq!(numbers(&limiter), (1, 0, 0), "the token is granted, and not free");
        assert_eq!(limiter.try_acquire().unwrap_err(), LimiterError::WouldBlock);
        drop(assert_ready_ok!(first.poll()));
        assert_idle(&limiter);
    }

    #[test]
    fn future_enters_the_queue_with_its_first_poll() {
        let limiter = CapacityLimiter::new(1);
        let permit = limiter.try_acquire().unwrap();
        let mut created_first = task::spawn(limiter.acquire());
        let mut polled_first = queued(&limiter, 1);
        assert_pending!(created_first.poll());
        drop(permit);
        assert_pending!(created_first.poll());
        drop(assert_ready_ok!(polled_first.poll()));
        drop(assert_ready_ok!(created_first.poll()));
    }
}

mod weights {
    use super::*;

    #[test]
    fn released_tokens_add_up_for_a_waiter_of_several() {
        let limiter = CapacityLimiter::new(4);
        let mut held: Vec<_> = (0..4).map(|_| limiter.try_acquire().unwrap()).collect();
        let mut three = queued(&limiter, 3);
        for still_held in [2, 1] {
            drop(held.pop());
            assert!(!three.is_woken());
            assert_eq!(numbers(&limiter), (still_held + 1, 3 - still_held as i64, 1));
        }
        drop(held.pop());
        let permit = assert_ready_ok!(three.poll());
        assert_eq!((permit.tokens(), numbers(&limiter)), (3, (4, 0, 0)));
        drop((permit, held));
        assert_idle(&limiter);
    }

    #[test]
    fn released_large_permit_is_granted_to_as_many_waiters_as_fit() {
        let limiter = CapacityLimiter::new(5);
        let all = limiter.try_acquire_many(5).unwrap();
        let mut callers = [1, 2, 1, 2, 1].map(|tokens| queued(&limiter, tokens));
        drop(all);
        let woken = callers.each_ref().map(|caller| caller.is_woken());
        // The fourth request does not fit, so the fifth waits behind it.
        assert_eq!(woken, [true, true, true, false, false]);
        assert_eq!(numbers(&limiter), (4, 1, 2));
        for caller in &mut callers {
            drop(assert_ready_ok!(caller.poll()));
        }
        drop(callers);
        assert_idle(&limiter);
    }

    #[test]
    fn large_request_cancelled_at_the_front_frees_its_tokens_for_those_behind_it() {
        let limiter = CapacityLimiter::new(3);
        let one = limiter.try_acquire().unwrap();
        let heavy = queued(&limiter, 3);
        let mut light = [1, 1, 1].map(|tokens| queued(&limiter, tokens));
        drop(heavy);
        assert_eq!(light.each_ref().map(|caller| caller.is_woken()), [true, true, false]);
        assert_eq!(numbers(&limiter), (3, 0, 1));
        drop(one);
        for caller in &mut light {
            drop(assert_ready_ok!(caller.poll()));
        }
        drop(light);
        assert_idle(&limiter);
    }

    #[test]
    fn request_cancelled_in_the_middle_lets_no_waiter_overtake_the_front() {
        let limiter = CapacityLimiter::new(2);
        let one = limiter.try_acquire().unwrap();
        let mut front = queued(&limiter, 2);
        let middle = queued(&limiter, 2);
        let mut back = queued(&limiter, 1);
        drop(middle);
        assert!(!front.is_woken() && !back.is_woken());
        drop(one);
        assert!(front.is_woken() && !back.is_woken());
        drop(assert_ready_ok!(front.poll()));
        drop(assert_ready_ok!(back.poll()));
        assert_idle(&limiter);
    }

    #[test]
    fn request_above_the_total_waits_until_the_total_grows() {
        let limiter = CapacityLimiter::new(2);
        let mut three = queued(&limiter, 3);
        assert_eq!(limiter.try_acquire_many(3).unwrap_err(), LimiterError::AboveTotal);
        assert_eq!(limiter.try_acquire_many(2).unwrap_err(), LimiterError::WouldBlock);
        limiter.set_total(3);
        assert_eq!(assert_ready_ok!(three.poll()).tokens(), 3);
        drop(three);
        assert_idle(&limiter);
    }

    #[test]
    fn zero_tokens_are_acquired_at_once_even_if_callers_are_queued() {
        let limiter = CapacityLimiter::new(0);
        let waiting = queued(&limiter, 1);
        assert_eq!(limiter.try_acquire_many(0).unwrap().tokens(), 0);
        assert_eq!(assert_ready_ok!(task::spawn(limiter.acquire_many(0)).poll()).tokens(), 0);
        assert_eq!(limiter.acquire_many_blocking(0).unwrap().tokens(), 0);
        assert_eq!(numbers(&limiter), (0, 0, 1));
        drop(waiting);
        limiter.close();
        assert_eq!(limiter.try_acquire_many(0).unwrap_err(), LimiterError::Closed);
    }

    #[test]
    fn request_above_the_maximum_is_an_error() {
        let limiter = CapacityLimiter::unlimited();
        for tokens in [CapacityLimiter::MAX_TOTAL + 1, usize::MAX] {
            assert_eq!(limiter.try_acquire_many(tokens).unwrap_err(), LimiterError::TooMany);
            assert_eq!(assert_ready_err!(task::spawn(limiter.acquire_many(tokens)).poll()), LimiterError::TooMany);
            assert_eq!(limiter.acquire_many_blocking(tokens).unwrap_err(), LimiterError::TooMany);
        }
        let all = limiter.try_acquire_many(CapacityLimiter::MAX_TOTAL).unwrap();
        assert_eq!((all.tokens(), numbers(&limiter)), ((1 << 31) - 1, ((1 << 31) - 1, 0, 0)));
        drop(all);
        assert_idle(&limiter);
    }
}

mod total {
    use super::*;

    #[test]
    fn total_of_zero_is_a_pause() {
        static PAUSED: CapacityLimiter = CapacityLimiter::new(0);
        let mut callers = [1, 1, 1].map(|tokens| queued(&PAUSED, tokens));
        assert_eq!(PAUSED.try_acquire().unwrap_err(), LimiterError::WouldBlock);
        PAUSED.set_total(2);
        assert_eq!(callers.each_ref().map(|caller| caller.is_woken()), [true, true, false]);
        PAUSED.set_total(0);
        let held = [0, 1].map(|caller| assert_ready_ok!(callers[caller].poll()));
        assert_eq!(numbers(&PAUSED), (2, -2, 1));
        drop(held);
        assert_pending!(callers[2].poll());
        PAUSED.set_total(1);
        drop(assert_ready_ok!(callers[2].poll()));
        assert_idle(&PAUSED);
    }

    #[test]
    fn reduced_total_revokes_no_token_and_released_ones_make_up_for_it_first() {
        let limiter = CapacityLimiter::new(5);
        let mut held: Vec<_> = (0..5).map(|_| limiter.try_acquire().unwrap()).collect();
        limiter.set_total(2);
        assert_eq!(numbers(&limiter), (5, -3, 0));
        let mut caller = queued(&limiter, 1);
        for available in [-2, -1, 0] {
            drop(held.pop());
            assert_eq!(numbers(&limiter), (held.len(), available, 1));
            assert!(!caller.is_woken());
        }
        drop(held.pop());
        drop(assert_ready_ok!(caller.poll()));
        drop((held, caller));
        assert_idle(&limiter);
    }

    #[test]
    fn raised_total_serves_the_queue_in_order() {
        let limiter = CapacityLimiter::new(0);
        let mut callers = [2, 1, 3].map(|tokens| queued(&limiter, tokens));
        for (total, woken) in
            [(1, [false; 3]), (2, [true, false, false]), (5, [true, true, false]), (6, [true, true, true])]
        {
            limiter.set_total(total);
            assert_eq!(callers.each_ref().map(|caller| caller.is_woken()), woken, "total {total}");
        }
        let held = callers.each_mut().map(|caller| assert_ready_ok!(caller.poll()));
        assert_eq!(numbers(&limiter), (6, 0, 0));
        drop(held);
        drop(callers);
        assert_idle(&limiter);
    }

    /// The total is raised and reduced, even to zero, while 8 threads acquire tokens and count those that are held.
    /// `most` is raised before the total, and reduced once enough tokens are released. A check during a raise is
    /// inconclusive.
    #[test]
    fn no_more_tokens_than_the_total_are_held_under_load() {
        const THREADS: u64 = 8;
        let limiter = &CapacityLimiter::new(8);
        let out = &AtomicUsize::new(0);
        let most = &AtomicUsize::new(8);
        let raises = &AtomicUsize::new(0);
        let done = &AtomicBool::new(false);
        thread::scope(|scope| {
            let callers: Vec<_> = (0..THREADS)
                .map(|seed| {
                    scope.spawn(move || {
                        let mut random = Random(seed + 1);
                        let mut rounds = 0;
                        while !done.load(Ordering::SeqCst) {
                            let tokens = 1 + random.below(3) as usize;
                            let Ok(permit) = limiter.acquire_many_blocking(tokens) else { break };
                            let (raised, most) = (raises.load(Ordering::SeqCst), most.load(Ordering::SeqCst));
                            let now = out.fetch_add(tokens, Ordering::SeqCst) + tokens;
                            assert!(
                                now <= most || raises.load(Ordering::SeqCst) > raised,
                                "{now} tokens are held, {most} may be"
                            );
                            thread::yield_now();
                            out.fetch_sub(tokens, Ordering::SeqCst);
                            drop(permit);
                            rounds += 1;
                        }
                        rounds
                    })
                })
                .collect();
            let mut random = Random(77);
            for _ in 0..300 {
                let total = random.below(9) as usize;
                if total >= most.load(Ordering::SeqCst) {
                    most.store(total, Ordering::SeqCst);
                    raises.fetch_add(1, Ordering::SeqCst);
                    limiter.set_total(total);
                } else {
                    limiter.set_total(total);
                    spin_until(|| limiter.stats().available >= 0);
                    most.store(total, Ordering::SeqCst);
                }
                thread::yield_now();
            }
            done.store(true, Ordering::SeqCst);
            most.store(8, Ordering::SeqCst);
            raises.fetch_add(1, Ordering::SeqCst);
            limiter.set_total(8);
            let rounds: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
            assert!(rounds > 0);
        });
        assert_idle(limiter);
    }
}

mod cancelled {
    use super::*;

    #[test]
    fn future_that_was_never_polled_leaves_no_trace() {
        let limiter = CapacityLimiter::new(1);
        drop(limiter.acquire());
        assert_idle(&limiter);
        assert_eq!(limiter.stats().cancelled, 0);
    }

    #[test]
    fn cancelled_waiter_loses_no_token() {
        let limiter = CapacityLimiter::new(2);
        let held = limiter.try_acquire_many(2).unwrap();
        let cancelled = queued(&limiter, 2);
        let mut next = queued(&limiter, 1);
        drop(cancelled);
        drop(held);
        drop(assert_ready_ok!(next.poll()));
        assert_idle(&limiter);
        let now = limiter.stats();
        assert_eq!((now.queued, now.cancelled), (2, 1));
    }

    #[test]
    fn waiter_cancelled_after_its_grant_passes_all_tokens_on() {
        let limiter = CapacityLimiter::new(2);
        let held = limiter.try_acquire_many(2).unwrap();
        let granted = queued(&limiter, 2);
        let mut next = [1, 1].map(|tokens| queued(&limiter, tokens));
        drop(held);
        assert_eq!(numbers(&limiter), (2, 0, 2));
        drop(granted);
        for caller in &mut next {
            assert!(caller.is_woken());
            drop(assert_ready_ok!(caller.poll()));
        }
        drop(next);
        assert_idle(&limiter);
    }

    #[test]
    fn grant_cancelled_after_the_total_was_reduced_makes_up_for_missing_tokens() {
        let limiter = CapacityLimiter::new(2);
        let held = limiter.try_acquire_many(2).unwrap();
        let granted = queued(&limiter, 2);
        let mut next = queued(&limiter, 1);
        drop(held);
        limiter.set_total(1);
        assert_eq!(numbers(&limiter), (2, -1, 1));
        drop(granted);
        drop(assert_ready_ok!(next.poll()));
        assert_idle(&limiter);
    }

    #[test]
    fn panic_releases_the_tokens() {
        let limiter = CapacityLimiter::new(1);
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let _permit = limiter.try_acquire().unwrap();
            panic!("with a permit");
        }));
        assert!(panics.is_err());
        assert_idle(&limiter);
    }

    #[test]
    fn future_polled_by_hand_moves_between_threads() {
        let limiter = Arc::new(CapacityLimiter::new(1));
        let permit = Arc::clone(&limiter).try_acquire_owned().unwrap();
        let mut caller = Arc::clone(&limiter).acquire_owned();
        assert!(Pin::new(&mut caller).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        // The latest waker is woken, not the first.
        let mut caller = thread::spawn(move || {
            let mut caller = task::spawn(caller);
            assert_pending!(caller.poll());
            caller
        })
        .join()
        .unwrap();
        thread::spawn(move || drop(permit)).join().unwrap();
        assert!(caller.is_woken());
        let permit = assert_ready_ok!(caller.poll());
        assert_eq!(permit.tokens(), 1);
        thread::spawn(move || drop(permit)).join().unwrap();
        drop(caller);
        assert_idle(&limiter);
    }
}

mod blocking {
    use super::*;

    #[test]
    fn threads_and_tasks_wait_in_one_queue() {
        let limiter = Arc::new(CapacityLimiter::new(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let permit = limiter.try_acquire().unwrap();
        let runtime = two_workers();
        let mut threads = Vec::new();
        let mut tasks = Vec::new();
        for caller in 0..6 {
            let (task_limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            if caller % 2 == 0 {
                threads.push(thread::spawn(move || {
                    let _permit = task_limiter.acquire_blocking().unwrap();
                    order.lock().unwrap().push(caller);
                }));
            } else {
                tasks.push(runtime.spawn(async move {
                    let _permit = task_limiter.acquire().await.unwrap();
                    order.lock().unwrap().push(caller);
                }));
            }
            spin_until(|| limiter.stats().waiting == caller + 1);
        }
        drop(permit);
        for thread in threads {
            thread.join().unwrap();
        }
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_idle(&limiter);
    }

    #[test]
    fn blocking_a_runtime_worker_is_an_error_even_if_a_token_is_free() {
        let limiter = Arc::new(CapacityLimiter::with_reserve(1, 1));
        let runtime = two_workers();
        let task_limiter = Arc::clone(&limiter);
        let task = runtime.spawn(async move {
            let refused = LimiterError::BlockingInAsync;
            assert_eq!(task_limiter.acquire_blocking().unwrap_err(), refused);
            assert_eq!(task_limiter.acquire_many_blocking(2).unwrap_err(), refused);
            assert_eq!(task_limiter.acquire_reserved_blocking().unwrap_err(), refused);
            // Where a task may block, it may wait for tokens.
            block_in_place(|| task_limiter.acquire_blocking().map(drop)).unwrap();
            spawn_blocking(move || drop(task_limiter.acquire_blocking().unwrap())).await.unwrap();
        });
        runtime.block_on(task).unwrap();
        assert_idle(&limiter);
    }

    #[test]
    fn close_ends_the_wait_of_a_thread() {
        let limiter = CapacityLimiter::new(0);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| limiter.acquire_blocking().map(drop));
            spin_until(|| limiter.stats().waiting == 1);
            limiter.close();
            assert_eq!(waiting.join().unwrap().unwrap_err(), LimiterError::Closed);
        });
    }
}

mod reserve {
    use super::*;

    fn is_of_the_reserve(limiter: &CapacityLimiter, acquire: impl Fn(&CapacityLimiter) -> LimiterPermit<'_>) -> bool {
        let before = limiter.stats().reserve_borrowed;
        let _permit = acquire(limiter);
        limiter.stats().reserve_borrowed > before
    }

    #[test]
    fn clean_up_does_not_wait_for_the_holder_it_cleans_up_after() {
        let limiter = CapacityLimiter::with_reserve(1, 1);
        let holder = limiter.try_acquire().unwrap();
        let mut next = queued(&limiter, 1);
        let clean_up = assert_ready_ok!(task::spawn(limiter.acquire_reserved()).poll());
        let now = limiter.stats();
        assert_eq!((now.borrowed, now.reserve, now.reserve_borrowed, clean_up.tokens()), (1, 1, 1, 1));
        assert_eq!(limiter.try_acquire_reserved().unwrap_err(), LimiterError::WouldBlock);
        drop(clean_up);
        assert!(!next.is_woken(), "the reserve is not for ordinary requests");
        drop(holder);
        drop(assert_ready_ok!(next.poll()));
        assert_idle(&limiter);
    }

    #[test]
    fn reserved_request_prefers_an_ordinary_token_if_no_caller_is_queued() {
        let limiter = CapacityLimiter::with_reserve(2, 1);
        assert!(!is_of_the_reserve(&limiter, |limiter| limiter.try_acquire_reserved().unwrap()));
        assert!(!is_of_the_reserve(&limiter, |limiter| limiter.acquire_reserved_blocking().unwrap()));
        let _one = limiter.try_acquire().unwrap();
        let waiting = queued(&limiter, 2);
        assert!(is_of_the_reserve(&limiter, |limiter| limiter.try_acquire_reserved().unwrap()));
        assert!(is_of_the_reserve(&limiter, |limiter| limiter.acquire_reserved_blocking().unwrap()));
        drop(waiting);
        limiter.set_total(0);
        assert!(is_of_the_reserve(&limiter, |limiter| limiter.try_acquire_reserved().unwrap()), "in a pause, too");
    }

    #[test]
    fn waiters_for_the_reserve_are_served_in_order_and_cancelled_ones_lose_no_token() {
        let limiter = Arc::new(CapacityLimiter::with_reserve(0, 1));
        let held = limiter.try_acquire_reserved().unwrap();
        let mut callers: Vec<_> = (0..3).map(|_| task::spawn(Arc::clone(&limiter).acquire_reserved_owned())).collect();
        for caller in &mut callers {
            assert_pending!(caller.poll());
        }
        assert_eq!((limiter.stats().reserve_waiting, limiter.stats().waiting), (3, 0));
        drop(callers.remove(1));
        drop(held);
        assert!(callers[0].is_woken() && !callers[1].is_woken());
        // Cancelled after its grant.
        drop(callers.remove(0));
        drop(assert_ready_ok!(callers[0].poll()));
        drop(callers);
        assert_idle(&limiter);
        assert_eq!((limiter.stats().queued, limiter.stats().cancelled), (3, 2));
    }

    #[test]
    fn reserved_request_without_a_reserve_enters_the_ordinary_queue() {
        let limiter = CapacityLimiter::new(1);
        let held = limiter.try_acquire_reserved().unwrap();
        assert_eq!(numbers(&limiter), (1, 0, 0));
        assert_eq!(limiter.try_acquire_reserved().unwrap_err(), LimiterError::WouldBlock);
        let mut first = queued(&limiter, 1);
        let mut second = task::spawn(limiter.acquire_reserved());
        assert_pending!(second.poll());
        drop(held);
        assert!(first.is_woken() && !second.is_woken());
        drop(assert_ready_ok!(first.poll()));
        drop(assert_ready_ok!(second.poll()));
        assert_idle(&limiter);
    }
}

mod close {
    use super::*;

    #[test]
    fn closed_limiter_refuses_queued_and_new_callers_and_holders_keep_their_tokens() {
        let limiter = Arc::new(CapacityLimiter::with_reserve(1, 1));
        let held = [limiter.try_acquire().unwrap(), limiter.try_acquire_reserved().unwrap()];
        let mut waiting = queued(&limiter, 1);
        let mut reserved = task::spawn(limiter.acquire_reserved());
        assert_pending!(reserved.poll());
        assert!(!limiter.is_closed());
        limiter.close();
        assert!(limiter.is_closed() && limiter.stats().closed);
        assert!(waiting.is_woken() && reserved.is_woken());
        assert_eq!(assert_ready_err!(waiting.poll()), LimiterError::Closed);
        assert_eq!(assert_ready_err!(reserved.poll()), LimiterError::Closed);
        assert_eq!(assert_ready_err!(task::spawn(limiter.acquire()).poll()), LimiterError::Closed);
        assert_eq!(assert_ready_err!(task::spawn(limiter.acquire_many(2)).poll()), LimiterError::Closed);
        assert_eq!(assert_ready_err!(task::spawn(limiter.acquire_reserved()).poll()), LimiterError::Closed);
        assert_eq!(limiter.try_acquire().unwrap_err(), LimiterError::Closed);
        assert_eq!(limiter.try_acquire_reserved().unwrap_err(), LimiterError::Closed);
        assert_eq!(Arc::clone(&limiter).try_acquire_owned().unwrap_err(), LimiterError::Closed);
        assert_eq!(limiter.acquire_blocking().unwrap_err(), LimiterError::Closed);
        assert_eq!((limiter.stats().borrowed, limiter.stats().reserve_borrowed), (1, 1));
        drop(held);
        assert_idle(&limiter);
    }

    #[test]
    fn grant_before_the_close_is_still_taken() {
        let limiter = CapacityLimiter::new(1);
        let held = limiter.try_acquire().unwrap();
        let mut granted = queued(&limiter, 1);
        drop(held);
        limiter.close();
        drop(assert_ready_ok!(granted.poll()));
        assert_idle(&limiter);
    }
}

#[test]
fn owned_permits_and_futures_keep_the_limiter() {
    let limiter = Arc::new(CapacityLimiter::new(5));
    let one = Arc::clone(&limiter).try_acquire_owned().unwrap();
    let two = Arc::clone(&limiter).try_acquire_many_owned(2).unwrap();
    let mut rest = task::spawn(Arc::clone(&limiter).acquire_many_owned(2));
    let rest = assert_ready_ok!(rest.poll());
    assert_eq!((one.tokens(), two.tokens(), rest.tokens(), numbers(&limiter)), (1, 2, 2, (5, 0, 0)));
    let weak = Arc::downgrade(&limiter);
    drop((limiter, one, two));
    assert_eq!(numbers(&weak.upgrade().unwrap()), (2, 3, 0));
    drop(rest);
    assert!(weak.upgrade().is_none());
}

#[test]
fn task_that_always_finds_free_tokens_still_lets_others_run() {
    let limiter = CapacityLimiter::new(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rounds = runtime.block_on(async {
        let rounds = Cell::new(0);
        let mut greedy = pin!(async {
            for round in 1..=10_000 {
                drop(limiter.acquire().await.unwrap());
                rounds.set(round);
            }
        });
        assert!(poll_fn(|cx| Poll::Ready(greedy.as_mut().poll(cx))).await.is_pending());
        rounds.get()
    });
    assert!((1..10_000).contains(&rounds), "{rounds} rounds in one poll");
    assert_idle(&limiter);
}

#[test]
fn debug_statistics_and_errors_are_readable() {
    let limiter = CapacityLimiter::with_reserve(3, 1);
    let permit = limiter.try_acquire_many(2).unwrap();
    assert_eq!(
        format!("{limiter:?}"),
        "CapacityLimiter { total: 3, borrowed: 2, waiting: 0, reserve: 1, closed: false }"
    );
    assert_eq!(format!("{permit:?}"), "HeldTokens { tokens: 2 }");
    assert_eq!(format!("{:?}", limiter.acquire()), "TokenAcquisition { queued: false }");
    let LimiterStats { total, borrowed, available, .. } = limiter.stats();
    assert_eq!((total, borrowed, available), (3, 2, 1));
    let json = serde_json::to_value(limiter.stats()).unwrap();
    assert_eq!((&json["total"], &json["available"]), (&3.into(), &1.into()));
    for error in [
        LimiterError::WouldBlock,
        LimiterError::TooMany,
        LimiterError::AboveTotal,
        LimiterError::Closed,
        LimiterError::BlockingInAsync,
    ] {
        assert!(error.to_string().contains(':'), "the message says what to do: {error}");
    }
}

/// All operations at once, with futures that are dropped at a random point.
#[test]
fn all_tokens_are_released_after_a_storm() {
    const THREADS: u64 = 8;
    const OPERATIONS: u64 = 40_000;

    fn one_operation(limiter: &CapacityLimiter, random: &mut Random, polls: &mut Context<'_>) {
        let tokens = random.below(5) as usize;
        match random.below(8) {
            0 => drop(limiter.try_acquire()),
            1 => drop(limiter.try_acquire_many(tokens)),
            2 => drop(limiter.try_acquire_reserved()),
            3 => limiter.set_total(random.below(7) as usize),
            4 => {
                let now = limiter.stats();
                assert_eq!(now.borrowed as i64 + now.available, now.total as i64);
            }
            _ => {
                let reserved = random.below(4) == 0;
                let mut future = pin!(if reserved { limiter.acquire_reserved() } else { limiter.acquire_many(tokens) });
                for _ in 0..random.below(6) {
                    if let Poll::Ready(permit) = future.as_mut().poll(polls) {
                        let permit = permit.unwrap();
                        if random.below(2) == 0 {
                            thread::yield_now();
                        }
                        drop(permit);
                        break;
                    }
                    thread::yield_now();
                }
            }
        }
    }

    let limiter = &CapacityLimiter::with_reserve(4, 1);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            scope.spawn(move || {
                let mut random = Random(seed + 1);
                let mut polls = Context::from_waker(Waker::noop());
                for _ in 0..OPERATIONS {
                    one_operation(limiter, &mut random, &mut polls);
                }
            });
        }
    });
    assert_idle(limiter);
    limiter.set_total(4);
    assert_eq!(limiter.try_acquire_many(4).unwrap().tokens(), 4);
    assert!(limiter.stats().queued > 1_000, "some callers were queued");
}

/// Tasks and threads that wait until they are served.
#[test]
fn every_waiter_is_served() {
    const CALLERS: u64 = 32;
    const ROUNDS: usize = 500;
    let limiter = Arc::new(CapacityLimiter::new(5));
    let runtime = two_workers();
    let tasks: Vec<_> = (0..CALLERS)
        .map(|seed| {
            let limiter = Arc::clone(&limiter);
            runtime.spawn(async move {
                let mut random = Random(seed + 1);
                for _ in 0..ROUNDS {
                    let _permit = limiter.acquire_many(1 + random.below(5) as usize).await.unwrap();
                    if random.below(2) == 0 {
                        yield_now().await;
                    }
                }
            })
        })
        .collect();
    let threads: Vec<_> = (0..2)
        .map(|seed| {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || {
                let mut random = Random(seed + 100);
                for _ in 0..ROUNDS {
                    drop(limiter.acquire_many_blocking(1 + random.below(5) as usize).unwrap());
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert_idle(&limiter);
}
