//! The contract of [`EndpointGuard`], one module per rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

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

/// Leaks a guard, so that it lives as long as one in a `static`.
fn leaked(guard: EndpointGuard) -> &'static EndpointGuard {
    Box::leak(Box::new(guard))
}

fn assert_idle(guard: &EndpointGuard) {
    let GuardStats { held, waiting, detached, .. } = guard.stats();
    assert_eq!((held, waiting, detached), (0, 0, 0));
}

/// Fails instead of hanging. Where time is paused, it fails at once.
async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(1_000 * SECOND, future).await.expect("the future hangs")
}

/// Yields to other tasks until `is_true` returns `true`.
async fn eventually(mut is_true: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_true() {
            return;
        }
        yield_now().await;
    }
    panic!("the condition was never met");
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

    fn serves_ten_thousand_waiters_in(order: Order) {
        const CALLERS: usize = 10_000;
        let guard = EndpointGuard::builder("order").order(order).build();
        let mut permit = guard.try_acquire().unwrap();
        let mut callers: Vec<_> = (0..CALLERS).map(|_| task::spawn(guard.acquire())).collect();
        for caller in &mut callers {
            assert_pending!(caller.poll());
        }
        for served in 0..CALLERS {
            let (next, after) = match order {
                Order::Lifo => (CALLERS - 1 - served, (CALLERS - 1 - served).checked_sub(1)),
                _ => (served, Some(served + 1)),
            };
            drop(permit);
            assert!(callers[next].is_woken());
            if let Some(after) = after.and_then(|after| callers.get(after)) {
                assert!(!after.is_woken(), "one permit wakes one caller");
            }
            permit = assert_ready_ok!(callers[next].poll());
            assert_eq!((guard.stats().held, guard.stats().waiting), (1, CALLERS - 1 - served));
        }
        drop(permit);
        assert_idle(&guard);
    }

    #[test]
    fn fifo_serves_the_oldest_waiter_first() {
        serves_ten_thousand_waiters_in(Order::Fifo);
    }

    #[test]
    fn lifo_serves_the_newest_waiter_first() {
        serves_ten_thousand_waiters_in(Order::Lifo);
    }

    #[test]
    fn granted_waiter_is_not_overtaken() {
        let guard = EndpointGuard::new("hand-off");
        let permit = guard.try_acquire().unwrap();
        let mut first = task::spawn(guard.acquire());
        assert_pending!(first.poll());
        drop(permit);
        assert_eq!(guard.stats().held, 1, "the permit is granted to the first waiter and never free");
        assert!(is_busy(&guard.try_acquire().unwrap_err()));
        let mut second = task::spawn(guard.acquire());
        assert_pending!(second.poll());
        drop(assert_ready_ok!(first.poll()));
        drop(assert_ready_ok!(second.poll()));
        assert_idle(&guard);
    }

    #[test]
    fn caller_is_enqueued_by_its_first_poll() {
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
    fn waiter_polled_by_hand_can_move_between_threads() {
        let guard = Arc::new(EndpointGuard::new("by hand"));
        let permit = Arc::clone(&guard).try_acquire_owned().unwrap();
        let mut caller = Arc::clone(&guard).acquire_owned();
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

    #[test]
    fn all_65_535_permits_can_be_held_at_once() {
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

    struct Occupancy {
        now: AtomicUsize,
        most: AtomicUsize,
        entries: AtomicUsize,
    }

    impl Occupancy {
        fn enter(&self, permits: usize) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(now <= permits, "{now} callers occupancy, but only {permits} permits");
            self.most.fetch_max(now, Ordering::SeqCst);
        }

        fn exit(&self) {
            self.now.fetch_sub(1, Ordering::SeqCst);
            self.entries.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Uses one guard from tasks that wait, tasks that are cancelled at a random point, and threads that block.
    fn storm(permits: usize, order: Order) {
        const TASKS: u64 = 32;
        const THREADS: u64 = 3;
        const ROUNDS: usize = 60;

        let guard = Arc::new(EndpointGuard::builder("storm").permits(permits).order(order).build());
        let occupancy = Arc::new(Occupancy { now: 0.into(), most: 0.into(), entries: 0.into() });
        let runtime = two_workers();
        let tasks = (0..TASKS).map(|seed| {
            let (guard, occupancy) = (Arc::clone(&guard), Arc::clone(&occupancy));
            runtime.spawn(async move {
                let mut random = Random(seed + 1);
                for _ in 0..ROUNDS {
                    let mut acquire = Some(Arc::clone(&guard).acquire_owned());
                    let mut polls_left = random.below(2 * TASKS);
                    let permit = poll_fn(|cx| {
                        if polls_left == 0 {
                            acquire = None;
                        }
                        polls_left = polls_left.saturating_sub(1);
                        let Some(waiting) = &mut acquire else { return Poll::Ready(None) };
                        let poll = Pin::new(waiting).poll(cx);
                        // Polls again soon, so that `polls_left` can run out before a permit is granted.
                        cx.waker().wake_by_ref();
                        poll.map(|result| Some(result.unwrap()))
                    });
                    let Some(permit) = permit.await else { continue };
                    occupancy.enter(permits);
                    for _ in 0..random.below(4) {
                        yield_now().await;
                    }
                    occupancy.exit();
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
                        occupancy.enter(permits);
                        thread::yield_now();
                        occupancy.exit();
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
        assert_eq!(occupancy.most.load(Ordering::SeqCst), permits, "all permits were in use at some time");
        let stats = guard.stats();
        let entries = occupancy.entries.load(Ordering::SeqCst) as u64;
        assert!(entries >= THREADS * ROUNDS as u64, "{entries}");
        // A permit granted to a waiter that was then cancelled is granted a second time.
        assert!((entries..=entries + stats.cancelled).contains(&stats.granted), "{entries} entries: {stats:?}");
        assert!(stats.cancelled > 0, "no caller was cancelled: {stats:?}");
        assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.panicked), (0, 0, 0, 0));
    }

    #[test]
    fn storm_never_admits_more_than_one() {
        storm(1, Order::Fifo);
        storm(1, Order::Lifo);
    }

    #[test]
    fn storm_never_admits_more_than_two() {
        storm(2, Order::Fifo);
    }

    #[test]
    fn storm_never_admits_more_than_five() {
        storm(5, Order::Fifo);
    }
}

mod queue_bound {
    use super::*;

    #[test]
    fn concurrent_callers_fill_the_queue_to_its_bound_and_the_rest_are_refused() {
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

            // A cancelled waiter makes room for exactly one other.
            queued.pop();
            let mut late = [task::spawn(guard.acquire()), task::spawn(guard.acquire())];
            assert_pending!(late[0].poll());
            assert!(is_full(&assert_ready_err!(late[1].poll())));
            drop((permit, queued, late));
            assert_idle(&guard);
        }
    }

    #[test]
    fn blocking_callers_count_against_the_same_bound() {
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
            // One of the six threads takes the second place. The others return while the guard is still held.
            spin_until(|| outcomes.lock().unwrap().len() == 5);
            assert!(outcomes.lock().unwrap().iter().all(|outcome| is_full(outcome.as_ref().unwrap_err())));
            drop(permit);
            drop(assert_ready_ok!(caller.poll()));
        });
        assert_eq!(outcomes.into_inner().unwrap().last(), Some(&Ok(())));
        assert_idle(&guard);
    }

    #[test]
    fn guard_without_a_queue_refuses_with_busy() {
        let guard = EndpointGuard::builder("reject").queue(Queue::Reject).build();
        let permit = guard.try_acquire().unwrap();
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire()).poll())));
        assert!(is_busy(&assert_ready_err!(task::spawn(guard.run(ready(()))).poll())));
        assert!(is_busy(&guard.acquire_blocking().unwrap_err()));
        assert!(is_busy(&guard.try_acquire().unwrap_err()));
        assert_eq!(guard.stats().refused, 3, "a failed `try_acquire` is not a refused caller");
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
    async fn timeout_reports_how_long_the_caller_waited() {
        let guard = patient();
        let permit = guard.acquire().await.unwrap();
        let start = Instant::now();
        let error = guard.acquire().await.unwrap_err();
        let AcquireError::Timeout { waited, .. } = error else { panic!("{error:?}") };
        // tokio's timers have a resolution of one millisecond.
        let fine = Duration::from_millis(2);
        assert!((LIMIT..LIMIT + fine).contains(&waited), "{waited:?}");
        assert!((LIMIT..LIMIT + fine).contains(&start.elapsed()));
        let GuardStats { waiting, timed_out, cancelled, .. } = guard.stats();
        assert_eq!((waiting, timed_out, cancelled), (0, 1, 0));
        drop(permit);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_starts_at_the_first_poll() {
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
    async fn permit_granted_before_the_timeout_is_observed_wins() {
        let guard = patient();
        let permit = guard.acquire().await.unwrap();
        let mut caller = task::spawn(guard.acquire());
        assert_pending!(caller.poll());
        advance(2 * LIMIT).await;
        assert!(caller.is_woken(), "the timer fired");
        drop(permit);
        drop(assert_ready_ok!(caller.poll()));
        assert_eq!(guard.stats().timed_out, 0);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn timed_out_waiter_takes_no_permit() {
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
    fn free_guard_needs_no_timer() {
        let guard = patient();
        let permit = assert_ready_ok!(task::spawn(guard.acquire()).poll());
        // A busy guard does. A caller that cannot start its timer does not stay in the queue.
        let mut caller = task::spawn(guard.acquire());
        assert!(catch_unwind(AssertUnwindSafe(|| caller.poll())).is_err());
        drop(caller);
        assert_eq!(guard.stats().waiting, 0);
        drop(permit);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn limit_beyond_the_range_of_the_clock_never_expires() {
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
    fn blocking_caller_times_out_too() {
        // Real time, because a parked thread has no other clock.
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
    fn thousand_waiters_are_refused_and_the_holders_finish() {
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
    async fn untaken_grant_does_not_prevent_draining() {
        let guard = EndpointGuard::builder("stalled").grant_timeout(SECOND).build();
        let permit = guard.try_acquire().unwrap();
        let mut stalled = task::spawn(guard.acquire());
        assert_pending!(stalled.poll());
        drop(permit);
        guard.close();
        timeout(10 * SECOND, guard.drained()).await.expect("the grant expires although no caller waits for the guard");
        assert_eq!(assert_ready_err!(stalled.poll()), AcquireError::GrantExpired);
        assert_idle(&guard);
    }

    #[test]
    fn waiters_at_close_count_as_refused() {
        let guard = EndpointGuard::new("closing");
        let _permit = guard.try_acquire().unwrap();
        let mut callers = [0; 3].map(|_| task::spawn(guard.acquire()));
        callers.iter_mut().for_each(|caller| assert_pending!(caller.poll()));
        guard.close();
        callers.iter_mut().for_each(|caller| assert!(assert_ready!(caller.poll()).is_err()));
        assert_eq!((guard.stats().queued, guard.stats().refused), (3, 3));
    }

    #[test]
    fn panicking_waker_does_not_keep_other_waiters_asleep() {
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
    fn closing_twice_has_no_further_effect() {
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
    fn later_callers_are_refused_even_if_the_guard_is_free() {
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
    fn acquiring_again_inside_a_closed_guard_fails_with_closed() {
        let guard = EndpointGuard::new("closed");
        let mut run = task::spawn(guard.run(async {
            guard.close();
            guard.acquire().await.map(drop)
        }));
        assert_eq!(assert_ready_ok!(run.poll()), Err(AcquireError::Closed));
    }

    #[test]
    fn open_guard_with_no_holder_is_not_drained() {
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
    fn permit_granted_before_close_can_still_be_taken() {
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
    fn dropping_the_last_untaken_grant_drains_the_guard() {
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

    /// Polls once and returns the panic, if any. The future is kept, as by a `catch_unwind` around it.
    fn poll_caught<F: Future>(future: Pin<&mut F>) -> thread::Result<Poll<F::Output>> {
        catch_unwind(AssertUnwindSafe(|| future.poll(&mut Context::from_waker(Waker::noop()))))
    }

    #[test]
    fn panic_in_run_releases_the_permit_while_the_future_is_kept() {
        let guard = EndpointGuard::new("panic");
        let mut run = pin!(guard.run(async { panic!("in the work") }));
        assert!(poll_caught(run.as_mut()).is_err());
        assert_idle(&guard);
        assert_eq!(guard.stats().panicked, 1);
        drop(guard.try_acquire().unwrap());
        // The thread no longer counts as inside the guard: a caller that finds the guard full waits.
        let _permit = guard.try_acquire().unwrap();
        assert_pending!(task::spawn(guard.acquire()).poll());
    }

    #[test]
    fn panic_in_run_to_completion_releases_the_permit_while_the_future_is_kept() {
        let guard = leaked(EndpointGuard::new("panic"));
        let mut run = pin!(guard.run_to_completion(async { panic!("in the work") }));
        assert!(poll_caught(run.as_mut()).is_err());
        assert_idle(guard);
        assert_eq!(guard.stats().panicked, 1);
    }

    #[test]
    fn panic_on_another_thread_passes_the_permit_to_the_next_waiter() {
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
    async fn panic_in_a_task_passes_the_permit_to_the_next_waiter() {
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
    fn waiter_enqueued_outside_and_awaited_inside_is_refused_and_cancelled() {
        let guard = EndpointGuard::new("nested");
        let permit = guard.try_acquire().unwrap();
        let queued = Mutex::new(None);
        let mut run = task::spawn(guard.run(async {
            let acquire: onelane::Acquire<'_> = queued.lock().unwrap().take().expect("the waiter is enqueued by now");
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
            // The run is recognized after it yielded, too.
            yield_now().await;
            guard.run_to_completion(async {}).await
        });
        assert_eq!(in_time(nested).await, Ok(Err(AcquireError::WouldDeadlock)));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn acquiring_again_in_a_detached_run_is_refused() {
        let guard = leaked(EndpointGuard::new("nested"));
        let (sender, outcome) = oneshot::channel();
        let mut run = task::spawn(guard.run_to_completion(async {
            yield_now().await;
            sender.send(guard.acquire().await.map(drop)).unwrap();
        }));
        assert_pending!(run.poll());
        drop(run);
        assert_eq!(in_time(outcome).await, Ok(Err(AcquireError::WouldDeadlock)));
    }

    #[test]
    fn blocking_inside_run_is_refused_on_a_thread_without_a_runtime() {
        let guard = EndpointGuard::new("nested");
        let nested = futures::executor::block_on(guard.run(async { guard.acquire_blocking().map(drop) }));
        assert_eq!(nested, Ok(Err(AcquireError::WouldDeadlock)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_branches_of_one_task_run_one_after_the_other() {
        let guard = EndpointGuard::new("joined");
        let work = || async {
            assert_eq!(guard.stats().held, 1);
            yield_now().await;
        };
        let both = in_time(async { tokio::join!(guard.run(work()), guard.run(work())) });
        assert_eq!(both.await, (Ok(()), Ok(())));
        let acquire = || async {
            let permit = guard.acquire().await?;
            yield_now().await;
            drop(permit);
            Ok::<_, AcquireError>(())
        };
        let all = in_time(async { tokio::join!(acquire(), guard.run(work()), acquire()) });
        assert_eq!(all.await, (Ok(()), Ok(()), Ok(())));
        assert_eq!(guard.stats().granted, 5);
        assert_idle(&guard);
    }

    #[test]
    fn free_permit_can_be_acquired_inside() {
        let guard = EndpointGuard::builder("two").permits(2).build();
        let mut run = task::spawn(
            guard.run(async { guard.run(async { (guard.stats().held, guard.acquire().await.map(drop)) }).await }),
        );
        assert_eq!(assert_ready_ok!(run.poll()), Ok((2, Err(AcquireError::WouldDeadlock))));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn task_spawned_inside_waits_like_any_other_caller() {
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
    fn acquiring_another_full_guard_inside_waits() {
        let (outer, inner) = (EndpointGuard::new("outer"), EndpointGuard::new("inner"));
        let permit = inner.try_acquire().unwrap();
        let mut run = task::spawn(outer.run(async { inner.run(async {}).await }));
        assert_pending!(run.poll());
        drop(permit);
        assert_eq!(assert_ready_ok!(run.poll()), Ok(()));
    }

    #[test]
    fn another_guard_can_be_acquired_inside_but_the_outer_one_not_again() {
        let outer = EndpointGuard::new("outer");
        let inner = EndpointGuard::new("inner");
        let mut run = task::spawn(outer.run(async {
            let nested = inner.run(async { outer.acquire().await.map(drop) }).await;
            (nested, outer.acquire().await.map(drop), inner.acquire().await.map(drop))
        }));
        let refused = Err(AcquireError::WouldDeadlock);
        assert_eq!(assert_ready_ok!(run.poll()), (Ok(refused.clone()), refused, Ok(())));
        // This thread held neither guard outside that poll.
        let _permit = outer.try_acquire().unwrap();
        assert_pending!(task::spawn(outer.acquire()).poll());
    }
}

/// A future waits for the guard, and its owner stops polling it while it waits for the same guard elsewhere. This deadlock
/// is described in Oxide's RFD 609.
mod futurelock {
    use super::*;

    /// The program from the RFD. Returns the output of the stalled future, which is polled again at the end.
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
    async fn hangs_without_a_grant_timeout() {
        let guard = Arc::new(EndpointGuard::new("futurelock"));
        assert!(timeout(1_000 * SECOND, program(&guard)).await.is_err());
        assert_idle(&guard);
    }

    /// Returns a waiter that was granted a permit and is no longer polled.
    async fn stalled(guard: &EndpointGuard) -> task::Spawn<onelane::Acquire<'_>> {
        let permit = guard.acquire().await.unwrap();
        let mut stalled = task::spawn(guard.acquire());
        assert_pending!(stalled.poll());
        drop(permit);
        stalled
    }

    #[test]
    fn blocking_waiter_leaves_the_queue_if_revoking_a_grant_panics() {
        // Real time, because a parked thread has no other clock.
        let limit = Duration::from_millis(20);
        let guard = leaked(EndpointGuard::builder("panics").grant_timeout(limit).order(Order::Lifo).build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let permit = guard.try_acquire().unwrap();
        let mut stalled = task::spawn(guard.acquire());
        assert_pending!(stalled.poll());
        drop(permit);
        let blocking = thread::spawn(|| guard.acquire_blocking().map(drop));
        spin_until(|| guard.stats().waiting == 1);
        // The thread revokes the grant. The permit then goes to the newest waiter, whose waker panics.
        let panics = Waker::from(Arc::new(PanicsWhenWoken));
        let mut next = guard.acquire();
        assert!(Pin::new(&mut next).poll(&mut Context::from_waker(&panics)).is_pending());
        assert!(blocking.join().is_err());
        drop((next, stalled));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_for_callers_whose_max_wait_equals_the_grant_timeout() {
        let guard = EndpointGuard::builder("impatient").grant_timeout(2 * SECOND).max_wait(2 * SECOND).build();
        let _left_alone = stalled(&guard).await;
        assert!(matches!(guard.acquire().await, Ok(_) | Err(AcquireError::Timeout { .. })));
        drop(guard.acquire().await.expect("two seconds have passed since the permit was granted"));
        assert_eq!(guard.stats().expired, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_for_callers_after_one_was_cancelled_before_the_grant_expired() {
        let guard = EndpointGuard::builder("cancelled").grant_timeout(2 * SECOND).build();
        let _left_alone = stalled(&guard).await;
        assert!(timeout(SECOND + SECOND / 2, guard.acquire()).await.is_err());
        let permit = timeout(SECOND, guard.acquire()).await.expect("half a second remained of the grant timeout");
        drop(permit.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_a_grant_timeout() {
        let guard = Arc::new(EndpointGuard::builder("futurelock").grant_timeout(SECOND).build());
        let start = Instant::now();
        assert_eq!(in_time(program(&guard)).await, Err(AcquireError::GrantExpired));
        // Five seconds for the background task, one for the grant that is not taken.
        let fine = Duration::from_millis(5);
        assert!((6 * SECOND..6 * SECOND + fine).contains(&start.elapsed()), "{:?}", start.elapsed());
        let GuardStats { expired, granted, queued, cancelled, .. } = guard.stats();
        assert_eq!((expired, granted, queued, cancelled), (1, 3, 2, 0));
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_all_waiters_are_stalled_and_the_queue_is_full() {
        let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).grant_timeout(SECOND).build();
        let permit = guard.try_acquire().unwrap();
        let mut granted = task::spawn(guard.acquire());
        assert_pending!(granted.poll());
        drop(permit);
        let mut queued = task::spawn(guard.acquire());
        assert_pending!(queued.poll());
        assert!(is_full(&guard.acquire().await.unwrap_err()), "the grant has not expired yet");
        advance(SECOND).await;
        // The new caller revokes the expired grant, waits behind the other waiter, and revokes that one's grant, too.
        drop(in_time(guard.acquire()).await.unwrap());
        assert_eq!(assert_ready_err!(granted.poll()), AcquireError::GrantExpired);
        assert_eq!(assert_ready_err!(queued.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 2);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_for_try_acquire() {
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
    async fn permit_taken_in_time_does_not_expire() {
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
        // A permit that was taken can be held for any time.
        advance(10 * SECOND).await;
        assert_pending!(second.poll());
        drop(permit);
        drop(assert_ready_ok!(second.poll()));
        assert_eq!(guard.stats().expired, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn grant_that_expires_after_close_drains_the_guard() {
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
    fn blocking_waiter_revokes_expired_grants_too() {
        // Real time, because a parked thread has no other clock.
        let guard = leaked(EndpointGuard::builder("blocking").grant_timeout(Duration::from_millis(20)).build());
        let permit = guard.try_acquire().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut stalled = task::spawn(guard.acquire());
        {
            let _entered = runtime.enter();
            assert_pending!(stalled.poll());
        }
        drop(permit);
        let blocking = thread::spawn(|| guard.acquire_blocking().map(drop));
        spin_until(|| blocking.is_finished());
        assert_eq!(blocking.join().unwrap(), Ok(()));
        assert_eq!(assert_ready_err!(stalled.poll()), AcquireError::GrantExpired);
        assert_eq!(guard.stats().expired, 1);
        assert_idle(guard);
    }
}

mod blocking {
    use super::*;

    #[test]
    fn threads_and_tasks_share_one_queue() {
        let guard = EndpointGuard::new("mixed");
        let permit = guard.try_acquire().unwrap();
        let mut first = task::spawn(guard.acquire());
        assert_pending!(first.poll());
        let (acquired, release) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                let permit = guard.acquire_blocking().unwrap();
                acquired.store(1, Ordering::SeqCst);
                spin_until(|| release.load(Ordering::SeqCst) == 1);
                drop(permit);
            });
            spin_until(|| guard.stats().waiting == 2);
            let mut third = task::spawn(guard.acquire());
            assert_pending!(third.poll());

            drop(permit);
            let permit = assert_ready_ok!(first.poll());
            assert_pending!(third.poll());
            assert_eq!(acquired.load(Ordering::SeqCst), 0);
            drop(permit);
            spin_until(|| acquired.load(Ordering::SeqCst) == 1);
            assert_pending!(third.poll());
            release.store(1, Ordering::SeqCst);
            spin_until(|| third.is_woken());
            drop(assert_ready_ok!(third.poll()));
        });
        assert_idle(&guard);
    }

    #[test]
    fn acquire_blocking_waits_where_blocking_is_allowed() {
        let guard = leaked(EndpointGuard::new("allowed"));
        let runtime = two_workers();
        let acquire = move || guard.acquire_blocking().map(drop);
        let outcomes = runtime.block_on(async {
            let on_pool = spawn_blocking(acquire).await.unwrap();
            let on_worker = tokio::spawn(async move { block_in_place(acquire) }).await.unwrap();
            let in_block_on = block_in_place(acquire);
            [on_pool, on_worker, in_block_on]
        });
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
        let _entered = runtime.enter();
        assert_eq!(acquire(), Ok(()), "a thread that has only entered a runtime runs none of its tasks");
    }

    #[test]
    fn acquire_blocking_on_the_blocking_pool_waits_for_a_task() {
        let guard = leaked(EndpointGuard::new("pool"));
        two_workers().block_on(async {
            let permit = guard.acquire().await.unwrap();
            let blocked = spawn_blocking(|| guard.acquire_blocking().map(drop));
            // The other thread needs real time to reach the queue.
            let is_queued = spawn_blocking(|| spin_until(|| guard.stats().waiting == 1));
            is_queued.await.unwrap();
            drop(permit);
            assert_eq!(blocked.await.unwrap(), Ok(()));
        });
        assert_idle(guard);
    }

    #[test]
    fn acquire_blocking_on_a_thread_that_runs_tasks_is_refused_even_if_the_guard_is_free() {
        let guard = leaked(EndpointGuard::new("refused"));
        let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let multi = two_workers();
        let mut held = None;
        for _round in ["free", "held"] {
            for runtime in [&current, &multi] {
                let acquire = || async { guard.acquire_blocking().map(drop) };
                let refused = Err(AcquireError::BlockingInAsync);
                assert_eq!(runtime.block_on(acquire()), refused);
                assert_eq!(runtime.block_on(async { tokio::spawn(acquire()).await.unwrap() }), refused);
                let local = async { LocalSet::new().run_until(async { acquire().await }).await };
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
    async fn refused_acquire_blocking_spends_no_coop_budget() {
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
async fn acquiring_a_free_guard_in_a_loop_yields_to_other_tasks() {
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
    fn detached_run_dropped_with_its_runtime_counts_as_cut_off() {
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
    async fn caller_cancelled_while_it_waits_starts_nothing() {
        let guard = leaked(EndpointGuard::new("waiting"));
        let permit = guard.acquire().await.unwrap();
        let mut run = task::spawn(guard.run_to_completion(async { panic!("the work never starts") }));
        assert_pending!(run.poll());
        drop(run);
        drop(permit);
        yield_now().await;
        let GuardStats { cancelled, panicked, finished_detached, .. } = guard.stats();
        assert_eq!((cancelled, panicked, finished_detached), (1, 0, 0));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn caller_cancelled_before_it_takes_its_grant_starts_nothing() {
        let guard = leaked(EndpointGuard::new("granted"));
        let permit = guard.acquire().await.unwrap();
        let mut run = task::spawn(guard.run_to_completion(async { panic!("the work never starts") }));
        assert_pending!(run.poll());
        drop(permit);
        drop(run);
        assert_idle(guard);
        assert_eq!(guard.stats().finished_detached, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn detached_work_holds_the_permit_until_it_ends() {
        let guard = Arc::new(EndpointGuard::new("running"));
        let (finish, finished) = oneshot::channel::<()>();
        let mut run = task::spawn(Arc::clone(&guard).run_to_completion_owned(async move { finished.await.unwrap() }));
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
        finish.send(()).unwrap();
        in_time(guard.drained()).await;
        assert_ready!(drained.poll());
        assert_eq!(guard.stats().finished_detached, 1);
        assert_idle(&guard);
    }

    #[tokio::test(start_paused = true)]
    async fn next_caller_is_admitted_after_detached_work_has_ended() {
        let guard = leaked(EndpointGuard::new("next"));
        let (finish, finished) = oneshot::channel::<()>();
        let result = Arc::new(AtomicUsize::new(0));
        let caller = tokio::spawn(guard.run_to_completion({
            let result = Arc::clone(&result);
            async move {
                finished.await.unwrap();
                result.store(1, Ordering::SeqCst);
            }
        }));
        yield_now().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        let mut next = task::spawn(guard.run(async { result.load(Ordering::SeqCst) }));
        assert_pending!(next.poll());
        finish.send(()).unwrap();
        eventually(|| next.is_woken()).await;
        assert_eq!(assert_ready_ok!(next.poll()), 1);
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn panic_in_a_detached_run_is_counted_and_releases_the_permit() {
        let guard = leaked(EndpointGuard::new("panic"));
        let mut run = task::spawn(guard.run_to_completion(async {
            yield_now().await;
            panic!("in the detached run");
        }));
        assert_pending!(run.poll());
        drop(run);
        drop(in_time(guard.acquire()).await.unwrap());
        yield_now().await;
        assert_eq!((guard.stats().panicked, guard.stats().finished_detached), (1, 0));
        assert_idle(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn caller_that_stays_gets_the_output_and_nothing_is_detached() {
        let guard = leaked(EndpointGuard::new("stays"));
        assert_eq!(guard.run_to_completion(async { yield_now().await }).await, Ok(()));
        assert_eq!(guard.run_to_completion(ready(7)).await, Ok(7));
        assert_eq!(guard.stats().finished_detached, 0);
        assert_idle(guard);
    }

    #[test]
    fn run_dropped_outside_a_runtime_is_cancelled() {
        let guard = leaked(EndpointGuard::new("no runtime"));
        let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
        assert_pending!(run.poll());
        drop(run);
        assert_idle(guard);
        assert_eq!(guard.stats().finished_detached, 0);
    }

    #[test]
    fn runtime_shutdown_releases_the_permit() {
        let guard = leaked(EndpointGuard::new("runtime ends"));
        for runtime in [two_workers(), tokio::runtime::Builder::new_current_thread().build().unwrap()] {
            runtime.block_on(async {
                // This run is detached when the runtime shuts down. The next one is dropped together with its caller.
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

/// The work and its output are dropped before the permit is released, so that no other caller runs meanwhile.
mod drop_order {
    use super::*;

    thread_local! {
        static HELD_AT_DROP: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// Records how many permits are held when it is dropped.
    #[derive(Debug)]
    struct RecordsHeld(&'static EndpointGuard);

    impl Drop for RecordsHeld {
        fn drop(&mut self) {
            HELD_AT_DROP.set(Some(self.0.stats().held));
        }
    }

    /// Keeps its state after it has completed, as a future written by hand may.
    struct ByHand(#[expect(dead_code, reason = "kept for its drop")] RecordsHeld, Poll<()>);

    impl Future for ByHand {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            self.1
        }
    }

    fn fresh() -> &'static EndpointGuard {
        HELD_AT_DROP.set(None);
        leaked(EndpointGuard::new("drop order"))
    }

    fn assert_dropped_while_held(guard: &EndpointGuard) {
        assert_eq!(HELD_AT_DROP.get(), Some(1));
        assert_idle(guard);
    }

    #[test]
    fn cancelled_work_is_dropped_before_the_permit_is_released() {
        let guard = fresh();
        let mut run = task::spawn(guard.run(ByHand(RecordsHeld(guard), Poll::Pending)));
        assert_pending!(run.poll());
        drop(run);
        assert_dropped_while_held(guard);

        let guard = fresh();
        let mut run = task::spawn(guard.run_to_completion(ByHand(RecordsHeld(guard), Poll::Pending)));
        assert_pending!(run.poll());
        drop(run);
        assert_dropped_while_held(guard);
    }

    #[test]
    fn finished_work_is_dropped_before_the_permit_is_released() {
        let guard = fresh();
        let mut run = task::spawn(guard.run(ByHand(RecordsHeld(guard), Poll::Ready(()))));
        assert_ready_ok!(run.poll());
        assert_dropped_while_held(guard);

        let guard = fresh();
        let mut run = task::spawn(guard.run_to_completion(ByHand(RecordsHeld(guard), Poll::Ready(()))));
        assert_ready_ok!(run.poll());
        assert_dropped_while_held(guard);
    }

    #[test]
    fn panicking_work_is_dropped_before_the_permit_is_released() {
        let guard = fresh();
        let records = RecordsHeld(guard);
        let mut run = task::spawn(guard.run(async move {
            let _records = records;
            panic!("in the work");
        }));
        assert!(catch_unwind(AssertUnwindSafe(|| run.poll())).is_err());
        assert_dropped_while_held(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn output_of_a_detached_run_is_dropped_before_the_permit_is_released() {
        let guard = fresh();
        let mut run = task::spawn(guard.run_to_completion(async {
            yield_now().await;
            RecordsHeld(guard)
        }));
        assert_pending!(run.poll());
        drop(run);
        // No caller waits for the permit: otherwise it would be held again at once.
        eventually(|| guard.stats().held == 0).await;
        assert_dropped_while_held(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn each_counter_counts_only_its_own_event() {
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
    assert_eq!(counters(), [1, 0, 0, 0, 0, 0, 0, 0], "a permit acquired at once");
    assert!(guard.try_acquire().is_err());
    assert_eq!(counters(), [1, 0, 0, 0, 0, 0, 0, 0], "a `try_acquire` that finds the guard busy");
    let mut first = task::spawn(guard.acquire());
    let mut second = task::spawn(guard.acquire());
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(counters(), [1, 2, 0, 0, 0, 0, 0, 0], "two waiters");
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [1, 2, 1, 0, 0, 0, 0, 0], "a caller that finds the queue full");
    drop(second);
    assert_eq!(counters(), [1, 2, 1, 0, 1, 0, 0, 0], "a waiter that is cancelled");
    drop(permit);
    assert_eq!(counters(), [2, 2, 1, 0, 1, 0, 0, 0], "a permit granted to a waiter");
    drop(first);
    assert_eq!(counters(), [2, 2, 1, 0, 2, 0, 0, 0], "a granted waiter that is cancelled");

    let permit = guard.acquire().await.unwrap();
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [3, 3, 1, 1, 2, 0, 0, 0], "a waiter that times out");
    let mut late = task::spawn(guard.acquire());
    assert_pending!(late.poll());
    drop(permit);
    advance(SECOND).await;
    drop(guard.try_acquire().unwrap());
    assert_eq!(counters(), [5, 4, 1, 1, 2, 1, 0, 0], "a grant that expires, and its permit acquired by another caller");
    assert_ready_err!(late.poll());
    drop(late);
    assert_eq!(counters(), [5, 4, 1, 1, 2, 1, 0, 0], "reporting the expiry to the waiter counts nothing");

    assert!(tokio::spawn(guard.run(async { panic!("counted") })).await.is_err());
    assert_eq!(counters(), [6, 4, 1, 1, 2, 1, 1, 0], "a panic in a run");
    guard.run(async { guard.acquire().await.unwrap_err() }).await.unwrap();
    assert_eq!(counters(), [7, 4, 2, 1, 2, 1, 1, 0], "a caller that would wait for itself");
    assert!(guard.acquire_blocking().is_err());
    assert_eq!(counters(), [7, 4, 3, 1, 2, 1, 1, 0], "a caller that would block an async thread");

    let mut run = task::spawn(guard.run_to_completion(yield_now()));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!(guard.stats().detached, 1);
    assert_eq!(counters(), [8, 4, 3, 1, 2, 1, 1, 0], "a run that is detached");
    guard.acquire().await.map(drop).unwrap();
    assert_eq!(counters(), [9, 5, 3, 1, 2, 1, 1, 1], "the detached run finishes");

    guard.close();
    assert!(guard.acquire().await.is_err());
    assert_eq!(counters(), [9, 5, 4, 1, 2, 1, 1, 1], "a caller after close");
    assert_eq!(guard.stats().overrun, 0);
    assert_idle(guard);
}

mod retry_after {
    use super::*;

    const HOLD: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn is_the_mean_hold_times_the_callers_ahead_divided_by_the_permits() {
        for permits in [1, 2, 5] {
            let guard = EndpointGuard::builder("measured").permits(permits).queue(Queue::Bounded(3)).build();
            let mut held = Vec::new();
            for _ in 0..permits {
                held.push(guard.try_acquire().unwrap());
            }
            let error = guard.try_acquire().unwrap_err();
            assert_eq!((error.retry_after(), guard.stats().mean_hold), (None, None), "no hold was measured yet");
            for _ in 0..3 {
                held.clear();
                for _ in 0..permits {
                    held.push(guard.try_acquire().unwrap());
                }
                assert!(guard.try_acquire().is_err(), "a refusal makes the next hold be measured");
                advance(HOLD).await;
            }
            assert_eq!(guard.stats().mean_hold, Some(HOLD));

            let per_permit = HOLD / u32::try_from(permits).unwrap();
            assert_eq!(guard.try_acquire().unwrap_err().retry_after(), Some(per_permit));
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
    async fn follows_holds_that_change() {
        let guard = EndpointGuard::new("changing");
        for hold in [HOLD, 5 * HOLD] {
            let first = guard.try_acquire().unwrap();
            assert!(guard.try_acquire().is_err());
            drop(first);
            let _timed = guard.try_acquire().unwrap();
            advance(hold).await;
        }
        // The mean moves a quarter of the way to the new sample.
        assert_eq!(guard.stats().mean_hold, Some(2 * HOLD));
    }

    #[tokio::test(start_paused = true)]
    async fn is_reported_with_a_timeout_too() {
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
        assert_eq!(error.retry_after(), Some(2 * HOLD), "one waiter is still ahead");
    }

    #[test]
    fn is_none_where_a_retry_does_not_help() {
        use AcquireError::{BlockingInAsync, Closed, GrantExpired, WouldDeadlock};
        for error in [BlockingInAsync, Closed, GrantExpired, WouldDeadlock] {
            assert_eq!(error.retry_after(), None);
        }
    }
}

mod builder {
    use super::*;

    #[test]
    fn out_of_range_settings_panic_with_advice() {
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
    fn limits_of_the_ranges_are_accepted_in_a_static() {
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
    fn new_equals_a_builder_with_default_settings() {
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
