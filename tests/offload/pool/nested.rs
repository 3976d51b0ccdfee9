//! Tasks that block on tasks of the same pool.

use std::cell::Cell;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use onelane::offload::{CapacityLimiter, OffloadErrorKind, TaskHandle, from_thread};
use onelane::{BlockingPool, CpuPool, run_cpu};
use tokio::runtime::{Builder, Handle};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::recurse;
use crate::runtimes::runtimes;
use support::runtimes::current_thread;
use support::waiting::{Gate, MS, soon, until};

fn deep(pool: BlockingPool, depth: u32) -> u32 {
    if depth == 0 {
        return 0;
    }
    let below = pool.clone();
    1 + Handle::current().block_on(async move { pool.run(move || deep(below, depth - 1)).await.unwrap() })
}

#[test]
fn hundred_tasks_nested_ten_deep_end_in_a_full_pool() {
    for runtime in runtimes() {
        let pool = BlockingPool::builder("nested").max_running(4).build();
        let sum = runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..100 {
                let (pool, below) = (pool.clone(), pool.clone());
                tasks.spawn(async move { pool.run(move || deep(below, 10)).await.unwrap() });
            }
            let mut sum = 0;
            while let Some(result) = soon("all tasks end", tasks.join_next()).await {
                sum += result.unwrap();
            }
            sum
        });
        assert_eq!(sum, 1_000);
    }
}

#[tokio::test]
async fn nested_task_runs_without_a_token_and_has_its_own_context() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let outer = pool.task(move |cx| {
        let task = inner.task(move |cx| cx.label().map(str::to_owned));
        let inside = Handle::current().block_on(async { task.label("inner").await.unwrap() });
        (
            inside,
            cx.label().map(str::to_owned),
            onelane::offload::TaskContext::current().unwrap().label().map(str::to_owned),
        )
    });
    let (inside, label, current) = outer.label("outer").await.unwrap();
    assert_eq!(inside.as_deref(), Some("inner"));
    assert_eq!((label.as_deref(), current.as_deref()), (Some("outer"), Some("outer")));
}

#[tokio::test]
async fn task_that_a_part_of_a_task_blocks_on_takes_a_token() {
    use rayon::prelude::*;

    let pool = CpuPool::builder("two").threads(2).build();
    let inner = pool.clone();
    let sum = pool.run(move || {
        let one = |n: u64| futures::executor::block_on(inner.run(move || n)).unwrap();
        (0..1_000).into_par_iter().map(one).sum::<u64>()
    });
    assert_eq!(soon("all tasks end", sum).await, Ok(499_500));
    assert_eq!(pool.stats().started, 1_001);
}

#[tokio::test]
async fn nested_cpu_task_runs_on_the_thread_of_its_caller() {
    let pool = CpuPool::builder("one").threads(1).build();
    let inner = pool.clone();
    let threads = pool.run(move || {
        let thread = || thread::current().id();
        (futures::executor::block_on(inner.run(thread)).unwrap(), thread())
    });
    let (inside, outside) = soon("both tasks end", threads).await.unwrap();
    assert_eq!(inside, outside);
}

#[tokio::test]
async fn task_of_another_pool_does_not_run_inline() {
    let (outer, inner) = (BlockingPool::new("outer"), BlockingPool::new("inner"));
    let thread = outer.run(move || {
        let inner_thread = Handle::current().block_on(inner.run(|| thread::current().id())).unwrap();
        (inner_thread, thread::current().id())
    });
    let (inner_thread, outer_thread) = thread.await.unwrap();
    assert_ne!(inner_thread, outer_thread);
}

thread_local! {
    static IS_OF_RUNTIME: Cell<bool> = const { Cell::new(false) };
}

/// Needs more stack than the standard library gives a thread, and reports if the runtime has started the thread.
fn needs_a_large_stack() -> (bool, u64) {
    (IS_OF_RUNTIME.get(), recurse(20_000))
}

#[test]
fn nested_tasks_run_on_the_thread_of_their_caller_with_what_the_runtime_has_given_it() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let builder = builder.thread_stack_size(64 << 20).on_thread_start(|| IS_OF_RUNTIME.set(true));
        let runtime = builder.enable_all().build().unwrap();
        let pool = BlockingPool::builder("one").max_running(1).build();
        let inner = pool.clone();
        let outer = pool.run(move || {
            let below = inner.clone();
            // The second one is polled by the same poll as the first, and blocks on a third.
            let second =
                move || Handle::current().block_on(below.run(|| (thread::current().id(), needs_a_large_stack())));
            let both = async {
                let first = inner.run(|| (thread::current().id(), needs_a_large_stack())).await;
                (first.unwrap(), inner.run(second).await.unwrap().unwrap())
            };
            (Handle::current().block_on(both), thread::current().id())
        });
        let ((first, third), thread) = runtime.block_on(soon("the tasks end", outer)).unwrap();
        assert_eq!([first, third], [(thread, (true, 10_000)); 2]);
    }
}

#[test]
fn nested_task_on_a_thread_of_its_own_has_the_stack_of_its_pool() {
    let pool = BlockingPool::builder("one").max_running(1).stack_size(64 << 20).build();
    let inner = pool.clone();
    // Inside a `current_thread` runtime, tokio lets no task block.
    let outer = pool.run(move || current_thread().block_on(inner.run(needs_a_large_stack)));
    assert_eq!(current_thread().block_on(soon("the tasks end", outer)).unwrap(), Ok((false, 10_000)));
}

#[test]
fn tasks_on_threads_that_a_pool_starts_have_a_large_stack_by_default() {
    let runtime = current_thread();
    assert_eq!(runtime.block_on(run_cpu(needs_a_large_stack)), Ok((false, 10_000)));
    assert_eq!(runtime.block_on(CpuPool::new("own").run(needs_a_large_stack)), Ok((false, 10_000)));
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let outer = pool.run(move || current_thread().block_on(inner.run(needs_a_large_stack)));
    assert_eq!(runtime.block_on(soon("the tasks end", outer)).unwrap(), Ok((false, 10_000)));
}

#[test]
fn code_that_a_task_blocks_on_and_its_nested_tasks_have_the_stack_of_the_runtime() {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.thread_stack_size(64 << 20).on_thread_start(|| IS_OF_RUNTIME.set(true)).build().unwrap();
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let outer = pool.run(move || {
        from_thread::block_on(async move { (needs_a_large_stack(), inner.run(needs_a_large_stack).await.unwrap()) })
    });
    assert_eq!(runtime.block_on(outer).unwrap(), Ok(((true, 10_000), (true, 10_000))));
}

#[tokio::test]
async fn code_after_a_nested_task_still_runs_async_tasks() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let outer = pool.run(move || {
        Handle::current().block_on(async {
            let before = from_thread::block_on(async {});
            inner.run(|| ()).await.unwrap();
            (before, from_thread::block_on(async {}))
        })
    });
    let refused = Err(from_thread::FromThreadError::BlockingInAsync);
    assert_eq!(soon("the tasks end", outer).await, Ok((refused.clone(), refused)));
}

#[test]
fn nested_task_inside_a_local_set_may_block() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let outer = pool.run(move || {
        let blocks = || Handle::current().block_on(async { 7 });
        Handle::current().block_on(LocalSet::new().run_until(async move { inner.run(blocks).await }))
    });
    assert_eq!(current_thread().block_on(soon("the tasks end", outer)).unwrap(), Ok(7));
}

/// Spawns four tasks of 100 ms in a runtime that is built here, beside a task that ticks. Returns how long the tasks
/// took, and how long the runtime stood still at most.
fn four_in_a_runtime<F: Future<Output = ()> + 'static>(run: impl Fn() -> F) -> (Duration, Duration) {
    let local = LocalSet::new();
    local.block_on(&current_thread(), async {
        let start = Instant::now();
        let still = tokio::task::spawn_local(async {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            for _ in 0..30 {
                sleep(MS * 5).await;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        });
        join_all((0..4).map(|_| tokio::task::spawn_local(run()))).await.into_iter().for_each(Result::unwrap);
        (start.elapsed(), still.await.unwrap())
    })
}

#[test]
fn tasks_of_a_runtime_inside_a_task_run_beside_it_while_tokens_are_free() {
    let blocking = BlockingPool::builder("blocking").max_running(5).build();
    let cpu = CpuPool::builder("cpu").threads(5).build();
    let (in_blocking, in_cpu) = (blocking.clone(), cpu.clone());
    let sleeps = || thread::sleep(MS * 100);
    let on_blocking = move || {
        four_in_a_runtime(|| {
            let pool = in_blocking.clone();
            async move { pool.run(sleeps).await.unwrap() }
        })
    };
    let on_cpu = move || {
        four_in_a_runtime(|| {
            let pool = in_cpu.clone();
            async move { pool.run(sleeps).await.unwrap() }
        })
    };
    current_thread().block_on(async {
        for (took, still) in [blocking.run(on_blocking).await.unwrap(), cpu.run(on_cpu).await.unwrap()] {
            assert!(took < MS * 300, "one after the other they take 400 ms: {took:?}");
            assert!(still < MS * 90, "the runtime stood still for {still:?}");
        }
    });
    assert_eq!((cpu.stats().started, cpu.stats().running, cpu.stats().queued), (5, 0, 0));
    assert_eq!((blocking.limiter().stats().borrowed, cpu.limiter().stats().borrowed), (0, 0));
}

#[test]
fn tasks_of_runtimes_inside_tasks_never_wait_for_the_tokens_of_their_callers() {
    for runtime in runtimes() {
        let pool = BlockingPool::builder("few").max_running(3).build();
        let all = (0..200).map(|n| {
            let inner = pool.clone();
            pool.run(move || {
                current_thread().block_on(async {
                    let tasks = (0..3).map(|m| tokio::spawn(inner.task(move |_| n * m).into_future()));
                    let tasks: Vec<_> = tasks.collect();
                    join_all(tasks).await.into_iter().map(|result| result.unwrap().unwrap()).sum::<u64>()
                })
            })
        });
        let sums = runtime.block_on(soon("all tasks end", join_all(all)));
        assert_eq!(sums.into_iter().map(Result::unwrap).sum::<u64>(), 3 * (0..200).sum::<u64>());
        runtime.block_on(until("the tokens are released", || pool.limiter().stats().borrowed == 0));
        assert_eq!((pool.stats().running, pool.stats().queued), (0, 0));
    }
}

#[test]
fn task_of_a_runtime_inside_a_task_that_is_dropped_before_its_thread_is_free_never_runs() {
    let pool = BlockingPool::builder("two").max_running(2).build();
    let (gate, inner) = (Gate::default(), pool.clone());
    let outer = move || {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
        let blocked = runtime.spawn_blocking(gate.block());
        let entered = runtime.enter();
        let queued = inner.task(|_| panic!("the task must not run")).start().unwrap();
        drop(entered);
        let borrowed = inner.limiter().stats().borrowed;
        drop::<TaskHandle<()>>(queued);
        gate.open();
        runtime.block_on(blocked).unwrap();
        borrowed
    };
    let runtime = current_thread();
    assert_eq!(
        runtime.block_on(soon("the task ends", pool.run(outer))),
        Ok(1),
        "a task without a thread holds no token"
    );
    runtime.block_on(until("the tokens are released", || pool.limiter().stats().borrowed == 0));
    assert_eq!(runtime.block_on(soon("the next task runs", pool.run(|| 7))), Ok(7));
}

#[test]
fn task_of_a_runtime_that_shuts_down_before_a_thread_is_free_ends_and_its_token_is_released() {
    let pool = BlockingPool::builder("two").max_running(2).build();
    let (gate, inner) = (Gate::default(), pool.clone());
    let outer = move || {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
        drop(runtime.spawn_blocking(gate.block()));
        let entered = runtime.enter();
        let queued = inner.task(|_| ()).start().unwrap();
        drop(entered);
        runtime.shutdown_background();
        gate.open();
        futures::executor::block_on(queued).map_err(|error| error.kind())
    };
    let runtime = current_thread();
    let outcome = runtime.block_on(soon("the task ends", pool.run(outer))).unwrap();
    // As with `spawn_blocking`, a thread that is free later may still run it.
    assert!(matches!(outcome, Ok(()) | Err(OffloadErrorKind::RuntimeShutdown)), "{outcome:?}");
    runtime.block_on(until("the tokens are released", || pool.limiter().stats().borrowed == 0));
}

#[test]
fn task_that_is_taken_out_of_the_queue_inside_another_runtime_runs_in_the_runtime_of_its_caller() {
    for runtime in runtimes() {
        let pool = BlockingPool::builder("one").max_running(1).build();
        let (sender, receiver) = mpsc::channel::<TaskHandle<_>>();
        let id = runtime.block_on(async {
            let outer = pool.task(move |_| current_thread().block_on(receiver.recv().unwrap())).start().unwrap();
            until("the outer task runs", || pool.stats().running == 1).await;
            sender.send(pool.task(|_| Handle::current().id()).start().unwrap()).unwrap();
            soon("the tasks end", outer).await.unwrap()
        });
        assert_eq!(id, Ok(runtime.handle().id()));
    }
}

#[test]
fn nested_task_on_a_thread_of_its_own_still_counts_as_inside_of_its_outer_tasks() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let (outer, nested) = (BlockingPool::builder("outer"), BlockingPool::builder("nested"));
    let (outer, nested) = (outer.limiter(Arc::clone(&limiter)).build(), nested.limiter(limiter).build());
    let drains = outer.clone();
    let waits = move || {
        drains.close();
        futures::executor::block_on(drains.drained()).map_err(|error| error.kind())
    };
    let runtime = current_thread();
    let waited = outer.run(move || current_thread().block_on(nested.run(waits)));
    let waited = runtime.block_on(soon("the tasks end", waited));
    runtime.shutdown_background();
    assert_eq!(waited.unwrap(), Ok(Err(OffloadErrorKind::WouldDeadlock)));
}

#[test]
fn nested_task_ends_if_the_token_that_it_was_promised_is_taken() {
    let pool = BlockingPool::builder("two").max_running(2).build();
    let inner = pool.clone();
    let outer = move || {
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
        let gate = Gate::default();
        let blocked = runtime.spawn_blocking(gate.block());
        let result = runtime.block_on(async {
            let nested = tokio::spawn(inner.task(|_| 7).into_future());
            tokio::task::yield_now().await;
            assert_eq!(inner.stats().queued, 1, "the nested task counts on a thread that is not free yet");
            // The permit stays until the nested task has ended, which is polled only if it is woken.
            let permit = inner.limiter().try_acquire().unwrap();
            gate.open();
            let result = soon("the nested task ends", nested).await;
            drop(permit);
            result.unwrap()
        });
        runtime.block_on(blocked).unwrap();
        result
    };
    let runtime = current_thread();
    assert_eq!(runtime.block_on(pool.run(outer)), Ok(Ok(7)));
}
