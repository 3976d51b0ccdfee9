//! User code on the threads of a pool around a task: destructors of values that no caller wants, and wakers that block.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures::executor;
use futures::future::FutureExt;
use onelane::offload::CapacityLimiter;
use onelane::{BlockingPool, CpuPool};
use tokio::runtime::Handle;

use support::runtimes::current_thread;
use support::waiting::{Gate, MS, PATIENCE, soon, spin_until};

/// Calls a closure when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn destructor_of_an_unwanted_result_may_block_on_a_task_of_the_only_token() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let (inner, (results, received)) = (pool.clone(), channel());
    let on_drop = move || results.send(Handle::current().block_on(inner.run(|| 7))).unwrap();
    let runtime = current_thread();
    let gate = Gate::default();
    let wait = gate.wait();
    runtime.block_on(async {
        let task = pool.task(move |_| {
            wait.block();
            OnDrop(on_drop)
        });
        task.start().unwrap().detach();
    });
    gate.open();
    let result = received.recv_timeout(PATIENCE);
    runtime.shutdown_background();
    assert_eq!(result, Ok(Ok(7)));
}

#[test]
fn closure_that_expires_in_the_queue_is_dropped_with_the_token_that_its_destructor_may_need() {
    let pool = BlockingPool::builder("one").max_running(1).build();
    let (inner, (results, received)) = (pool.clone(), channel());
    let on_drop = OnDrop(move || results.send(Handle::current().block_on(inner.run(|| 7))).unwrap());
    let runtime = current_thread();
    let gate = Gate::default();
    let first = runtime.block_on(gate.fill(&pool, 1));
    runtime.block_on(async {
        let expires = pool.task(move |_| drop(on_drop)).timeout(MS).start().unwrap();
        expires.detach();
    });
    std::thread::sleep(MS * 5);
    gate.open();
    let result = received.recv_timeout(PATIENCE);
    runtime.shutdown_background();
    drop(first);
    assert_eq!(result, Ok(Ok(7)));
}

#[test]
fn unwanted_result_of_a_cpu_task_is_dropped_in_the_runtime_of_its_caller() {
    let (pool, runtime, gate) = (CpuPool::builder("one").threads(1).build(), current_thread(), Gate::default());
    let (ids, received) = channel();
    let wait = gate.wait();
    runtime.block_on(async {
        let task = pool.task(move |_| {
            wait.block();
            OnDrop(move || ids.send(Handle::try_current().ok().map(|runtime| runtime.id())).unwrap())
        });
        task.start().unwrap().detach();
    });
    gate.open();
    assert_eq!(received.recv_timeout(PATIENCE), Ok(Some(runtime.handle().id())));
}

#[tokio::test]
async fn panic_of_a_closure_that_leaves_the_queue_does_not_reach_its_caller() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let running = gate.fill(&pool, 1).await;
    let bomb = OnDrop(|| panic!("the closure is dropped"));
    let queued = pool.task(move |_| drop(bomb)).start().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(queued))).is_ok());
    let bomb = OnDrop(|| panic!("the closure is dropped"));
    let expiring = AssertUnwindSafe(pool.task(move |_| drop(bomb)).max_wait(MS).into_future()).catch_unwind();
    assert!(soon("the wait ends", expiring).await.unwrap().is_err());
    drop(running);
}

/// Blocks on a task of its pool.
struct BlocksOnTask {
    pool: CpuPool,
    ran: Mutex<Sender<u32>>,
}

impl Wake for BlocksOnTask {
    fn wake(self: Arc<Self>) {
        let result = executor::block_on(self.pool.run(|| 7)).unwrap();
        self.ran.lock().unwrap().send(result).unwrap();
    }
}

#[test]
fn waker_may_block_on_a_task_while_its_worker_has_passed_the_token_on() {
    let limiter = Arc::new(CapacityLimiter::new(1));
    let pool = CpuPool::builder("one").limiter(Arc::clone(&limiter)).build();
    let gate = Gate::default();
    let mut task = pool
        .task({
            let block = gate.block();
            move |_| block()
        })
        .start()
        .unwrap();
    spin_until(|| gate.inside() == 1);
    let (ran, received) = channel();
    let waker = Waker::from(Arc::new(BlocksOnTask { pool: pool.clone(), ran: Mutex::new(ran) }));
    assert!(task.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    let mut permit = Box::pin(Arc::clone(&limiter).acquire_owned());
    assert!(permit.as_mut().poll_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
    gate.open();
    let permit = executor::block_on(permit).unwrap();
    spin_until(|| pool.stats().queued == 1);
    drop(permit);
    assert_eq!(received.recv_timeout(Duration::from_secs(5)), Ok(7));
}
