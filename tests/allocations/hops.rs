//! The allocations of taking the scopes of guards to another thread.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::pin::pin;

use onelane::{CpuPool, EndpointGuard};
use tokio::sync::Notify;

use support::counting::allocations_of;
use support::polling::{poll, poll_once};

/// Returns the number of allocations on this thread of starting a task.
fn of_one_task(pool: &CpuPool) -> usize {
    let mut task = None;
    let made = allocations_of(|| task = Some(pool.task(|_| ()).start().unwrap()));
    futures::executor::block_on(task.unwrap()).unwrap();
    made
}

#[test]
fn task_started_inside_guards_allocates_once_more_and_once_for_each_permit() {
    let pool = CpuPool::builder("hops").threads(1).build();
    let (outer, inner) = (EndpointGuard::new("outer"), EndpointGuard::new("inner"));
    let mut made = Vec::new();
    // The second round measures: threads allocate their storage once.
    for _ in 0..2 {
        let outside = of_one_task(&pool);
        let (second_poll, mut inside, mut later) = (Notify::new(), Vec::new(), 0);
        {
            let mut run = pin!(outer.run(async {
                inside = (0..2).map(|_| of_one_task(&pool) - outside).collect();
                second_poll.notified().await;
                later = of_one_task(&pool) - outside;
            }));
            assert!(poll(run.as_mut()).is_pending());
            second_poll.notify_one();
            assert!(poll(run).is_ready());
        }
        // A hop with several scopes allocates a list.
        let nested = inner.run(async { (0..2).map(|_| of_one_task(&pool) - outside).collect::<Vec<_>>() });
        let nested = poll_once(outer.run(nested)).unwrap().unwrap();
        made = vec![outside, of_one_task(&pool), inside[0], inside[1], later, nested[0], nested[1]];
    }
    assert_eq!(made, [1, 1, 2, 1, 1, 4, 2]);
}
