//! Counts that several pools, or several runtimes, share.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread;

use futures::StreamExt;
use futures::executor::block_on;
use onelane::offload::{CapacityLimiter, OffloadErrorKind, from_thread, iter_from_stream};
use onelane::{BlockingPool, CpuPool};

use crate::runtimes::{current_thread, multi_thread, runtimes};
use support::waiting::{Gate, MS, soon, until};

#[test]
fn strict_pool_used_from_four_runtimes_refuses_no_task_while_a_token_is_free() {
    let pool = BlockingPool::builder("strict").max_running(4).max_queued(0).build();
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let pool = pool.clone();
            thread::spawn(move || {
                let runtime = if n % 2 == 0 { current_thread() } else { multi_thread() };
                let call = async || soon("the task runs", pool.run(|| ())).await.is_err();
                runtime.block_on(async {
                    let mut refused = 0;
                    for _ in 0..2_000 {
                        refused += usize::from(call().await);
                    }
                    refused
                })
            })
        })
        .collect();
    let refused: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!(refused, 0, "of 8,000: four callers, four tokens");
}

#[test]
fn strict_pools_of_one_limiter_admit_as_many_tasks_as_there_are_tokens() {
    let limiter = Arc::new(CapacityLimiter::new(2));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).max_queued(0).build();
    let (pools, gate) = ([pool("first"), pool("second"), pool("third")], Gate::default());
    for runtime in runtimes() {
        gate.close();
        // All at once, before any task has started.
        let _entered = runtime.enter();
        let started: Vec<_> = (0..9)
            .map(|n| {
                let block = gate.block();
                pools[n / 2 % 3].task(move |_| block()).start()
            })
            .collect();
        let admitted: Vec<_> = started.into_iter().flatten().collect();
        assert_eq!(admitted.len(), 2);
        gate.open();
        for task in admitted {
            runtime.block_on(soon("the task ends", task)).unwrap();
        }
        runtime.block_on(until("all tokens are released", || limiter.stats().borrowed == 0));
    }
}

#[test]
fn withdrawn_tasks_make_room_for_others() {
    let gate = Gate::default();
    for runtime in runtimes() {
        let _entered = runtime.enter();
        let pool = BlockingPool::builder("strict").max_running(2).max_queued(0).build();
        for _ in 0..200 {
            let tasks: Vec<_> = (0..2).map(|_| pool.task(|_| ()).start()).collect();
            assert!(tasks.iter().all(Result::is_ok), "{tasks:?}");
            drop(tasks);
            runtime.block_on(until("all tokens are released", || pool.limiter().stats().borrowed == 0));
        }
        let running = runtime.block_on(gate.fill(&pool, 2));
        assert_eq!(pool.task(|_| ()).start().unwrap_err(), OffloadErrorKind::Full);
        gate.open();
        for task in running {
            runtime.block_on(soon("the task ends", task)).unwrap();
        }
        gate.close();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_stream_that_moves_into_the_task_with_the_last_token_runs_there() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let mut stream = pool.stream(0..100).max_items(1);
    assert_eq!(stream.next().await, Some(Ok(0)));
    let running = gate.fill(&pool, 1).await;
    assert!(futures::poll!(stream.next()).is_pending());
    assert_eq!(pool.stats().queued, 1);
    // High priority: this task runs before the task of its stream.
    let rest = pool.task(move |_| iter_from_stream(stream).map(Result::unwrap).collect::<Vec<_>>());
    let rest = rest.priority(onelane::offload::Priority::High).start().unwrap();
    gate.open();
    assert_eq!(soon("the stream ends", rest).await, Ok((1..100).collect::<Vec<_>>()));
    assert_eq!(running.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_task_that_is_awaited_by_the_task_with_the_last_token_runs_there() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let inner = pool.task(|cx| (thread::current().id(), cx.label().map(str::to_owned))).label("inner").start().unwrap();
    let outer = pool.task(move |_| (thread::current().id(), from_thread::block_on(inner).unwrap()));
    let outer = outer.priority(onelane::offload::Priority::High).start().unwrap();
    gate.open();
    let (thread, inner) = soon("both tasks end", outer).await.unwrap();
    assert_eq!(inner.unwrap(), (thread, Some("inner".to_owned())));
    assert_eq!(running.len(), 1);
    until("both are counted", || pool.stats().started == 3).await;
    assert_eq!((pool.stats().queued, pool.stats().running), (0, 0));
}

/// Blocks on a task of the pool when it is woken.
struct BlockingWaker {
    pool: BlockingPool,
    runtime: tokio::runtime::Handle,
    has_run: AtomicBool,
}

impl Wake for BlockingWaker {
    fn wake(self: Arc<Self>) {
        let _entered = self.runtime.enter();
        self.has_run.store(block_on(self.pool.run(|| true)).unwrap(), Ordering::SeqCst);
    }
}

#[test]
fn waker_that_blocks_on_its_own_pool_does_not_wait_for_itself() {
    for runtime in runtimes() {
        for behind in [0, 1] {
            let pool = BlockingPool::builder("one").max_running(1).build();
            let gate = Gate::default();
            let running = runtime.block_on(gate.fill(&pool, 1)).remove(0);
            let handle = runtime.handle().clone();
            let waker =
                Arc::new(BlockingWaker { pool: pool.clone(), runtime: handle, has_run: AtomicBool::new(false) });
            let mut running = pin!(running);
            assert!(running.as_mut().poll(&mut Context::from_waker(&waker.clone().into())).is_pending());
            let _entered = runtime.enter();
            // With another task behind it, the worker has taken that one by the time it calls the waker.
            let others: Vec<_> = (0..behind).map(|_| pool.task(|_| ()).start().unwrap()).collect();
            gate.open();
            runtime.block_on(until("the waker has run its task", || waker.has_run.load(Ordering::SeqCst)));
            assert_eq!(
                running.as_mut().poll(&mut Context::from_waker(futures::task::noop_waker_ref())),
                Poll::Ready(Ok(()))
            );
            for other in others {
                runtime.block_on(soon("the other task runs", other)).unwrap();
            }
            assert_eq!(runtime.block_on(soon("the pool works", pool.run(|| 7))), Ok(7));
            runtime.block_on(until("the token is released", || pool.limiter().stats().borrowed == 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_awaited_in_a_task_of_the_pool_is_an_error() {
    let (blocking, cpu) = (BlockingPool::new("blocking"), CpuPool::builder("cpu").threads(1).build());
    let (in_blocking, in_cpu) = (blocking.clone(), cpu.clone());
    let first = blocking.run(move || {
        in_blocking.close();
        let nested = from_thread::block_on(in_blocking.drained()).unwrap();
        assert!(nested.as_ref().unwrap_err().to_string().contains("blocking"), "{nested:?}");
        nested.unwrap_err().kind()
    });
    assert_eq!(soon("the task ends", first).await, Ok(OffloadErrorKind::WouldDeadlock));
    let second = cpu.run(move || {
        in_cpu.close();
        block_on(in_cpu.drained()).unwrap_err().kind()
    });
    assert_eq!(soon("the task ends", second).await, Ok(OffloadErrorKind::WouldDeadlock));
    soon("they are drained", async { blocking.drained().await.and(cpu.drained().await) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_of_another_pool_is_awaited_in_a_task() {
    let limiter = Arc::new(CapacityLimiter::new(2));
    let pool = |name| BlockingPool::builder(name).limiter(limiter.clone()).build();
    let (first, second, gate) = (pool("first"), pool("second"), Gate::default());
    let running = gate.fill(&second, 1).await;
    second.close();
    let drains = first.task(move |_| from_thread::block_on(second.drained())).start().unwrap();
    // Real time: there is no event for a future that waits.
    tokio::time::sleep(MS * 5).await;
    assert!(!drains.is_finished());
    gate.open();
    assert_eq!(soon("the pool is drained", drains).await, Ok(Ok(Ok(()))));
    drop(running);
}

#[test]
fn withdrawn_tasks_do_not_count_as_started() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let pool = BlockingPool::builder("counts").max_running(2).build();
            let mut ran = 0;
            for n in 0..2_000_u64 {
                let task = pool.task(|_| ()).timeout(std::time::Duration::from_micros(n % 60)).start().unwrap();
                ran += u64::from(task.await.is_ok_and(|()| true));
            }
            until("no task is left", || pool.stats().running == 0 && pool.limiter().stats().borrowed == 0).await;
            let started = pool.stats().started;
            // A task that times out while it runs has started.
            assert!((ran..2_000).contains(&started), "{ran} of {started}");
            let expired = pool.task(|_| ()).timeout(std::time::Duration::ZERO).await.unwrap_err();
            assert_eq!(expired, OffloadErrorKind::Timeout);
            let (nested, inner) = (pool.clone(), pool.clone());
            let work =
                move || from_thread::block_on(nested.task(|_| ()).timeout(std::time::Duration::ZERO).into_future());
            assert_eq!(pool.run(work).await.unwrap().unwrap().unwrap_err(), OffloadErrorKind::Timeout);
            assert_eq!(pool.run(move || from_thread::block_on(inner.run(|| 7))).await, Ok(Ok(Ok(7))));
            until("the tasks are counted", || pool.stats().started == started + 3).await;
        });
    }
}

/// The number in the error is the one that the refusal was decided by, although another runtime changes it meanwhile.
#[test]
fn refused_task_reports_how_many_tasks_were_queued() {
    let pool = BlockingPool::builder("bounded").max_running(1).max_queued(1).build();
    let (runtime, gate) = (multi_thread(), Gate::default());
    let running = runtime.block_on(gate.fill(&pool, 1));
    let is_over = Arc::new(AtomicBool::new(false));
    let (other, over) = (pool.clone(), Arc::clone(&is_over));
    let other = thread::spawn(move || {
        let runtime = current_thread();
        let _entered = runtime.enter();
        while !over.load(Ordering::Relaxed) {
            drop(other.task(|_| ()).start());
        }
    });
    let _entered = runtime.enter();
    let mut refused = 0;
    while refused < 20_000 {
        let Err(error) = pool.task(|_| ()).start() else { continue };
        let text = error.to_string();
        assert!(text.contains("is full, and 1 task is queued: "), "after {refused}: {text}");
        refused += 1;
    }
    is_over.store(true, Ordering::Relaxed);
    other.join().unwrap();
    gate.open();
    runtime.block_on(async {
        for task in running {
            task.await.unwrap();
        }
    });
}

/// A stream that has started is not refused later, so more tasks than `max_queued` may be queued.
#[tokio::test]
async fn later_tasks_of_a_stream_are_queued_beyond_the_bound() {
    let pool = BlockingPool::builder("bounded").max_running(1).max_queued(1).build();
    let mut items = pool.stream(0..2).max_items(1);
    assert_eq!(soon("the first item arrives", items.next()).await, Some(Ok(0)));
    until("the first task has parked", || pool.limiter().stats().borrowed == 0).await;
    let gate = Gate::default();
    let running = gate.fill(&pool, 1).await;
    let queued = pool.task(|_| ()).start().unwrap();
    let mut second = tokio_test::task::spawn(items.next());
    tokio_test::assert_pending!(second.poll());
    let full = pool.run(|| ()).await.unwrap_err();
    assert!(full.to_string().contains("is full, and 2 tasks are queued: "), "{full}");
    assert_eq!(pool.stats().queued, 2);
    gate.open();
    assert_eq!(soon("the second item arrives", second).await, Some(Ok(1)));
    soon("the task runs", queued).await.unwrap();
    for task in running {
        task.await.unwrap();
    }
}
