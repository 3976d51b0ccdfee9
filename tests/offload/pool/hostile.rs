//! Pools in hostile surroundings: no threads, wakers and destructors that panic, runtimes with one blocking thread.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::poll;
use onelane::offload::{CapacityLimiter, OffloadErrorKind, Progress, from_thread};
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
fn runtime_that_can_start_no_thread_is_reported_each_time_and_no_token_is_lost() {
    // No machine has enough memory for this stack.
    let runtime = Builder::new_current_thread().enable_all().thread_stack_size(1 << 46).build().unwrap();
    let pool = BlockingPool::new("no threads");
    for _ in 0..3 {
        let result = runtime.block_on(soon("the result arrives", pool.run(|| ())));
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.pool()), (OffloadErrorKind::NoThread, Some("no threads")));
        // The source is what the operating system says.
        assert!(error.source().unwrap().to_string().contains("thread"), "{:?}", error.source());
    }
    assert_eq!((pool.stats().queued, pool.limiter().stats().borrowed), (0, 0));
    let other = Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(other.block_on(pool.run(|| 7)), Ok(7));
}

#[tokio::test]
async fn waker_that_panics_when_its_token_is_granted_ends_no_thread() {
    struct PanickingWaker;
    impl Wake for PanickingWaker {
        fn wake(self: Arc<Self>) {
            panic!("the waker panics");
        }
    }

    let pool = BlockingPool::builder("one").max_running(1).build();
    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    let mut acquire = Box::pin(pool.limiter().clone().acquire_owned());
    assert!(acquire.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(PanickingWaker)))).is_pending());
    gate.open();
    for handle in running {
        assert_eq!(soon("its result arrives", handle).await, Ok(()));
    }
    drop(acquire);
    assert_eq!(soon("the next task runs", pool.run(|| 7)).await, Ok(7));
}

/// Checks that other blocking calls get the only blocking thread while callers keep the pool busy.
fn assert_others_get_the_thread(pool: &BlockingPool, callers: usize) {
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
            soon("another blocking call runs", spawn_blocking(|| ())).await.unwrap();
        }
        // Each waits until a worker gives up its thread, after 10 ms.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        is_over.store(true, Ordering::Relaxed);
        for task in busy {
            soon("all tasks end", task).await.unwrap();
        }
    });
}

#[test]
fn sequential_calls_leave_the_thread_to_others_from_time_to_time() {
    assert_others_get_the_thread(&BlockingPool::new("sequential"), 1);
}

#[test]
fn full_pool_leaves_the_thread_to_others_from_time_to_time() {
    assert_others_get_the_thread(&BlockingPool::builder("one").max_running(1).build(), 2);
}

#[test]
fn busy_pool_leaves_the_thread_to_others_from_time_to_time() {
    assert_others_get_the_thread(&BlockingPool::new("busy"), 4);
}

#[test]
fn worker_that_waits_for_the_only_thread_delays_no_task() {
    let (runtime, pool) = (one_blocking_thread(), BlockingPool::new("pairs"));
    runtime.block_on(async {
        let start = Instant::now();
        for _ in 0..200 {
            let (left, right) = soon("both tasks run", async { tokio::join!(pool.run(|| 1), pool.run(|| 2)) }).await;
            assert_eq!((left, right), (Ok(1), Ok(2)));
        }
        // If each pair waited until an idle worker times out, this would take 4 s.
        assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    });
}

#[tokio::test]
async fn task_of_a_dropped_pool_that_waits_for_a_token_runs_when_it_is_granted() {
    let limiter = Arc::new(CapacityLimiter::new(0));
    let pool = BlockingPool::builder("dropped").limiter(limiter.clone()).build();
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = ran.clone();
    drop(pool.task(move |_| counter.fetch_add(1, Ordering::SeqCst)).shield().start().unwrap());
    drop(pool);
    assert_eq!(Arc::strong_count(&ran), 2, "the task is queued");
    limiter.set_total(1);
    until("the task has run", || ran.load(Ordering::SeqCst) == 1).await;
    until("no token and no reference is left", || limiter.stats().borrowed == 0 && Arc::strong_count(&limiter) == 1)
        .await;
}

#[tokio::test]
async fn pool_leaves_the_queue_of_its_limiter_when_all_queued_tasks_are_dropped() {
    let limiter = Arc::new(CapacityLimiter::new(0));
    let pool = BlockingPool::builder("left").limiter(limiter.clone()).build();
    let queued = pool.task(|_| ()).start().unwrap();
    assert_eq!(limiter.stats().waiting, 1);
    drop(queued);
    assert_eq!(limiter.stats().waiting, 0);
    drop(pool);
    assert_eq!(Arc::strong_count(&limiter), 1);
}

#[tokio::test]
async fn pools_that_share_a_limiter_do_not_wait_for_each_other() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (outer, inner) = (pool("outer"), pool("inner"));
    let value = outer.run(move || Handle::current().block_on(inner.run(|| 7)));
    assert_eq!(soon("both tasks run", value).await, Ok(Ok(7)));
}

#[test]
fn bound_of_the_queue_applies_to_all_runtimes_together() {
    let pool = BlockingPool::builder("bounded").max_running(1).max_queued(3).build();
    pool.limiter().set_total(0);
    let runtimes: Vec<Runtime> = (0..4).map(|_| one_blocking_thread()).collect();
    let mut queued = Vec::new();
    for runtime in runtimes.iter().cycle().take(20) {
        let _entered = runtime.enter();
        queued.extend(pool.task(|_| ()).start());
    }
    assert_eq!((queued.len(), pool.stats().queued, pool.stats().refused), (3, 3, 17));
    drop(queued);
    let _entered = runtimes[0].enter();
    assert!(pool.task(|_| ()).start().is_ok(), "there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_callers_are_never_refused_while_there_is_room() {
    let pools = [0, 1].map(|queued| BlockingPool::builder("room").max_running(2 - queued).max_queued(queued).build());
    let cpu = CpuPool::builder("room").threads(2).max_queued(0).build();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (pools, cpu) = (pools.clone(), cpu.clone());
        callers.spawn(async move {
            for _ in 0..5_000 {
                for pool in &pools {
                    soon("the task runs", pool.run(|| ())).await.unwrap();
                }
                soon("the task runs", cpu.run(|| ())).await.unwrap();
            }
        });
    }
    // Each call has its own time limit: all of them together take long on a busy machine.
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_alternate_between_pools_of_a_limiter_are_never_refused_while_a_token_is_free() {
    let first = CpuPool::builder("first").threads(1).build();
    let second = CpuPool::builder("second").limiter(first.limiter().clone()).max_queued(0).build();
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).max_queued(0).build();
    let (third, fourth) = (pool("third"), pool("fourth"));
    for _ in 0..2_000 {
        soon("the task runs", first.run(|| ())).await.unwrap();
        drop(first.limiter().try_acquire().unwrap());
        soon("the task runs", second.run(|| ())).await.unwrap();
        soon("the task runs", third.run(|| ())).await.unwrap();
        drop(limiter.try_acquire().unwrap());
        soon("the task runs", fourth.run(|| ())).await.unwrap();
    }
}

#[test]
fn caller_that_polls_before_it_is_woken_is_not_refused() {
    let runtime = one_blocking_thread();
    let _entered = runtime.enter();
    let pool = BlockingPool::builder("strict").max_running(1).max_queued(0).build();
    for _ in 0..20_000 {
        let (mut task, started) = (pin!(pool.run(|| ())), Instant::now());
        let result = loop {
            assert!(started.elapsed() < PATIENCE, "the task hangs");
            if let Poll::Ready(result) = task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                break result;
            }
        };
        assert_eq!(result, Ok(()));
    }
}

#[tokio::test]
async fn closed_limiter_is_reported_by_a_pool_without_a_queue() {
    let pool = BlockingPool::builder("strict").max_running(1).max_queued(0).build();
    pool.limiter().close();
    assert_eq!(pool.run(|| ()).await.unwrap_err(), OffloadErrorKind::Closed);
}

#[tokio::test]
async fn expired_task_reports_that_it_never_ran_even_if_its_closure_is_slow_to_drop() {
    struct Slow;
    impl Drop for Slow {
        fn drop(&mut self) {
            // Real time: its caller polls meanwhile.
            thread::sleep(MS * 100);
        }
    }

    let pool = BlockingPool::builder("one").max_running(1).build();
    for _ in 0..3 {
        let (gate, slow) = (Gate::default(), Slow);
        let running = gate.fill(&pool, 1).await;
        let deadline = tokio::time::Instant::now() + MS * 5;
        let late = pool.task(move |_| drop(slow)).deadline(deadline).start().unwrap();
        // The handle is not polled, so the thread takes the task from the queue. Real time: a blocked thread would stop
        // a paused clock.
        sleep_until(deadline).await;
        gate.open();
        until("its thread takes the task", || pool.stats().queued == 0).await;
        let result = soon("the result arrives", late).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.progress()), (OffloadErrorKind::Timeout, Progress::NotStarted));
        drop(running);
    }
}

#[tokio::test]
async fn max_wait_applies_to_a_handle_that_is_not_polled() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    let late = pool.task(|_| panic!("the task must not run")).max_wait(MS * 5).start().unwrap();
    // Real time: a blocked thread would stop a paused clock.
    sleep(MS * 10).await;
    gate.open();
    until("its thread takes the task", || pool.stats().queued == 0).await;
    let result: Result<(), OffloadError> = soon("the result arrives", late).await;
    drop(running);
    assert_eq!(result.unwrap_err(), OffloadErrorKind::QueueTimeout);
}

#[test]
fn time_limits_without_a_runtime_are_refused() {
    let pool = CpuPool::new("no clock");
    let result = futures::executor::block_on(pool.task(|_| ()).timeout(PATIENCE).into_future());
    assert_eq!(result.unwrap_err(), OffloadErrorKind::NoRuntime);
    assert_eq!(futures::executor::block_on(pool.task(|_| 7).into_future()), Ok(7));
}

#[tokio::test]
async fn subscriber_that_panics_when_a_span_closes_ends_no_thread_and_loses_no_token() {
    struct PanicOnClose;
    impl<S: Subscriber> Layer<S> for PanicOnClose {
        fn on_close(&self, _: tracing::Id, _: layer::Context<'_, S>) {
            assert!(
                thread::current().name() == Some("closes-0") || thread::panicking(),
                "spans close on threads of the pool only"
            );
            panic!("the subscriber panics");
        }
    }

    let (cpu, gate) = (CpuPool::builder("closes").threads(1).build(), Gate::default());
    let subscriber = tracing_subscriber::registry().with(PanicOnClose);
    let task = tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request");
        // The task holds the last reference to the span, and outlives its handle.
        let block = gate.block();
        span.in_scope(|| cpu.task(|_| block()).shield().start().unwrap())
    });
    drop(task);
    gate.open();
    assert_eq!(soon("the next task runs", cpu.run(|| 7)).await, Ok(7));
    until("its token is released", || cpu.limiter().stats().borrowed == 0).await;
}

#[test]
fn closed_pool_refuses_tasks_even_if_its_first_use_is_concurrent() {
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
                assert_eq!(pool.task(|_| ()).start().unwrap_err(), OffloadErrorKind::Closed);
            }
        });
        runtime.block_on(soon("the pool is drained", pool.drained())).unwrap();
    }
}

#[tokio::test]
async fn waker_that_panics_when_the_pool_is_drained_ends_no_thread_and_loses_no_result() {
    struct PanickingWaker;
    impl Wake for PanickingWaker {
        fn wake(self: Arc<Self>) {
            panic!("the waker panics");
        }
    }

    let (pool, gate) = (BlockingPool::new("ends"), Gate::default());
    let running = gate.fill(&pool, 1).await.remove(0);
    let mut drained = pin!(pool.drained());
    assert!(drained.as_mut().poll(&mut Context::from_waker(&Arc::new(PanickingWaker).into())).is_pending());
    pool.close();
    gate.open();
    assert_eq!(soon("the result arrives", running).await, Ok(()));
    soon("the pool is drained", pool.drained()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_whose_task_runs_inside_a_task_of_another_pool_is_not_drained() {
    let (limiter, gate) = (Arc::new(CapacityLimiter::new(1)), Gate::default());
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (outer, inner) = (pool("outer"), pool("inner"));
    let (nested, block) = (inner.clone(), gate.block());
    let both = outer.task(move |_| from_thread::block_on(nested.run(block))).start().unwrap();
    until("the task runs", || gate.inside() == 1).await;
    inner.close();
    let mut drained = pin!(inner.drained());
    assert!(poll!(&mut drained).is_pending());
    gate.open();
    soon("the pool is drained", drained).await.unwrap();
    assert_eq!(soon("both tasks end", both).await, Ok(Ok(Ok(()))));
}
