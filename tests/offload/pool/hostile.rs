//! What goes wrong around a pool: no threads, wakers and destructors that panic, runtimes with one blocking thread.

use std::num::NonZero;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::poll;
use onelane::offload::{CapacityLimiter, from_thread};
use onelane::{BlockingPool, CpuPool, OffloadError};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until};
use tracing::Subscriber;
use tracing_subscriber::layer::{self, Layer, SubscriberExt};

use support::waiting::{Gate, MS, PATIENCE, soon, until};

fn one_blocking_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap()
}

#[test]
fn runtime_that_can_start_no_thread_is_told_each_time_and_nothing_is_lost() {
    // No machine has memory for such a stack.
    let runtime = Builder::new_current_thread().enable_all().thread_stack_size(1 << 46).build().unwrap();
    let pool = BlockingPool::new("no threads");
    for _ in 0..3 {
        let result = runtime.block_on(soon("it is told", pool.run(|| ())));
        assert_eq!(result, Err(OffloadError::NoThread));
    }
    assert_eq!((pool.statistics().queued, pool.limiter().statistics().borrowed), (0, 0));
    let other = Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(other.block_on(pool.run(|| 7)), Ok(7));
}

#[tokio::test]
async fn waker_that_panics_as_it_is_given_a_token_takes_no_thread_with_it() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("a waker");
        }
    }

    let pool = BlockingPool::builder("one").max_running(1).build();
    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    let mut waits = Box::pin(Arc::clone(pool.limiter()).acquire_owned());
    assert!(waits.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(Bomb)))).is_pending());
    gate.open();
    for handle in running {
        assert_eq!(soon("its result comes", handle).await, Ok(()));
    }
    drop(waits);
    assert_eq!(soon("the next one runs", pool.run(|| 7)).await, Ok(7));
}

/// Others who need the one blocking thread have it, too, while `busy` keeps the pool at work.
fn others_have_their_turn(pool: &BlockingPool, callers: usize) {
    let runtime = one_blocking_thread();
    let is_over = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let busy: Vec<_> = (0..callers)
            .map(|_| {
                let (pool, is_over) = (pool.clone(), is_over.clone());
                tokio::spawn(async move {
                    while !is_over.load(Ordering::Relaxed) {
                        pool.run(|| ()).await.unwrap();
                    }
                })
            })
            .collect();
        let start = Instant::now();
        for _ in 0..20 {
            soon("another one has its turn", spawn_blocking(|| ())).await.unwrap();
        }
        // Each waits for a shift, which is 10 ms.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        is_over.store(true, Ordering::Relaxed);
        for task in busy {
            soon("all end", task).await.unwrap();
        }
    });
}

#[test]
fn one_caller_after_the_other_leaves_the_thread_to_others_from_time_to_time() {
    others_have_their_turn(&BlockingPool::new("sequential"), 1);
}

#[test]
fn full_pool_leaves_the_thread_to_others_from_time_to_time() {
    others_have_their_turn(&BlockingPool::builder("one").max_running(1).build(), 2);
}

#[test]
fn busy_pool_leaves_the_thread_to_others_from_time_to_time() {
    others_have_their_turn(&BlockingPool::new("busy"), 4);
}

#[test]
fn worker_that_waits_for_the_only_thread_keeps_nobody_waiting() {
    let (runtime, pool) = (one_blocking_thread(), BlockingPool::new("pairs"));
    runtime.block_on(async {
        let start = Instant::now();
        for _ in 0..200 {
            let (left, right) = soon("both run", async { tokio::join!(pool.run(|| 1), pool.run(|| 2)) }).await;
            assert_eq!((left, right), (Ok(1), Ok(2)));
        }
        // If each waited until an idle worker goes, it would be 4 s.
        assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    });
}

#[tokio::test]
async fn task_of_a_pool_that_is_dropped_while_it_waits_for_a_token_runs_when_that_comes() {
    let limiter = Arc::new(CapacityLimiter::new(0));
    let pool = BlockingPool::builder("dropped").limiter(limiter.clone()).build();
    let ran = Arc::new(AtomicUsize::new(0));
    let there = ran.clone();
    drop(pool.task(move |_| there.fetch_add(1, Ordering::SeqCst)).shield().start().unwrap());
    drop(pool);
    assert_eq!(Arc::strong_count(&ran), 2, "it waits");
    limiter.set_total(1);
    until("it has run", || ran.load(Ordering::SeqCst) == 1).await;
    until("nothing is left", || limiter.statistics().borrowed == 0 && Arc::strong_count(&limiter) == 1).await;
}

#[tokio::test]
async fn nobody_is_left_in_the_line_when_all_who_waited_have_left() {
    let limiter = Arc::new(CapacityLimiter::new(0));
    let pool = BlockingPool::builder("left").limiter(limiter.clone()).build();
    let waits = pool.task(|_| ()).start().unwrap();
    assert_eq!(limiter.statistics().waiting, 1);
    drop(waits);
    assert_eq!(limiter.statistics().waiting, 0);
    drop(pool);
    assert_eq!(Arc::strong_count(&limiter), 1);
}

#[tokio::test]
async fn pools_that_share_a_limiter_do_not_wait_for_each_other() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (outer, inner) = (pool("outer"), pool("inner"));
    let value = outer.run(move || Handle::current().block_on(inner.run(|| 7)));
    assert_eq!(soon("both run", value).await, Ok(Ok(7)));
}

#[test]
fn bound_of_the_queue_is_that_of_the_pool_whatever_the_number_of_runtimes() {
    let pool = BlockingPool::builder("bounded").max_running(1).max_queued(3).build();
    pool.limiter().set_total(0);
    let runtimes: Vec<Runtime> = (0..4).map(|_| one_blocking_thread()).collect();
    let mut waiting = Vec::new();
    for runtime in runtimes.iter().cycle().take(20) {
        let _entered = runtime.enter();
        waiting.extend(pool.task(|_| ()).start());
    }
    assert_eq!((waiting.len(), pool.statistics().queued, pool.statistics().refused), (3, 3, 17));
    drop(waiting);
    let _entered = runtimes[0].enter();
    assert!(pool.task(|_| ()).start().is_ok(), "there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_come_one_after_the_other_are_never_refused_where_there_is_room_for_them() {
    let pools = [0, 1].map(|queued| BlockingPool::builder("room").max_running(2 - queued).max_queued(queued).build());
    let cpu = CpuPool::builder("room").threads(NonZero::new(2).unwrap()).max_queued(0).build().unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (pools, cpu) = (pools.clone(), cpu.clone());
        callers.spawn(async move {
            for _ in 0..5_000 {
                for pool in &pools {
                    soon("it runs", pool.run(|| ())).await.unwrap();
                }
                soon("it runs", cpu.run(|| ())).await.unwrap();
            }
        });
    }
    // Each of their calls is guarded: all of them together take long on a busy machine.
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go_from_pool_to_pool_of_a_limiter_are_never_refused_where_a_token_is_free() {
    let first = CpuPool::builder("first").threads(NonZero::new(1).unwrap()).build().unwrap();
    let second = CpuPool::builder("second").share_threads(&first).max_queued(0).build().unwrap();
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).max_queued(0).build();
    let (third, fourth) = (pool("third"), pool("fourth"));
    for _ in 0..2_000 {
        soon("it runs", first.run(|| ())).await.unwrap();
        drop(first.limiter().try_acquire().unwrap());
        soon("it runs", second.run(|| ())).await.unwrap();
        soon("it runs", third.run(|| ())).await.unwrap();
        drop(limiter.try_acquire().unwrap());
        soon("it runs", fourth.run(|| ())).await.unwrap();
    }
}

#[test]
fn caller_that_looks_before_it_is_woken_is_not_refused_either() {
    let runtime = one_blocking_thread();
    let _entered = runtime.enter();
    let pool = BlockingPool::builder("strict").max_running(1).max_queued(0).build();
    for _ in 0..20_000 {
        let (mut task, begun) = (pin!(pool.run(|| ())), Instant::now());
        let result = loop {
            assert!(begun.elapsed() < PATIENCE, "it hangs");
            if let Poll::Ready(result) = task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                break result;
            }
        };
        assert_eq!(result, Ok(()));
    }
}

#[tokio::test]
async fn closed_limiter_is_told_also_where_none_may_wait() {
    let pool = BlockingPool::builder("strict").max_running(1).max_queued(0).build();
    pool.limiter().close();
    assert_eq!(pool.run(|| ()).await, Err(OffloadError::Closed));
}

#[tokio::test]
async fn task_that_is_too_late_never_ran_however_long_it_takes_to_drop() {
    struct Slow;
    impl Drop for Slow {
        fn drop(&mut self) {
            // Real: its caller looks meanwhile.
            thread::sleep(MS * 100);
        }
    }

    let pool = BlockingPool::builder("one").max_running(1).build();
    for _ in 0..3 {
        let (gate, slow) = (Gate::default(), Slow);
        let running = gate.fill(&pool, 1).await;
        let deadline = tokio::time::Instant::now() + MS * 5;
        let late = pool.task(move |_| drop(slow)).deadline(deadline).start().unwrap();
        // Not polled, it is taken out of the queue by its thread. Real: that one is blocked, and holds a paused clock.
        sleep_until(deadline).await;
        gate.open();
        until("its thread has it", || pool.statistics().queued == 0).await;
        let result = soon("it is told", late).await;
        assert!(matches!(result, Err(OffloadError::Timeout { still_running: false, .. })), "{result:?}");
        drop(running);
    }
}

#[tokio::test]
async fn queue_timeout_holds_though_nobody_looks() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    let late = pool.task(|_| panic!("it runs")).queue_timeout(MS * 5).start().unwrap();
    // Real: the thread that is blocked holds a paused clock.
    sleep(MS * 10).await;
    gate.open();
    until("its thread has it", || pool.statistics().queued == 0).await;
    let result: Result<(), OffloadError> = soon("it is told", late).await;
    drop(running);
    assert!(matches!(result, Err(OffloadError::QueueTimeout { .. })), "{result:?}");
}

#[test]
fn limits_of_time_without_a_runtime_are_refused() {
    let pool = CpuPool::new("no clock").unwrap();
    let result = futures::executor::block_on(pool.task(|_| ()).timeout(PATIENCE).into_future());
    assert_eq!(result, Err(OffloadError::NoRuntime));
    assert_eq!(futures::executor::block_on(pool.task(|_| 7).into_future()), Ok(7));
}

#[tokio::test]
async fn subscriber_that_panics_where_a_span_ends_takes_neither_thread_nor_token() {
    struct Closes;
    impl<S: Subscriber> Layer<S> for Closes {
        fn on_close(&self, _: tracing::Id, _: layer::Context<'_, S>) {
            assert!(
                thread::current().name() == Some("closes-0") || thread::panicking(),
                "only on a thread of the pool"
            );
            panic!("a span ends");
        }
    }

    let cpu = CpuPool::builder("closes").threads(NonZero::new(1).unwrap()).build().unwrap();
    let subscriber = tracing_subscriber::registry().with(Closes);
    let left = tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request");
        // The task is the last one that has it.
        span.in_scope(|| cpu.task(|_| thread::sleep(MS)).shield().start().unwrap())
    });
    drop(left);
    assert_eq!(soon("the next one runs", cpu.run(|| 7)).await, Ok(7));
    until("its token is back", || cpu.limiter().statistics().borrowed == 0).await;
}

#[test]
fn pool_that_was_closed_takes_nothing_also_if_it_is_used_for_the_first_time_meanwhile() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for _ in 0..10_000 {
        let pool = BlockingPool::new("closed");
        thread::scope(|scope| {
            scope.spawn(|| {
                let _entered = runtime.enter();
                drop(pool.task(|_| ()).start());
            });
            pool.close();
            let _entered = runtime.enter();
            for _ in 0..30 {
                assert_eq!(pool.task(|_| ()).start().err(), Some(OffloadError::Closed));
            }
        });
        runtime.block_on(soon("it is drained", pool.drained()));
    }
}

#[tokio::test]
async fn waker_that_panics_at_the_end_of_a_pool_takes_neither_thread_nor_result() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("a waker");
        }
    }

    let (pool, gate) = (BlockingPool::new("ends"), Gate::default());
    let running = gate.fill(&pool, 1).await.remove(0);
    let mut drained = pin!(pool.drained());
    assert!(drained.as_mut().poll(&mut Context::from_waker(&Arc::new(Bomb).into())).is_pending());
    pool.close();
    gate.open();
    assert_eq!(soon("it is told", running).await, Ok(()));
    soon("it is drained", pool.drained()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_whose_task_runs_within_one_of_another_pool_is_not_drained() {
    let (limiter, gate) = (Arc::new(CapacityLimiter::new(1)), Gate::default());
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (outer, inner) = (pool("outer"), pool("inner"));
    let (within, block) = (inner.clone(), gate.block());
    let both = outer.task(move |_| from_thread::block_on(within.run(block))).start().unwrap();
    until("it runs", || gate.inside() == 1).await;
    inner.close();
    let mut drained = pin!(inner.drained());
    assert!(poll!(&mut drained).is_pending());
    gate.open();
    soon("it is drained", drained).await;
    assert_eq!(soon("both end", both).await, Ok(Ok(Ok(()))));
}
