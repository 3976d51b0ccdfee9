//! The rules of [`EndpointGuard`], one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::cell::Cell;
use std::future::{Future, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use onelane::{AcquireError, EndpointGuard, GuardStats, Order, Queue};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, block_in_place, coop, spawn_blocking, yield_now};
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::task;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};

use support::waiting::spin_until;

const SECOND: Duration = Duration::from_secs(1);

/// A guard for the length of the test run, as in a `static`.
fn leaked(guard: EndpointGuard) -> &'static EndpointGuard {
    Box::leak(Box::new(guard))
}

fn assert_idle(guard: &EndpointGuard) {
    let GuardStats { held, waiting, detached, .. } = guard.stats();
    assert_eq!((held, waiting, detached), (0, 0, 0));
}

/// Fails instead of hanging, at once where time is paused.
async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(1_000 * SECOND, future).await.expect("it hangs")
}

/// Lets other tasks run until they have done what is waited for.
async fn eventually(mut is_true: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_true() {
            return;
        }
        yield_now().await;
    }
    panic!("the other tasks did not get there");
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

    fn ten_thousand_turns_come_in(order: Order) {
        const CALLERS: usize = 10_000;
        let guard = EndpointGuard::builder("order").order(order).build();
        let mut permit = guard.try_acquire().unwrap();
        let mut callers: Vec<_> = (0..CALLERS).map(|_| task::spawn(guard.acquire())).collect();
        for caller in &mut callers {
            assert_pending!(caller.poll());
        }
        for turn in 0..CALLERS {
            let (next, after) = match order {
                Order::Lifo => (CALLERS - 1 - turn, (CALLERS - 1 - turn).checked_sub(1)),
                _ => (turn, Some(turn + 1)),
            };
            drop(permit);
            assert!(callers[next].is_woken());
            if let Some(after) = after.and_then(|after| callers.get(after)) {
                assert!(!after.is_woken(), "one permit wakes one caller");
            }
            permit = assert_ready_ok!(callers[next].poll());
            assert_eq!((guard.stats().held, guard.stats().waiting), (1, CALLERS - 1 - turn));
        }
        drop(permit);
        assert_idle(&guard);
    }

    #[test]
    fn fifo_serves_who_came_first() {
        ten_thousand_turns_come_in(Order::Fifo);
    }

    #[test]
    fn lifo_serves_who_came_last() {
        ten_thousand_turns_come_in(Order::Lifo);
    }

    #[test]
    fn nobody_overtakes_a_caller_whose_turn_has_come() {
        let guard = EndpointGuard::new("hand-off");
        let permit = guard.try_acquire().unwrap();
        let mut first = task::spawn(guard.acquire());
        assert_pending!(first.poll());
        drop(permit);
        assert_eq!(guard.stats().held, 1, "set aside for the first, never free");
        assert!(is_busy(&guard.try_acquire().unwrap_err()));
        let mut second = task::spawn(guard.acquire());
        assert_pending!(second.poll());
        drop(assert_ready_ok!(first.poll()));
        drop(assert_ready_ok!(second.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn the_place_in_the_queue_comes_with_the_first_poll() {
        let guard = EndpointGuard::new("first poll");
        let permit = guard.try_acquire().unwrap();
        let mut made_first = task::spawn(guard.acquire());
        let mut polled_first = task::spawn(guard.acquire());
        assert_pending!(polled_first.poll());
        assert_pending!(made_first.poll());
        drop(permit);
        assert_pending!(made_first.poll());
        drop(assert_ready_ok!(polled_first.poll()));
        drop(assert_ready_ok!(made_first.poll()));
    }

    #[test]
    fn a_waiter_polled_by_hand_moves_between_threads() {
        let guard = Arc::new(EndpointGuard::new("by hand"));
        let permit = Arc::clone(&guard).try_acquire_owned().unwrap();
        let mut caller = Arc::clone(&guard).acquire_owned();
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

    #[test]
    fn all_of_65_535_permits_can_be_out_at_once() {
        let guard = EndpointGuard::builder("most").permits(65_535).build();
        let permits: Vec<_> = (0..65_535).map(|_| guard.try_acquire().unwrap()).collect();
        assert!(is_busy(&guard.try_acquire().unwrap_err()));
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        assert_eq!((guard.stats().held, guard.stats().waiting), (65_535, 1));
        drop(permits);
        drop(assert_ready_ok!(caller.poll()));
        assert_idle(&guard);
    }
}

mod permits {
    use super::*;

    struct Inside {
        now: AtomicUsize,
        most: AtomicUsize,
        turns: AtomicUsize,
    }

    impl Inside {
        fn enter(&self, permits: usize) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(now <= permits, "{now} inside, {permits} may be");
            self.most.fetch_max(now, Ordering::SeqCst);
        }

        fn leave(&self) {
            self.now.fetch_sub(1, Ordering::SeqCst);
            self.turns.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Tasks that wait, tasks that leave at a random point, and threads that block, all at one guard.
    fn storm(permits: usize, order: Order) {
        const TASKS: u64 = 32;
        const THREADS: u64 = 3;
        const ROUNDS: usize = 60;

        let guard = Arc::new(EndpointGuard::builder("storm").permits(permits).order(order).build());
        let inside = Arc::new(Inside { now: 0.into(), most: 0.into(), turns: 0.into() });
        let runtime = two_workers();
        let tasks = (0..TASKS).map(|seed| {
            let (guard, inside) = (Arc::clone(&guard), Arc::clone(&inside));
            runtime.spawn(async move {
                let mut random = Random(seed + 1);
                for _ in 0..ROUNDS {
                    let mut acquire = Some(Arc::clone(&guard).acquire_owned());
                    let mut patience = random.below(2 * TASKS);
                    let permit = poll_fn(|cx| {
                        if patience == 0 {
                            acquire = None;
                        }
                        patience = patience.saturating_sub(1);
                        let Some(waiting) = &mut acquire else { return Poll::Ready(None) };
                        let poll = Pin::new(waiting).poll(cx);
                        // Looks again soon, so that its patience can end before its turn comes.
                        cx.waker().wake_by_ref();
                        poll.map(|result| Some(result.unwrap()))
                    });
                    let Some(permit) = permit.await else { continue };
                    inside.enter(permits);
                    for _ in 0..random.below(4) {
                        yield_now().await;
                    }
                    inside.leave();
                    drop(permit);
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let permit = guard.acquire_blocking().unwrap();
                        inside.enter(permits);
                        thread::yield_now();
                        inside.leave();
                        drop(permit);
                    }
                });
            }
        });
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });

        assert_idle(&guard);
        assert_eq!(inside.most.load(Ordering::SeqCst), permits, "the permits were all in use at some time");
        let stats = guard.stats();
        let turns = inside.turns.load(Ordering::SeqCst) as u64;
        assert!(turns >= THREADS * ROUNDS as u64, "{turns}");
        // A turn that came to someone who then left was given twice.
        assert!((turns..=turns + stats.cancelled).contains(&stats.granted), "{turns} turns: {stats:?}");
        assert!(stats.cancelled > 0, "nobody left: {stats:?}");
        assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.panicked), (0, 0, 0, 0));
    }

    #[test]
    fn a_storm_never_gets_more_than_one_in() {
        storm(1, Order::Fifo);
        storm(1, Order::Lifo);
    }

    #[test]
    fn a_storm_never_gets_more_than_two_in() {
        storm(2, Order::Fifo);
    }

    #[test]
    fn a_storm_never_gets_more_than_five_in() {
        storm(5, Order::Fifo);
    }
}

mod queue_bound {
    use super::*;

    #[test]
    fn of_callers_that_come_at_once_as_many_queue_as_may_and_the_rest_is_refused_at_once() {
        const THREADS: usize = 4;
        const EACH: usize = 50;
        for bound in [1, 7, 32, 199] {
            let guard = Arc::new(EndpointGuard::builder("bound").queue(Queue::Bounded(bound)).build());
            let permit = guard.try_acquire().unwrap();
            let barrier = Barrier::new(THREADS);
            let queued = Mutex::new(Vec::new());
            let refused = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        for _ in 0..EACH {
                            let mut caller = task::spawn(Arc::clone(&guard).acquire_owned());
                            match caller.poll() {
                                Poll::Pending => queued.lock().unwrap().push(caller),
                                Poll::Ready(result) => {
                                    assert!(is_full(&result.unwrap_err()));
                                    refused.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    });
                }
            });
            let mut queued = queued.into_inner().unwrap();
            assert_eq!((queued.len(), refused.into_inner()), (bound, THREADS * EACH - bound));
            assert_eq!((guard.stats().waiting, guard.stats().refused), (bound, (THREADS * EACH - bound) as u64));

            // A place that is given up can be taken again, but only once.
            queued.pop();
            let mut late = [task::spawn(guard.acquire()), task::spawn(guard.acquire())];
            assert_pending!(late[0].poll());
            assert!(is_full(&assert_ready_err!(late[1].poll())));
            drop((permit, queued, late));
            assert_idle(&guard);
        }
    }

    #[test]
    fn blocking_callers_fill_the_same_places() {
        let guard = EndpointGuard::builder("bound").queue(Queue::Bounded(2)).build();
        let permit = guard.try_acquire().unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let outcome = guard.acquire_blocking().map(drop);
                    outcomes.lock().unwrap().push(outcome);
                });
            }
            // One of the six got the second place. The others return though the guard stays held.
            spin_until(|| outcomes.lock().unwrap().len() == 5);
            assert!(outcomes.lock().unwrap().iter().all(|outcome| is_full(outcome.as_ref().unwrap_err())));
            drop(permit);
            drop(assert_ready_ok!(caller.poll()));
        });
        assert_eq!(outcomes.into_inner().unwrap().last(), Some(&Ok(())));
        assert_idle(&guard);
    }

    #[test]
    fn a_guard_without_a_queue_refuses_with_busy() {
        let guard = EndpointGuard::builder("reject").queue(Queue::Reject).build();
        let permit = guard.try_acquire().unwrap();
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire()).poll())));
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.run(ready(()))).poll())));
        assert!(is_busy(&guard.acquire_blocking().unwrap_err()));
        assert!(is_busy(&guard.try_acquire().unwrap_err()));
        assert_eq!(guard.stats().refused, 3, "a try is a question, not a refused caller");
        drop(permit);
        drop(assert_ready_ok!(task::spawn(guard.acquire()).poll()));
        assert_idle(&guard);
    }
}

mod max_wait {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn patient() -> EndpointGuard {
        EndpointGuard::builder("patient").max_wait(LIMIT).build()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_whose_turn_does_not_come_is_told_how_long_it_waited() {
        let guard = patient();
        let permit = guard.acquire().await.unwrap();
        let start = Instant::now();
        let error = guard.acquire().await.unwrap_err();
        let AcquireError::Timeout { waited, .. } = error else { panic!("{error:?}") };
        // tokio's timers are as fine as a millisecond.
        let fine = Duration::from_millis(2);
        assert!((LIMIT..LIMIT + fine).contains(&waited), "{waited:?}");
        assert!((LIMIT..LIMIT + fine).contains(&start.elapsed()));
        let GuardStats { waiting, timed_out, cancelled, .. } = guard.stats();
        assert_eq!((waiting, timed_out, cancelled), (0, 1, 0));
        drop(permit);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_counts_from_the_first_poll() {
        let guard = patient();
        let permit = guard.acquire().await.unwrap();
        let late = guard.acquire();
        sleep(3 * LIMIT).await;
        let mut late = task::spawn(late);
        assert_pending!(late.poll());
        advance(LIMIT / 2).await;
        assert_pending!(late.poll());
        drop(permit);
        drop(assert_ready_ok!(late.poll()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_came_before_the_timer_was_looked_at_wins() {
        let guard = patient();
        let permit = guard.acquire().await.unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        advance(2 * LIMIT).await;
        assert!(caller.is_woken(), "the timer rang");
        drop(permit);
        drop(assert_ready_ok!(caller.poll()));
        assert_eq!(guard.stats().timed_out, 0);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_timed_out_takes_no_turn() {
        let guard = patient();
        let permit = guard.acquire().await.unwrap();
        let mut first = task::spawn(guard.acquire());
        assert_pending!(first.poll());
        advance(LIMIT / 2).await;
        let mut second = task::spawn(guard.acquire());
        assert_pending!(second.poll());
        advance(LIMIT / 2 + Duration::from_millis(2)).await;
        assert!(matches!(assert_ready_err!(first.poll()), AcquireError::Timeout { .. }));
        drop(permit);
        drop(assert_ready_ok!(second.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn a_free_guard_needs_no_timer() {
        let guard = patient();
        let permit = assert_ready_ok!(task::spawn(guard.acquire()).poll());
        // A busy one does. What cannot be timed doesn't stay in the queue.
        let mut caller = task::spawn(guard.acquire());
        assert!(catch_unwind(AssertUnwindSafe(|| caller.poll())).is_err());
        drop(caller);
        assert_eq!(guard.stats().waiting, 0);
        drop(permit);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_beyond_the_end_of_time_is_none() {
        let guard = EndpointGuard::builder("for ever").max_wait(Duration::MAX).grant_timeout(Duration::MAX).build();
        let permit = guard.acquire().await.unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        advance(1_000_000 * SECOND).await;
        assert_pending!(caller.poll());
        drop(permit);
        drop(assert_ready_ok!(caller.poll()));
    }

    #[test]
    fn a_blocking_caller_gives_up_too() {
        // Real time: a parked thread has no other clock.
        const SHORT: Duration = Duration::from_millis(20);
        let guard = EndpointGuard::builder("short").max_wait(SHORT).build();
        let permit = guard.acquire_blocking().unwrap();
        let error = guard.acquire_blocking().unwrap_err();
        let AcquireError::Timeout { waited, .. } = error else { panic!("{error:?}") };
        assert!(waited >= SHORT, "{waited:?}");
        assert_eq!((guard.stats().waiting, guard.stats().timed_out), (0, 1));
        drop(permit);
        assert_idle(&guard);
    }
}

mod close {
    use super::*;

    #[test]
    fn a_thousand_that_wait_are_told_and_the_holders_finish() {
        let guard = EndpointGuard::builder("closing").permits(2).build();
        let (first, second) = (guard.try_acquire().unwrap(), guard.try_acquire().unwrap());
        let mut callers: Vec<_> = (0..1_000).map(|_| task::spawn(guard.acquire())).collect();
        for caller in &mut callers {
            assert_pending!(caller.poll());
        }
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        thread::scope(|scope| {
            let blocking = scope.spawn(|| guard.acquire_blocking().map(drop));
            spin_until(|| guard.stats().waiting == 1_001);
            guard.close();
            assert_eq!(blocking.join().unwrap(), Err(AcquireError::Closed));
        });
        for caller in &mut callers {
            assert!(caller.is_woken());
            assert_eq!(assert_ready_err!(caller.poll()), AcquireError::Closed);
        }
        let GuardStats { held, waiting, closed, .. } = guard.stats();
        assert_eq!((held, waiting, closed), (2, 0, true));

        assert_pending!(drained.poll());
        drop(first);
        assert_pending!(drained.poll());
        drop(second);
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_nobody_takes_does_not_keep_it_from_draining() {
        let guard = EndpointGuard::builder("left alone").grant_timeout(SECOND).build();
        let permit = guard.try_acquire().unwrap();
        let mut left_alone = task::spawn(guard.acquire());
        assert_pending!(left_alone.poll());
        drop(permit);
        guard.close();
        timeout(10 * SECOND, guard.drained()).await.expect("the turn expires, though nobody waits for it any more");
        assert_eq!(assert_ready_err!(left_alone.poll()), AcquireError::GrantExpired);
        assert_idle(&guard);
    }

    #[test]
    fn those_that_waited_count_as_refused() {
        let guard = EndpointGuard::new("closing");
        let _permit = guard.try_acquire().unwrap();
        let mut callers = [0; 3].map(|_| task::spawn(guard.acquire()));
        callers.iter_mut().for_each(|caller| assert_pending!(caller.poll()));
        guard.close();
        callers.iter_mut().for_each(|caller| assert!(assert_ready!(caller.poll()).is_err()));
        assert_eq!((guard.stats().queued, guard.stats().refused), (3, 3));
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_else_from_being_told() {
        let guard = EndpointGuard::new("closing");
        let _permit = guard.try_acquire().unwrap();
        let panics = Waker::from(Arc::new(PanicsWhenWoken));
        let mut first = guard.acquire();
        assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&panics)).is_pending());
        let mut second = task::spawn(guard.acquire());
        assert_pending!(second.poll());
        assert!(catch_unwind(AssertUnwindSafe(|| guard.close())).is_err());
        assert!(second.is_woken());
        assert_eq!(assert_ready_err!(second.poll()), AcquireError::Closed);
    }

    #[test]
    fn closing_twice_is_closing_once() {
        let guard = EndpointGuard::new("twice");
        let permit = guard.try_acquire().unwrap();
        guard.close();
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        drop(permit);
        guard.close();
        assert_ready!(drained.poll());
        assert_ready!(task::spawn(guard.drained()).poll());
    }

    #[test]
    fn who_comes_afterwards_is_refused_even_if_the_guard_is_free() {
        let guard = Arc::new(EndpointGuard::new("closed"));
        guard.close();
        assert_eq!(assert_ready_err!(task::spawn(guard.acquire()).poll()), AcquireError::Closed);
        assert_eq!(assert_ready_err!(task::spawn(guard.run(ready(()))).poll()), AcquireError::Closed);
        assert_eq!(guard.acquire_blocking().unwrap_err(), AcquireError::Closed);
        assert_eq!(guard.try_acquire().unwrap_err(), AcquireError::Closed);
        assert_eq!(Arc::clone(&guard).try_acquire_owned().unwrap_err(), AcquireError::Closed);
        assert_eq!(guard.stats().refused, 3);
    }

    #[test]
    fn inside_the_guard_closed_is_the_answer_too() {
        let guard = EndpointGuard::new("closed");
        let mut run = task::spawn(guard.run(async {
            guard.close();
            guard.acquire().await.map(drop)
        }));
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::Closed));
    }

    #[test]
    fn an_open_guard_is_not_drained_though_nobody_is_inside() {
        let guard = EndpointGuard::new("open");
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        drop(guard.try_acquire().unwrap());
        assert_pending!(drained.poll());
        guard.close();
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
    }

    #[test]
    fn a_turn_that_came_before_is_still_the_callers() {
        let guard = EndpointGuard::new("granted");
        let permit = guard.try_acquire().unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        drop(permit);
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        let permit = assert_ready_ok!(caller.poll());
        assert_pending!(drained.poll());
        drop(permit);
        assert_ready!(drained.poll());
    }

    #[test]
    fn a_turn_that_came_before_and_is_dropped_was_the_last() {
        let guard = EndpointGuard::new("granted");
        let permit = guard.try_acquire().unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        drop(permit);
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        drop(caller);
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
    }
}

mod panic {
    use super::*;

    /// Keeps what panicked, as a `catch_unwind` around a future does.
    fn poll_caught<F: Future>(future: Pin<&mut F>) -> thread::Result<Poll<F::Output>> {
        catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(Waker::noop()))))
    }

    #[test]
    fn a_panic_in_run_gives_the_permit_back_though_the_run_is_kept() {
        let guard = EndpointGuard::new("panic");
        let mut run = pin!(guard.run(async { panic!("in the work") }));
        assert!(poll_caught(run.as_mut()).is_err());
        assert_idle(&guard);
        assert_eq!(guard.stats().panicked, 1);
        drop(guard.try_acquire().unwrap());
        // The thread is not taken to be inside any more: who finds the guard full waits.
        let _permit = guard.try_acquire().unwrap();
        assert_pending!(task::spawn(guard.acquire()).poll());
    }

    #[test]
    fn a_panic_in_run_to_completion_gives_the_permit_back_though_the_run_is_kept() {
        let guard = leaked(EndpointGuard::new("panic"));
        let mut run = pin!(guard.run_to_completion(async { panic!("in the work") }));
        assert!(poll_caught(run.as_mut()).is_err());
        assert_idle(guard);
        assert_eq!(guard.stats().panicked, 1);
    }

    #[test]
    fn a_panic_on_another_thread_lets_the_next_caller_in() {
        let guard = Arc::new(EndpointGuard::new("panic"));
        let permit = Arc::clone(&guard).try_acquire_owned().unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        let holder = thread::spawn(move || {
            let _permit = permit;
            panic!("while it holds the permit");
        });
        assert!(holder.join().is_err());
        drop(assert_ready_ok!(caller.poll()));
        assert_eq!(guard.stats().panicked, 1);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_task_lets_the_next_caller_in() {
        let guard = leaked(EndpointGuard::new("panic"));
        let holder = tokio::spawn(async {
            let _permit = guard.acquire().await.unwrap();
            yield_now().await;
            panic!("while it holds the permit");
        });
        yield_now().await;
        drop(in_time(guard.acquire()).await.unwrap());
        assert!(holder.await.unwrap_err().is_panic());
        assert_eq!(guard.stats().panicked, 1);
        assert_idle(guard);
    }
}

mod nesting {
    use super::*;

    #[test]
    fn acquiring_again_inside_run_is_refused_at_once() {
        let guard = EndpointGuard::new("nested");
        let mut run = task::spawn(guard.run(async {
            let acquired = guard.acquire().await.map(drop);
            let run = guard.run(async {}).await;
            (acquired, run)
        }));
        let refused = Err(AcquireError::WouldDeadlock);
        assert_eq!(assert_ready_ok!(run.poll()), (refused.clone(), refused));
        assert_eq!(guard.stats().refused, 2);
        assert_idle(&guard);
    }

    #[test]
    fn a_place_taken_outside_and_awaited_inside_is_refused_and_given_up() {
        let guard = EndpointGuard::new("nested");
        let permit = guard.try_acquire().unwrap();
        let queued = Mutex::new(None);
        let mut run = task::spawn(guard.run(async {
            let acquire: onelane::Acquire<'_> = queued.lock().unwrap().take().expect("it is queued by now");
            acquire.await.map(drop)
        }));
        assert_pending!(run.poll());
        let mut behind = guard.acquire();
        assert!(Pin::new(&mut behind).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        *queued.lock().unwrap() = Some(behind);
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::WouldDeadlock));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn acquiring_again_inside_run_to_completion_is_refused() {
        let guard = leaked(EndpointGuard::new("nested"));
        let nested = guard.run_to_completion(async {
            // Also after it was away from its thread.
            yield_now().await;
            guard.run_to_completion(async {}).await
        });
        assert_eq!(in_time(nested).await, Ok(Err(AcquireError::WouldDeadlock)));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn acquiring_again_after_the_caller_left_is_refused() {
        let guard = leaked(EndpointGuard::new("nested"));
        let (tell, told) = oneshot::channel();
        let mut run = task::spawn(guard.run_to_completion(async {
            yield_now().await;
            tell.send(guard.acquire().await.map(drop)).unwrap();
        }));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!(in_time(told).await, Ok(Err(AcquireError::WouldDeadlock)));
    }

    #[test]
    fn blocking_inside_run_is_refused_on_a_thread_without_a_runtime() {
        let guard = EndpointGuard::new("nested");
        let nested = futures::executor::block_on(guard.run(async { guard.acquire_blocking().map(drop) }));
        assert_eq!(nested, Ok(Err(AcquireError::WouldDeadlock)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_branches_of_one_task_take_turns() {
        let guard = EndpointGuard::new("joined");
        let turn = || async {
            assert_eq!(guard.stats().held, 1);
            yield_now().await;
        };
        let both = in_time(async { tokio::join!(guard.run(turn()), guard.run(turn())) });
        assert_eq!(both.await, (Ok(()), Ok(())));
        let acquire = || async {
            let permit = guard.acquire().await?;
            yield_now().await;
            drop(permit);
            Ok::<_, AcquireError>(())
        };
        let all = in_time(async { tokio::join!(acquire(), guard.run(turn()), acquire()) });
        assert_eq!(all.await, (Ok(()), Ok(()), Ok(())));
        assert_eq!(guard.stats().granted, 5);
        assert_idle(&guard);
    }

    #[test]
    fn a_permit_that_is_free_may_be_taken_inside() {
        let guard = EndpointGuard::builder("two").permits(2).build();
        let mut run = task::spawn(
            guard.run(async { guard.run(async { (guard.stats().held, guard.acquire().await.map(drop)) }).await }),
        );
        assert_eq!(assert_ready_ok!(run.poll()), Ok((2, Err(AcquireError::WouldDeadlock))));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_spawned_inside_queues_as_anyone() {
        let guard = leaked(EndpointGuard::new("spawned"));
        let mut spawned = None;
        let run = guard.run(async {
            spawned = Some(tokio::spawn(async { guard.acquire().await.map(drop) }));
            eventually(|| guard.stats().waiting == 1).await;
        });
        run.await.unwrap();
        assert_eq!(in_time(spawned.unwrap()).await.unwrap(), Ok(()));
    }

    #[test]
    fn another_guard_that_is_full_is_waited_for_inside() {
        let (outer, inner) = (EndpointGuard::new("outer"), EndpointGuard::new("inner"));
        let permit = inner.try_acquire().unwrap();
        let mut run = task::spawn(outer.run(async { inner.run(async {}).await }));
        assert_pending!(run.poll());
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Ok(()));
    }

    #[test]
    fn another_guard_may_be_entered_inside_but_not_the_way_back() {
        let outer = EndpointGuard::new("outer");
        let inner = EndpointGuard::new("inner");
        let mut run = task::spawn(outer.run(async {
            let nested = inner.run(async { outer.acquire().await.map(drop) }).await;
            (nested, outer.acquire().await.map(drop), inner.acquire().await.map(drop))
        }));
        let refused = Err(AcquireError::WouldDeadlock);
        assert_eq!(assert_ready_ok!(run.poll()), (Ok(refused.clone()), refused, Ok(())));
        // The two guards were never held by this thread outside of that poll.
        let _permit = outer.try_acquire().unwrap();
        assert_pending!(task::spawn(outer.acquire()).poll());
    }
}

/// A future waits for the guard. Its owner stops polling it and waits for the same guard elsewhere: Oxide RFD 609.
mod futurelock {
    use super::*;

    /// The program of the RFD. Returns what the future that was left alone ends with, when it is polled at last.
    async fn program(guard: &Arc<EndpointGuard>) -> Result<(), AcquireError> {
        let background = tokio::spawn({
            let guard = Arc::clone(guard);
            async move {
                let _permit = guard.acquire_owned().await.unwrap();
                sleep(5 * SECOND).await;
            }
        });
        yield_now().await;

        let mut future1 = pin!(async { guard.acquire().await.map(drop) });
        tokio::select! {
            _ = &mut future1 => panic!("the guard is held"),
            () = sleep(SECOND / 2) => {}
        }
        drop(guard.acquire().await.unwrap());
        background.await.unwrap();
        future1.await
    }

    #[tokio::test(start_paused = true)]
    async fn hangs_without_a_limit() {
        let guard = Arc::new(EndpointGuard::new("futurelock"));
        assert!(timeout(1_000 * SECOND, program(&guard)).await.is_err());
        assert_idle(&guard);
    }

    /// A turn has come to a future that nobody polls.
    async fn left_alone(guard: &EndpointGuard) -> task::Spawn<onelane::Acquire<'_>> {
        let permit = guard.acquire().await.unwrap();
        let mut left_alone = task::spawn(guard.acquire());
        assert_pending!(left_alone.poll());
        drop(permit);
        left_alone
    }

    #[test]
    fn a_blocking_caller_whose_watch_panics_leaves_no_place_behind() {
        // Real time, for the thread waits in no other.
        let limit = Duration::from_millis(20);
        let guard = leaked(EndpointGuard::builder("panics").grant_timeout(limit).order(Order::Lifo).build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let permit = guard.try_acquire().unwrap();
        let mut left_alone = task::spawn(guard.acquire());
        assert_pending!(left_alone.poll());
        drop(permit);
        let blocking = thread::spawn(|| guard.acquire_blocking().map(drop));
        spin_until(|| guard.stats().waiting == 1);
        // The newest is the next owner of the turn that the thread takes back, and it panics when it is told.
        let panics = Waker::from(Arc::new(PanicsWhenWoken));
        let mut next = guard.acquire();
        assert!(Pin::new(&mut next).poll(&mut Context::from_waker(&panics)).is_pending());
        assert!(blocking.join().is_err());
        drop((next, left_alone));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_for_callers_less_patient_than_the_grant() {
        let guard = EndpointGuard::builder("impatient").grant_timeout(2 * SECOND).max_wait(2 * SECOND).build();
        let _left_alone = left_alone(&guard).await;
        assert!(matches!(guard.acquire().await, Ok(_) | Err(AcquireError::Timeout { .. })));
        drop(guard.acquire().await.expect("two seconds have passed since the turn came"));
        assert_eq!(guard.stats().expired, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_for_callers_that_leave_before_they_would_have_looked() {
        let guard = EndpointGuard::builder("leaving").grant_timeout(2 * SECOND).build();
        let _left_alone = left_alone(&guard).await;
        assert!(timeout(SECOND + SECOND / 2, guard.acquire()).await.is_err());
        let permit = timeout(SECOND, guard.acquire()).await.expect("half a second was left of the grant's two");
        drop(permit.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_a_grant_timeout() {
        let guard = Arc::new(EndpointGuard::builder("futurelock").grant_timeout(SECOND).build());
        let start = Instant::now();
        assert_eq!(in_time(program(&guard)).await, Err(AcquireError::GrantExpired));
        // Five seconds for the background task, one for the turn that nobody takes.
        let fine = Duration::from_millis(5);
        assert!((6 * SECOND..6 * SECOND + fine).contains(&start.elapsed()), "{:?}", start.elapsed());
        let GuardStats { expired, granted, queued, cancelled, .. } = guard.stats();
        assert_eq!((expired, granted, queued, cancelled), (1, 3, 2, 0));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_those_that_wait_are_all_left_alone_and_the_queue_is_full() {
        let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).grant_timeout(SECOND).build();
        let permit = guard.try_acquire().unwrap();
        let mut granted = task::spawn(guard.acquire());
        assert_pending!(granted.poll());
        drop(permit);
        let mut queued = task::spawn(guard.acquire());
        assert_pending!(queued.poll());
        assert!(is_full(&guard.acquire().await.unwrap_err()), "the turn may still be taken");
        advance(SECOND).await;
        // The newcomer finds the turn expired, lines up behind the other, and watches over that one's turn.
        drop(in_time(guard.acquire()).await.unwrap());
        assert_eq!(assert_ready_err!(granted.poll()), AcquireError::GrantExpired);
        assert_eq!(assert_ready_err!(queued.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 2);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_for_who_only_tries() {
        let guard = Arc::new(EndpointGuard::builder("try").grant_timeout(SECOND).build());
        for owned in [false, true] {
            let permit = guard.try_acquire().unwrap();
            let mut caller = task::spawn(guard.acquire());
            assert_pending!(caller.poll());
            drop(permit);
            advance(SECOND - Duration::from_millis(1)).await;
            assert!(is_busy(&guard.try_acquire().unwrap_err()));
            advance(Duration::from_millis(1)).await;
            if owned {
                drop(Arc::clone(&guard).try_acquire_owned().unwrap());
            } else {
                drop(guard.try_acquire().unwrap());
            }
            assert_eq!(assert_ready_err!(caller.poll()), AcquireError::GrantExpired);
            assert_idle(&guard);
        }
        assert_eq!(guard.stats().expired, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_taken_in_time_does_not_expire() {
        let guard = EndpointGuard::builder("in time").grant_timeout(SECOND).build();
        let permit = guard.try_acquire().unwrap();
        let mut first = task::spawn(guard.acquire());
        let mut second = task::spawn(guard.acquire());
        assert_pending!(first.poll());
        assert_pending!(second.poll());
        advance(10 * SECOND).await;
        drop(permit);
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
    async fn a_turn_that_expires_after_close_drains_the_guard() {
        let guard = EndpointGuard::builder("closing").grant_timeout(SECOND).build();
        let permit = guard.try_acquire().unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        drop(permit);
        guard.close();
        let mut drained = task::spawn(guard.drained());
        assert_pending!(drained.poll());
        advance(2 * SECOND).await;
        assert_eq!(guard.try_acquire().unwrap_err(), AcquireError::Closed);
        assert!(drained.is_woken());
        assert_ready!(drained.poll());
        assert_eq!(assert_ready_err!(caller.poll()), AcquireError::GrantExpired);
    }

    #[test]
    fn a_blocking_caller_watches_too() {
        // Real time: a parked thread has no other clock.
        let guard = leaked(EndpointGuard::builder("blocking").grant_timeout(Duration::from_millis(20)).build());
        let permit = guard.try_acquire().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut left_alone = task::spawn(guard.acquire());
        {
            let _entered = runtime.enter();
            assert_pending!(left_alone.poll());
        }
        drop(permit);
        let blocking = thread::spawn(|| guard.acquire_blocking().map(drop));
        spin_until(|| blocking.is_finished());
        assert_eq!(blocking.join().unwrap(), Ok(()));
        assert_eq!(assert_ready_err!(left_alone.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 1);
        assert_idle(guard);
    }
}

mod blocking {
    use super::*;

    #[test]
    fn threads_and_tasks_stand_in_one_queue() {
        let guard = EndpointGuard::new("mixed");
        let permit = guard.try_acquire().unwrap();
        let mut first = task::spawn(guard.acquire());
        assert_pending!(first.poll());
        let (enter, leave) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                let permit = guard.acquire_blocking().unwrap();
                enter.store(1, Ordering::SeqCst);
                spin_until(|| leave.load(Ordering::SeqCst) == 1);
                drop(permit);
            });
            spin_until(|| guard.stats().waiting == 2);
            let mut third = task::spawn(guard.acquire());
            assert_pending!(third.poll());

            drop(permit);
            let permit = assert_ready_ok!(first.poll());
            assert_pending!(third.poll());
            assert_eq!(enter.load(Ordering::SeqCst), 0);
            drop(permit);
            spin_until(|| enter.load(Ordering::SeqCst) == 1);
            assert_pending!(third.poll());
            leave.store(1, Ordering::SeqCst);
            spin_until(|| third.is_woken());
            drop(assert_ready_ok!(third.poll()));
        });
        assert_idle(&guard);
    }

    #[test]
    fn where_blocking_is_allowed_it_waits() {
        let guard = leaked(EndpointGuard::new("allowed"));
        let runtime = two_workers();
        let enters = move || guard.acquire_blocking().map(drop);
        let outcomes = runtime.block_on(async {
            let on_pool = spawn_blocking(enters).await.unwrap();
            let on_worker = tokio::spawn(async move { block_in_place(enters) }).await.unwrap();
            let in_block_on = block_in_place(enters);
            [on_pool, on_worker, in_block_on]
        });
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
        let _entered = runtime.enter();
        assert_eq!(enters(), Ok(()), "a thread that only knows a runtime runs none of its tasks");
    }

    #[test]
    fn on_the_blocking_pool_it_waits_for_a_task() {
        let guard = leaked(EndpointGuard::new("pool"));
        two_workers().block_on(async {
            let permit = guard.acquire().await.unwrap();
            let blocked = spawn_blocking(|| guard.acquire_blocking().map(drop));
            // The other thread needs real time to get there.
            let in_queue = spawn_blocking(|| spin_until(|| guard.stats().waiting == 1));
            in_queue.await.unwrap();
            drop(permit);
            assert_eq!(blocked.await.unwrap(), Ok(()));
        });
        assert_idle(guard);
    }

    #[test]
    fn on_a_thread_that_runs_tasks_it_is_refused_whether_the_guard_is_free_or_not() {
        let guard = leaked(EndpointGuard::new("refused"));
        let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let multi = two_workers();
        let mut held = None;
        for _round in ["free", "held"] {
            for runtime in [&current, &multi] {
                let enters = || async { guard.acquire_blocking().map(drop) };
                let refused = Err(AcquireError::BlockingInAsync);
                assert_eq!(runtime.block_on(enters()), refused);
                assert_eq!(runtime.block_on(async { tokio::spawn(enters()).await.unwrap() }), refused);
                let local = async { LocalSet::new().run_until(async { enters().await }).await };
                assert_eq!(runtime.block_on(local), refused);
            }
            held.get_or_insert_with(|| guard.try_acquire().unwrap());
        }
        assert_eq!(guard.stats().refused, 12);
        assert_eq!((guard.stats().held, guard.stats().waiting), (1, 0));
    }

    fn spend(steps: usize) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let spent = (0..steps).take_while(|_| match coop::poll_proceed(&mut cx) {
            Poll::Ready(step) => {
                step.made_progress();
                true
            }
            Poll::Pending => false,
        });
        spent.count()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_task_may_do_in_one_poll_stays_as_it_was() {
        let whole = tokio::spawn(async { spend(1_000) }).await.unwrap();
        assert!((2..1_000).contains(&whole), "{whole}");
        for spent in [0, 1, whole / 2, whole - 1, whole] {
            let left = tokio::spawn(async move {
                let guard = EndpointGuard::new("budget");
                assert_eq!(spend(spent), spent);
                assert_eq!(guard.acquire_blocking().unwrap_err(), AcquireError::BlockingInAsync);
                assert_eq!(coop::has_budget_remaining(), spent < whole);
                spend(1_000)
            });
            assert_eq!(left.await.unwrap(), whole - spent);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_finds_the_guard_free_again_and_again_lets_others_run() {
    let guard = EndpointGuard::new("cooperative");
    let others = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn({
        let others = Arc::clone(&others);
        async move {
            loop {
                others.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        }
    });
    for _ in 0..1_000 {
        drop(guard.acquire().await.unwrap());
    }
    assert!(others.load(Ordering::Relaxed) > 1);
    other.abort();
}

mod run_to_completion {
    use super::*;

    #[test]
    fn a_run_without_its_caller_that_ends_with_its_runtime_is_counted_as_cut_off() {
        let guard = leaked(EndpointGuard::new("runtime"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
            assert_pending!(run.poll());
            drop(run);
            yield_now().await;
            assert_eq!((guard.stats().detached, guard.stats().cut_off), (1, 0));
        });
        drop(runtime);
        assert_eq!((guard.stats().cut_off, guard.stats().finished_detached), (1, 0));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_while_it_waits_starts_nothing() {
        let guard = leaked(EndpointGuard::new("waiting"));
        let permit = guard.acquire().await.unwrap();
        let mut run = task::spawn(guard.run_to_completion(async { panic!("it never starts") }));
        assert_pending!(run.poll());
        drop(run);
        drop(permit);
        yield_now().await;
        let GuardStats { cancelled, panicked, finished_detached, .. } = guard.stats();
        assert_eq!((cancelled, panicked, finished_detached), (1, 0, 0));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_before_it_takes_its_turn_starts_nothing() {
        let guard = leaked(EndpointGuard::new("granted"));
        let permit = guard.acquire().await.unwrap();
        let mut run = task::spawn(guard.run_to_completion(async { panic!("it never starts") }));
        assert_pending!(run.poll());
        drop(permit);
        drop(run);
        assert_idle(guard);
        assert_eq!(guard.stats().finished_detached, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn work_whose_caller_leaves_ends_with_the_permit_held() {
        let guard = Arc::new(EndpointGuard::new("running"));
        let (end, ended) = oneshot::channel::<()>();
        let mut run = task::spawn(Arc::clone(&guard).run_to_completion_owned(async move { ended.await.unwrap() }));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!((guard.stats().held, guard.stats().detached), (1, 1));
        let mut next = task::spawn(guard.acquire());
        assert_pending!(next.poll());
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
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_caller_enters_when_the_work_has_ended() {
        let guard = leaked(EndpointGuard::new("next"));
        let (end, ended) = oneshot::channel::<()>();
        let finished = Arc::new(AtomicUsize::new(0));
        let caller = tokio::spawn(guard.run_to_completion({
            let finished = Arc::clone(&finished);
            async move {
                ended.await.unwrap();
                finished.store(1, Ordering::SeqCst);
            }
        }));
        yield_now().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        let mut next = task::spawn(guard.run(async { finished.load(Ordering::SeqCst) }));
        assert_pending!(next.poll());
        end.send(()).unwrap();
        eventually(|| next.is_woken()).await;
        assert_eq!(assert_ready_ok!(next.poll()), 1);
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_after_the_caller_left_is_counted_and_frees_the_guard() {
        let guard = leaked(EndpointGuard::new("panic"));
        let mut run = task::spawn(guard.run_to_completion(async {
            yield_now().await;
            panic!("after the caller left");
        }));
        assert_pending!(run.poll());
        drop(run);
        drop(in_time(guard.acquire()).await.unwrap());
        yield_now().await;
        assert_eq!((guard.stats().panicked, guard.stats().finished_detached), (1, 0));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_gets_the_answer_and_nothing_is_detached() {
        let guard = leaked(EndpointGuard::new("stays"));
        assert_eq!(guard.run_to_completion(async { yield_now().await }).await, Ok(()));
        assert_eq!(guard.run_to_completion(ready(7)).await, Ok(7));
        assert_eq!(guard.stats().finished_detached, 0);
        assert_idle(guard);
    }

    #[test]
    fn outside_of_a_runtime_it_is_cancelled() {
        let guard = leaked(EndpointGuard::new("no runtime"));
        let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
        assert_pending!(run.poll());
        drop(run);
        assert_idle(guard);
        assert_eq!(guard.stats().finished_detached, 0);
    }

    #[test]
    fn when_the_runtime_ends_the_permit_comes_back() {
        let guard = leaked(EndpointGuard::new("runtime ends"));
        for runtime in [two_workers(), tokio::runtime::Builder::new_current_thread().build().unwrap()] {
            runtime.block_on(async {
                // One has left its caller already, one is dropped with its caller.
                let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
                assert_pending!(run.poll());
            });
            assert_eq!((guard.stats().held, guard.stats().detached), (1, 1));
            drop(runtime);
            assert_idle(guard);

            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.spawn(guard.run_to_completion(std::future::pending::<()>()));
            runtime.block_on(yield_now());
            assert_eq!((guard.stats().held, guard.stats().detached), (1, 0));
            drop(runtime);
            assert_idle(guard);
        }
        assert_eq!(guard.stats().finished_detached, 0);
    }
}

/// What is left of the work is dropped while nobody else can be inside.
mod leftovers {
    use super::*;

    thread_local! {
        static HELD_AT_DROP: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Notes how many permits are held when it is dropped.
    #[derive(Debug)]
    struct Leftover(&'static EndpointGuard);

    impl Drop for Leftover {
        fn drop(&mut self) {
            HELD_AT_DROP.set(Some(self.0.stats().held));
        }
    }

    /// Keeps its state after it has ended, as a future written by hand may.
    struct ByHand(#[expect(dead_code, reason = "kept for its drop")] Leftover, Poll<()>);

    impl Future for ByHand {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.1
        }
    }

    fn fresh() -> &'static EndpointGuard {
        HELD_AT_DROP.set(None);
        leaked(EndpointGuard::new("leftover"))
    }

    fn assert_dropped_inside(guard: &EndpointGuard) {
        assert_eq!(HELD_AT_DROP.get(), Some(1));
        assert_idle(guard);
    }

    #[test]
    fn of_work_that_is_cut_off() {
        let guard = fresh();
        let mut run = task::spawn(guard.run(ByHand(Leftover(guard), Poll::Pending)));
        assert_pending!(run.poll());
        drop(run);
        assert_dropped_inside(guard);

        let guard = fresh();
        let mut run = task::spawn(guard.run_to_completion(ByHand(Leftover(guard), Poll::Pending)));
        assert_pending!(run.poll());
        drop(run);
        assert_dropped_inside(guard);
    }

    #[test]
    fn of_work_that_has_ended() {
        let guard = fresh();
        let mut run = task::spawn(guard.run(ByHand(Leftover(guard), Poll::Ready(()))));
        assert_ready_ok!(run.poll());
        assert_dropped_inside(guard);

        let guard = fresh();
        let mut run = task::spawn(guard.run_to_completion(ByHand(Leftover(guard), Poll::Ready(()))));
        assert_ready_ok!(run.poll());
        assert_dropped_inside(guard);
    }

    #[test]
    fn of_work_that_panics() {
        let guard = fresh();
        let leftover = Leftover(guard);
        let mut run = task::spawn(guard.run(async move {
            let _leftover = leftover;
            panic!("in the work");
        }));
        assert!(catch_unwind(AssertUnwindSafe(|| run.poll())).is_err());
        assert_dropped_inside(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn of_work_whose_caller_has_left_and_of_its_output() {
        let guard = fresh();
        let mut run = task::spawn(guard.run_to_completion(async {
            yield_now().await;
            Leftover(guard)
        }));
        assert_pending!(run.poll());
        drop(run);
        // Nobody waits for the permit: then it would be held again at once.
        eventually(|| guard.stats().held == 0).await;
        assert_dropped_inside(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn each_counter_counts_its_event_and_no_other() {
    let guard = leaked(
        EndpointGuard::builder("counted").queue(Queue::Bounded(2)).max_wait(10 * SECOND).grant_timeout(SECOND).build(),
    );
    let counters = || {
        let GuardStats { granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached, .. } =
            guard.stats();
        [granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached]
    };
    assert_eq!(counters(), [0; 8]);
    assert_eq!((guard.stats().name, guard.name(), guard.stats().permits), ("counted", "counted", 1));

    let permit = guard.acquire().await.unwrap();
    assert_eq!(counters(), [1, 0, 0, 0, 0, 0, 0, 0], "a permit taken at once");
    assert!(guard.try_acquire().is_err());
    assert_eq!(counters(), [1, 0, 0, 0, 0, 0, 0, 0], "a try that finds it busy");
    let mut first = task::spawn(guard.acquire());
    let mut second = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(counters(), [1, 2, 0, 0, 0, 0, 0, 0], "two that wait");
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [1, 2, 1, 0, 0, 0, 0, 0], "one too many");
    drop(second);
    assert_eq!(counters(), [1, 2, 1, 0, 1, 0, 0, 0], "one that leaves");
    drop(permit);
    assert_eq!(counters(), [2, 2, 1, 0, 1, 0, 0, 0], "a turn given");
    drop(first);
    assert_eq!(counters(), [2, 2, 1, 0, 2, 0, 0, 0], "a turn not taken because the caller left");

    let permit = guard.acquire().await.unwrap();
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [3, 3, 1, 1, 2, 0, 0, 0], "one that waits too long");
    let mut late = task::spawn(guard.acquire());
    assert_pending!(late.poll());
    drop(permit);
    advance(SECOND).await;
    drop(guard.try_acquire().unwrap());
    assert_eq!(counters(), [5, 4, 1, 1, 2, 1, 0, 0], "a turn that expires, and goes to another");
    assert_ready_err!(late.poll());
    drop(late);
    assert_eq!(counters(), [5, 4, 1, 1, 2, 1, 0, 0], "hearing of it counts no more");

    assert!(tokio::spawn(guard.run(async { panic!("counted") })).await.is_err());
    assert_eq!(counters(), [6, 4, 1, 1, 2, 1, 1, 0], "a panic");
    guard.run(async { guard.acquire().await.unwrap_err() }).await.unwrap();
    assert_eq!(counters(), [7, 4, 2, 1, 2, 1, 1, 0], "one that would wait for itself");
    assert!(guard.acquire_blocking().is_err());
    assert_eq!(counters(), [7, 4, 3, 1, 2, 1, 1, 0], "one that would block");

    let mut run = task::spawn(guard.run_to_completion(yield_now()));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!(guard.stats().detached, 1);
    assert_eq!(counters(), [8, 4, 3, 1, 2, 1, 1, 0], "a caller that leaves its run");
    guard.acquire().await.map(drop).unwrap();
    assert_eq!(counters(), [9, 5, 3, 1, 2, 1, 1, 1], "that run ends");

    guard.close();
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [9, 5, 4, 1, 2, 1, 1, 1], "one that comes too late");
    assert_eq!(guard.stats().overrun, 0);
    assert_idle(guard);
}

mod retry_after {
    use super::*;

    const HOLD: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn is_the_mean_hold_times_the_turns_ahead_by_permits() {
        for permits in [1, 2, 5] {
            let guard = EndpointGuard::builder("measured").permits(permits).queue(Queue::Bounded(3)).build();
            let mut held = Vec::new();
            for _ in 0..permits {
                held.push(guard.try_acquire().unwrap());
            }
            let error = guard.try_acquire().unwrap_err();
            assert_eq!((error.retry_after(), guard.stats().mean_hold), (None, None), "nothing was measured yet");
            for _ in 0..3 {
                held.clear();
                for _ in 0..permits {
                    held.push(guard.try_acquire().unwrap());
                }
                assert!(guard.try_acquire().is_err(), "so the next holder is timed");
                advance(HOLD).await;
            }
            assert_eq!(guard.stats().mean_hold, Some(HOLD));

            let share = HOLD / u32::try_from(permits).unwrap();
            assert_eq!(guard.try_acquire().unwrap_err().retry_after(), Some(share));
            let mut waiting: Vec<_> = (0..3).map(|_| task::spawn(guard.acquire())).collect();
            for caller in &mut waiting {
                assert_pending!(caller.poll());
            }
            let error = guard.acquire().await.unwrap_err();
            assert!(is_full(&error));
            assert_eq!(error.retry_after(), Some(4 * HOLD / u32::try_from(permits).unwrap()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn follows_holds_as_they_change() {
        let guard = EndpointGuard::new("changing");
        for hold in [HOLD, 5 * HOLD] {
            let first = guard.try_acquire().unwrap();
            assert!(guard.try_acquire().is_err());
            drop(first);
            let _timed = guard.try_acquire().unwrap();
            advance(hold).await;
        }
        // A quarter of the way from the mean to the new sample.
        assert_eq!(guard.stats().mean_hold, Some(2 * HOLD));
    }

    #[tokio::test(start_paused = true)]
    async fn comes_with_a_timeout_too() {
        let guard = EndpointGuard::builder("timeout").max_wait(SECOND).build();
        for _ in 0..2 {
            let _permit = guard.try_acquire().unwrap();
            assert!(guard.try_acquire().is_err());
            advance(HOLD).await;
        }
        let _permit = guard.try_acquire().unwrap();
        let mut other = task::spawn(guard.acquire());
        assert_pending!(other.poll());
        let error = guard.acquire().await.unwrap_err();
        assert!(matches!(error, AcquireError::Timeout { .. }));
        assert_eq!(error.retry_after(), Some(2 * HOLD), "behind the one that still waits");
    }

    #[test]
    fn is_none_where_coming_back_does_not_help() {
        use AcquireError::{BlockingInAsync, Closed, GrantExpired, WouldDeadlock};
        for error in [BlockingInAsync, Closed, GrantExpired, WouldDeadlock] {
            assert_eq!(error.retry_after(), None);
        }
    }
}

mod builder {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_with_the_way_out() {
        type Case = (&'static str, fn() -> EndpointGuard);
        let cases: [Case; 8] = [
            ("permits(0) would admit nobody: give 1 or more, or close() the guard", || {
                EndpointGuard::builder("x").permits(0).build()
            }),
            ("permits() takes 65,535 at most", || EndpointGuard::builder("x").permits(65_536).build()),
            ("Bounded(0) is no queue: say Queue::Reject", || {
                EndpointGuard::builder("x").queue(Queue::Bounded(0)).build()
            }),
            ("Bounded() takes 8,388,607 at most: say Queue::Unbounded", || {
                EndpointGuard::builder("x").queue(Queue::Bounded(8_388_608)).build()
            }),
            ("a max_wait of zero lets nobody wait: say Queue::Reject", || {
                EndpointGuard::builder("x").max_wait(Duration::ZERO).build()
            }),
            ("a grant_timeout of zero lets nobody take a turn: give a second or so, or none", || {
                EndpointGuard::builder("x").grant_timeout(Duration::ZERO).build()
            }),
            ("Queue::Reject lets nobody wait: a time limit on waiting contradicts it", || {
                EndpointGuard::builder("x").queue(Queue::Reject).max_wait(SECOND).build()
            }),
            ("Queue::Reject lets nobody wait: a time limit on waiting contradicts it", || {
                EndpointGuard::builder("x").queue(Queue::Reject).grant_timeout(SECOND).build()
            }),
        ];
        for (message, build) in cases {
            let panic = catch_unwind(build).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&message));
        }
    }

    #[test]
    fn the_ends_of_the_ranges_are_accepted_in_a_static() {
        static MOST: EndpointGuard = EndpointGuard::builder("most")
            .permits(65_535)
            .queue(Queue::Bounded(8_388_607))
            .order(Order::Lifo)
            .max_wait(Duration::MAX)
            .grant_timeout(Duration::from_nanos(1))
            .build();
        static LEAST: EndpointGuard = EndpointGuard::builder("least").permits(1).queue(Queue::Bounded(1)).build();
        assert_eq!((MOST.stats().permits, LEAST.stats().permits), (65_535, 1));
    }

    #[test]
    fn new_is_a_builder_with_nothing_said() {
        let guard = EndpointGuard::new("plain");
        let permit = guard.try_acquire().unwrap();
        let mut callers: Vec<_> = (0..100).map(|_| task::spawn(guard.acquire())).collect();
        for caller in &mut callers {
            assert_pending!(caller.poll());
        }
        drop(permit);
        drop(assert_ready_ok!(callers[0].poll()));
        assert_eq!(
            format!("{guard:?}"),
            "EndpointGuard { name: \"plain\", permits: 1, held: 1, waiting: 98, closed: false, .. }"
        );
    }
}
