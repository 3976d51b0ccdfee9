//! `from_thread::block_on` and `check_cancelled`.
//!
//! Sleeps are real and short: they check that the timers of the runtime wake the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures::future::join_all;
use onelane::offload::from_thread::{FromThreadError, block_on, check_cancelled};
use onelane::offload::{BlockingPool, Cancelled};
use onelane::{EndpointGuard, run_blocking, run_cpu};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::runtimes::{current_thread, multi_thread};
use support::waiting::{PATIENCE, soon};

#[test]
fn task_runs_async_code_in_the_runtime_of_its_caller() {
    for runtime in [current_thread(), multi_thread()] {
        let (callers, answer) = runtime.block_on(async {
            let (sender, receiver) = oneshot::channel();
            let work = run_blocking(|| {
                block_on(async {
                    sleep(Duration::from_millis(1)).await;
                    (Handle::current().id(), tokio::spawn(receiver).await.unwrap().unwrap())
                })
            });
            let (answer, sent) = soon("both tasks end", async { tokio::join!(work, async { sender.send(7) }) }).await;
            sent.unwrap();
            (Handle::current().id(), answer.unwrap().unwrap())
        });
        assert_eq!(answer, (callers, 7));
    }
}

#[tokio::test]
async fn task_of_a_cpu_pool_has_the_runtime_of_its_caller_too() {
    let work = run_cpu(|| block_on(async { sleep(Duration::from_millis(1)).await }));
    assert_eq!(soon("the task ends", work).await, Ok(Ok(())));
}

#[tokio::test]
async fn future_is_polled_on_the_calling_thread_and_may_borrow() {
    let work = run_blocking(|| {
        let (here, mut rows) = (thread::current().id(), Rc::new(vec![1]));
        let polled = block_on(async {
            sleep(Duration::from_millis(1)).await;
            Rc::get_mut(&mut rows).unwrap().push(2);
            thread::current().id()
        });
        (polled == Ok(here), rows.to_vec())
    });
    assert_eq!(soon("the task ends", work).await.unwrap(), (true, vec![1, 2]));
}

#[test]
fn thread_that_runs_async_tasks_is_refused() {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async {
            assert_eq!(
                block_on(async { panic!("the future must not be polled") }),
                Err::<(), _>(FromThreadError::BlockingInAsync)
            );
            let task = tokio::spawn(async { block_on(async {}) });
            assert_eq!(task.await.unwrap(), Err(FromThreadError::BlockingInAsync));
        });
    }
}

#[test]
fn thread_without_a_runtime_is_refused() {
    assert_eq!(block_on(async {}), Err(FromThreadError::NoRuntime));
    let runtime = multi_thread();
    let _entered = runtime.enter();
    assert_eq!(block_on(async { 7 }), Ok(7));
}

#[tokio::test]
async fn panic_of_the_future_unwinds_into_the_task_and_the_thread_continues() {
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let work = pool.run(|| catch_unwind(AssertUnwindSafe(|| block_on(async { panic!("async") }))).is_err());
    assert_eq!(soon("the task ends", work).await, Ok(true));
    assert_eq!(soon("the task runs", pool.run(|| block_on(async { 7 }))).await, Ok(Ok(7)));
}

/// Returns the number of nesting levels that ran on `thread`.
fn dive(pool: &BlockingPool, depth: usize, thread: ThreadId) -> usize {
    let is_here = usize::from(thread::current().id() == thread);
    if depth == 0 {
        return is_here;
    }
    let deeper = pool.clone();
    let work = async {
        tokio::task::yield_now().await;
        pool.run(move || dive(&deeper, depth - 1, thread)).await
    };
    is_here + block_on(work).expect("a task may block").expect("its pool runs it inline")
}

#[test]
fn nested_tasks_of_a_full_pool_run_inline() {
    for runtime in [current_thread(), multi_thread()] {
        let pool = BlockingPool::builder("pool").max_running(4).build();
        let all = (0..100).map(|_| {
            let deeper = pool.clone();
            pool.run(move || dive(&deeper, 10, thread::current().id()))
        });
        let depths = runtime.block_on(soon("all tasks end", join_all(all)));
        assert!(depths.iter().all(|depth| *depth == Ok(11)), "{depths:?}");
    }
}

#[tokio::test]
async fn wake_of_an_outer_wait_is_not_lost_in_an_inner_one() {
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let (outer, mut wakes_outer) = mpsc::channel(1);
    let (inner, mut wakes_inner) = mpsc::channel(1);
    let deeper = pool.clone();
    let (is_inside, inside) = oneshot::channel();
    let work = pool.run(move || {
        let nested = async {
            deeper
                .run(move || {
                    is_inside.send(()).unwrap();
                    block_on(wakes_inner.recv())
                })
                .await
        };
        block_on(async { tokio::join!(wakes_outer.recv(), nested) })
    });
    let wake = async {
        inside.await.unwrap();
        // The outer future is woken while the thread waits for the inner one.
        outer.send(1).await.unwrap();
        tokio::task::yield_now().await;
        inner.send(2).await.unwrap();
    };
    let (result, ()) = soon("both tasks end", async { tokio::join!(work, wake) }).await;
    assert_eq!(result.unwrap().unwrap(), (Some(1), Ok(Ok(Some(2)))));
}

#[tokio::test]
async fn task_that_runs_inline_may_block() {
    static GUARD: EndpointGuard = EndpointGuard::new("inner");
    let pool = BlockingPool::builder("pool").max_running(1).build();
    let deeper = pool.clone();
    let inner = || {
        drop(GUARD.acquire_blocking().unwrap());
        block_on(async { sleep(Duration::from_millis(1)).await })
    };
    // Inside tokio's `block_on`, where blocking is not allowed.
    let work = pool.run(move || Handle::current().block_on(deeper.run(inner)));
    assert_eq!(soon("the task ends", work).await, Ok(Ok(Ok(()))));
}

#[tokio::test]
async fn check_cancelled_fails_once_the_caller_has_dropped_the_task() {
    let (is_inside, inside) = oneshot::channel();
    let (send_result, result) = oneshot::channel();
    let caller = tokio::spawn(run_blocking(move || {
        assert_eq!(check_cancelled(), Ok(()));
        is_inside.send(()).unwrap();
        while check_cancelled().is_ok() {
            thread::yield_now();
        }
        send_result.send(check_cancelled()).unwrap();
    }));
    soon("the task runs", inside).await.unwrap();
    caller.abort();
    assert_eq!(soon("the result arrives", result).await.unwrap(), Err(Cancelled::default()));
}

#[tokio::test]
async fn check_cancelled_succeeds_outside_of_a_task() {
    assert_eq!(check_cancelled(), Ok(()));
    let other = thread::spawn(check_cancelled);
    assert_eq!(other.join().unwrap(), Ok(()));
}

#[test]
fn many_wakes_from_many_threads_are_all_seen() {
    let runtime = multi_thread();
    let seen = Arc::new(AtomicUsize::new(0));
    let waits: Vec<_> = (0..8)
        .map(|_| {
            let (sender, mut receiver) = mpsc::channel(1);
            runtime.spawn(async move {
                for step in 0..2_000 {
                    sender.send(step).await.unwrap();
                }
            });
            let (seen, handle) = (Arc::clone(&seen), runtime.handle().clone());
            thread::spawn(move || {
                let _entered = handle.enter();
                let work = async {
                    while receiver.recv().await.is_some() {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                };
                block_on(async { tokio::time::timeout(PATIENCE, work).await.is_ok() })
            })
        })
        .collect();
    assert!(waits.into_iter().all(|wait| wait.join().unwrap() == Ok(true)));
    assert_eq!(seen.load(Ordering::Relaxed), 16_000);
}
