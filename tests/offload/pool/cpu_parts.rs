//! Parallel parts of CPU tasks. Tasks run on the threads of their pool, and parts on rayon's threads: no task begins on
//! a thread that waits inside of another one, and no part sees a task, a span or a runtime.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use futures::future::join_all;
use onelane::CpuPool;
use onelane::offload::{TaskContext, from_thread};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use support::spans::enable_spans;
use support::waiting::{Gate, MS, soon, spin_until, until};
use tokio::runtime::Handle;
use tracing::{Span, info_span};

fn pool(threads: usize) -> CpuPool {
    CpuPool::builder("parts").threads(threads).build()
}

fn two_threads() -> Arc<ThreadPool> {
    Arc::new(ThreadPoolBuilder::new().num_threads(2).build().unwrap())
}

#[tokio::test]
async fn task_does_not_wait_for_a_longer_one_that_begins_while_its_parts_run() {
    let (pool, gate, parts) = (pool(2), Gate::default(), two_threads());
    let [first_part, begun] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (other_begun, block) = (begun.clone(), gate.block());
    let short = pool.task(move |_| {
        let one = || spin_until(|| first_part.load(Ordering::SeqCst));
        let other = || {
            first_part.store(true, Ordering::SeqCst);
            spin_until(|| begun.load(Ordering::SeqCst));
        };
        parts.install(|| rayon::join(one, other));
        thread::current().id()
    });
    let short = short.start().unwrap();
    let long = pool.task(move |_| {
        let thread = thread::current().id();
        other_begun.store(true, Ordering::SeqCst);
        block();
        thread
    });
    let long = long.start().unwrap();
    let thread = soon("the short task ends while the long one runs", short).await.unwrap();
    gate.open();
    assert_ne!(soon("the long task ends", long).await.unwrap(), thread);
}

#[tokio::test]
async fn task_that_yields_to_rayon_runs_no_other_task() {
    let pool = pool(1);
    // A second token: a pool of its size has a second thread.
    pool.limiter().set_total(2);
    let begun = Arc::new(AtomicBool::new(false));
    let has_begun = begun.clone();
    // Inside `Handle::block_on`, no other task could block on async code.
    let yields = pool.task(move |_| {
        Handle::current().block_on(async {
            spin_until(|| {
                rayon::yield_now();
                begun.load(Ordering::SeqCst)
            });
            thread::current().id()
        })
    });
    let yields = yields.start().unwrap();
    until("the task runs", || pool.stats().running == 1).await;
    let other = pool.task(move |_| {
        let outcomes = (from_thread::block_on(async { 7 }), Handle::current().block_on(async { 8 }));
        has_begun.store(true, Ordering::SeqCst);
        (outcomes, thread::current().id())
    });
    let (outcomes, thread) = soon("the other task ends", other.into_future()).await.unwrap();
    assert_eq!(outcomes, (Ok(7), 8));
    assert_ne!(soon("the task ends", yields).await.unwrap(), thread);
}

#[tokio::test]
async fn parts_have_no_task_no_span_and_no_runtime() {
    let (_spans, pool) = (enable_spans(), pool(4));
    let parts = || {
        let part = |n| {
            thread::sleep(MS / if n % 7 == 0 { 1 } else { 10 });
            let task = TaskContext::current().and_then(|cx| cx.label().map(str::to_owned));
            (task, Span::current().metadata().map(|span| span.name()), Handle::try_current().is_ok())
        };
        let inside = TaskContext::current().is_some() && !Span::current().is_none() && Handle::try_current().is_ok();
        (inside, (0..64).into_par_iter().map(part).collect::<Vec<_>>())
    };
    // A task takes the span of the code that creates it.
    let create = |label| info_span!("caller").in_scope(|| pool.task(move |_| parts()).label(label).into_future());
    let tasks = ["one", "two", "three", "four"].map(create);
    for result in soon("all tasks end", join_all(tasks)).await {
        let (inside, seen) = result.unwrap();
        assert!(inside, "the task itself has all of them");
        assert!(seen.iter().all(|seen| *seen == (None, None, false)), "{seen:?}");
    }
}

#[tokio::test]
async fn parts_take_their_context_from_the_task_and_no_other_caller_cancels_them() {
    let pool = pool(4);
    let parts = |cx: &TaskContext| {
        (0..40_u64).into_par_iter().try_for_each(|n| {
            thread::sleep(MS * if n % 7 == 0 { 3 } else { 0 });
            // The first line is what a library deep inside a part would call.
            from_thread::check_cancelled()?;
            cx.checkpoint()
        })
    };
    let left = Arc::new(AtomicUsize::new(0));
    for _ in 0..60 {
        let others = [(); 2].map(|()| {
            let left = left.clone();
            let task = move |cx: &TaskContext| left.fetch_add(usize::from(parts(cx).is_err()), Ordering::SeqCst);
            pool.task(task).start().unwrap()
        });
        let mine = [(); 2].map(|()| pool.task(parts).start().unwrap());
        // Real time, in which the threads begin.
        tokio::time::sleep(MS * 3).await;
        drop(others);
        for task in mine {
            assert_eq!(soon("the task ends", task).await, Ok(Ok(())), "its caller waits");
        }
    }
    assert!(left.load(Ordering::SeqCst) > 0, "the parts of a task without its caller are cancelled");
}

#[tokio::test]
async fn lock_held_around_parallel_parts_does_not_deadlock() {
    let (pool, parts, lock) = (pool(1), two_threads(), Arc::new(Mutex::new(())));
    // A second token: a pool of its size has a second thread.
    pool.limiter().set_total(2);
    let [locked, submitted] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let holds = {
        let (lock, locked, submitted) = (lock.clone(), locked.clone(), submitted.clone());
        pool.task(move |_| {
            let _held = lock.lock().unwrap();
            locked.store(true, Ordering::SeqCst);
            let part = || {
                spin_until(|| submitted.load(Ordering::SeqCst));
                // Long enough for a thread to take the other task.
                thread::sleep(MS * 20);
            };
            parts.install(|| rayon::join(part, part));
        })
    };
    let holds = holds.start().unwrap();
    until("the lock is held", || locked.load(Ordering::SeqCst)).await;
    let waits = pool.task(move |_| drop(lock.lock().unwrap())).start().unwrap();
    submitted.store(true, Ordering::SeqCst);
    assert_eq!(soon("both tasks end", async { (holds.await, waits.await) }).await, (Ok(()), Ok(())));
}
