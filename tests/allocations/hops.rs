//! The allocations of a hop, which carries the scopes of guards to another thread.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::pin::pin;

use onelane::{CpuPool, EndpointGuard};
use tokio::sync::Notify;

use support::counting::allocations_of;
use support::polling::{poll, poll_once};

/// Returns the number of allocations that the start of a task makes on this thread.
fn of_one_task(pool: &CpuPool) -> usize {
    let mut task = None;
    let made = allocations_of(|| task = Some(pool.task(|_| ()).start().unwrap()));
    futures::executor::block_on(task.unwrap()).unwrap();
    made
}

/// Returns the allocations of a hop outside guards, of the first and the second hop in one poll, of a hop in a later
/// poll, and of the first and the second hop inside two guards.
fn sample(pool: &CpuPool, outer: &EndpointGuard, inner: &EndpointGuard) -> [usize; 6] {
    let outside = of_one_task(pool);
    let (second_poll, mut first, mut later) = (Notify::new(), [0; 2], 0);
    {
        let mut run = pin!(outer.run(async {
            first = [0; 2].map(|_| of_one_task(pool));
            second_poll.notified().await;
            later = of_one_task(pool);
        }));
        assert!(poll(run.as_mut()).is_pending());
        second_poll.notify_one();
        assert!(poll(run).is_ready());
    }
    let nested = poll_once(outer.run(inner.run(async { [0; 2].map(|_| of_one_task(pool)) }))).unwrap().unwrap();
    [outside, first[0], first[1], later, nested[0], nested[1]]
}

#[test]
fn hop_allocates_once_and_once_for_each_permit() {
    let pool = CpuPool::builder("hops").threads(1).build();
    let (outer, inner) = (EndpointGuard::new("outer"), EndpointGuard::new("inner"));
    // A thread that starts or wakes up allocates too, so only the smallest sample counts.
    let samples = (0..50).map(|_| sample(&pool, &outer, &inner));
    let fewest = samples.reduce(|fewest, sample| std::array::from_fn(|i| fewest[i].min(sample[i])));
    let [outside, rest @ ..] = fewest.unwrap();
    // With two scopes, a hop allocates a list.
    assert_eq!((outside, rest.map(|made| made - outside)), (1, [2, 1, 1, 4, 2]));
}
