//! What a pool does where a runtime has few blocking threads, or none that is free.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use onelane::BlockingPool;
use onelane::offload::{CapacityLimiter, OffloadErrorKind, TaskHandle};
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::runtimes::runtimes;
use support::waiting::{Gate, MS, soon, until};

/// A runtime with this many blocking threads.
fn with_threads(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(1).max_blocking_threads(threads).enable_all().build().unwrap()
}

/// A runtime whose only blocking thread is blocked until the gate is open, or dropped.
struct Busy {
    gate: Gate,
    runtime: Runtime,
}

fn busy() -> Busy {
    let (gate, runtime) = (Gate::default(), with_threads(1));
    drop(runtime.spawn_blocking(gate.block()));
    runtime.block_on(until("the thread is blocked", || gate.inside() == 1));
    Busy { gate, runtime }
}

impl Busy {
    fn start(&self, pool: &BlockingPool) -> TaskHandle<()> {
        let _entered = self.runtime.enter();
        pool.task(|_| ()).start().unwrap()
    }

    /// Ends the blocking call, and waits for a task.
    fn finish(&self, task: TaskHandle<()>) {
        self.gate.open();
        self.runtime.block_on(soon("the task runs", task)).unwrap();
    }
}

#[test]
fn dropped_task_of_a_busy_runtime_leaves_no_token_behind() {
    let (busy, pool) = (busy(), BlockingPool::builder("one").max_running(1).build());
    drop(busy.start(&pool));
    for runtime in runtimes() {
        assert_eq!(runtime.block_on(soon("the task runs", pool.run(|| 7))), Ok(7));
    }
    busy.finish(busy.start(&pool));
}

#[test]
fn queued_task_of_a_busy_runtime_keeps_no_token_from_others() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (busy, first, second) = (busy(), pool("first"), pool("second"));
    let waiting = busy.start(&first);
    for runtime in runtimes() {
        runtime.block_on(async {
            assert_eq!(soon("a task of the same pool runs", first.run(|| 7)).await, Ok(7));
            assert_eq!(soon("a task of another pool runs", second.run(|| 7)).await, Ok(7));
            drop(soon("the limiter's own callers proceed", limiter.acquire()).await.unwrap());
        });
    }
    busy.finish(waiting);
}

#[test]
fn queued_task_of_a_busy_runtime_soon_keeps_no_other_out_of_a_pool_without_a_queue() {
    let (busy, pool) = (busy(), BlockingPool::builder("strict").max_running(1).max_queued(0).build());
    let waiting = busy.start(&pool);
    for runtime in runtimes() {
        let admitted = async {
            while let Err(refused) = pool.run(|| 7).await {
                assert_eq!(refused.kind(), OffloadErrorKind::Full);
                sleep(MS).await;
            }
        };
        runtime.block_on(async {
            soon("a task of another runtime is admitted", admitted).await;
            assert_eq!(soon("and so is the next one", pool.run(|| 7)).await, Ok(7));
        });
    }
    // The tasks of the busy runtime itself do not wait beyond the bound.
    let entered = busy.runtime.enter();
    assert_eq!(pool.task(|_| ()).start().unwrap_err(), OffloadErrorKind::Full);
    assert_eq!(pool.stats().queued, 1);
    drop(entered);
    busy.finish(waiting);
    busy.runtime.block_on(async {
        until("the token is released", || pool.limiter().stats().borrowed == 0).await;
        assert_eq!(soon("a thread is free", pool.run(|| 7)).await, Ok(7));
    });
}

#[test]
fn token_granted_to_a_busy_runtime_passes_to_the_next_waiter() {
    for runtime in runtimes() {
        let limiter = Arc::new(CapacityLimiter::new(1));
        let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
        let (busy, first, second) = (busy(), pool("first"), pool("second"));
        let held = limiter.try_acquire().unwrap();
        let waiting = busy.start(&first);
        assert_eq!(limiter.stats().waiting, 1);
        runtime.block_on(async {
            let mut acquire = tokio_test::task::spawn(limiter.acquire());
            assert!(acquire.poll().is_pending());
            let behind = [second.task(|_| ()).start().unwrap(), first.task(|_| ()).start().unwrap()];
            drop(held);
            drop(soon("the limiter's own callers proceed", acquire).await.unwrap());
            for task in behind {
                soon("the tasks of this runtime run", task).await.unwrap();
            }
        });
        busy.finish(waiting);
        runtime.block_on(until("the token is released", || limiter.stats().borrowed == 0));
    }
}

#[test]
fn token_granted_to_a_dropped_task_of_a_busy_runtime_is_released() {
    let (busy, pool) = (busy(), BlockingPool::builder("one").max_running(1).build());
    let held = pool.limiter().try_acquire().unwrap();
    let waiting = busy.start(&pool);
    drop(held);
    drop(waiting);
    assert_eq!(pool.limiter().stats().borrowed, 0);
    busy.finish(busy.start(&pool));
}

#[test]
fn pools_of_two_runtimes_that_share_a_token_take_turns() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (first, second, runtime) = (pool("first"), pool("second"), with_threads(1));
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let is_over = is_over.clone();
        thread::spawn(move || {
            with_threads(4).block_on(async {
                let callers = (0..3).map(|_| async {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        // Real time: longer than a worker waits for its thread.
                        first.run(|| thread::sleep(MS * 30)).await.unwrap();
                    }
                });
                futures::future::join_all(callers).await;
            });
        })
    };
    let start = Instant::now();
    for _ in 0..10 {
        runtime.block_on(soon("its turn comes", second.run(|| ()))).unwrap();
    }
    // One task of the other pool runs before each: 300 ms.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
}

#[test]
fn pools_and_other_blocking_calls_do_not_wait_for_idle_workers() {
    for threads in [1, 4] {
        let (runtime, first, second) = (with_threads(threads), BlockingPool::new("first"), BlockingPool::new("second"));
        runtime.block_on(async {
            let mut took: Vec<_> = Vec::new();
            for _ in 0..60 {
                // As many tasks as there are threads, so that each thread has just run one.
                let all = Arc::new(std::sync::Barrier::new(threads));
                let tasks: Vec<_> = (0..threads)
                    .map(|_| {
                        let all = all.clone();
                        first.task(move |_| all.wait()).start().unwrap()
                    })
                    .collect();
                for task in tasks {
                    soon("the tasks meet", task).await.unwrap();
                }
                let start = Instant::now();
                soon("another pool gets a thread", second.run(|| ())).await.unwrap();
                soon("another blocking call gets a thread", spawn_blocking(|| ())).await.unwrap();
                took.push(start.elapsed());
            }
            took.sort();
            // An idle worker that kept its thread for 20 ms would delay every one of them.
            assert!(took[20] < MS * 10, "{threads} threads: {took:?}");
        });
    }
}
