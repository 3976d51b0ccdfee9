//! The bound of the queue.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::thread;

use onelane::{EndpointGuard, Queue};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use support::waiting::spin_until;

use super::assert_idle;
use crate::{is_busy, is_full};

#[test]
fn concurrent_callers_fill_the_queue_to_its_bound_and_the_rest_are_refused() {
    const THREADS: usize = 4;
    const EACH: usize = 50;
    for bound in [1, 7, 32, 199] {
        let guard = Arc::new(EndpointGuard::builder("bound").queue(Queue::Bounded(bound)).build());
        let permit = guard.try_acquire().unwrap();
        let barrier = Barrier::new(THREADS);
        let queued = Mutex::new(Vec::new());
        let refused = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..EACH {
                        let mut caller = task::spawn(Arc::clone(&guard).acquire_owned());
                        match caller.poll() {
                            Poll::Pending => queued.lock().unwrap().push(caller),
                            Poll::Ready(result) => {
                                assert!(is_full(&result.unwrap_err()));
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let mut queued = queued.into_inner().unwrap();
        assert_eq!((queued.len(), refused.into_inner()), (bound, THREADS * EACH - bound));
        assert_eq!((guard.stats().waiting, guard.stats().refused), (bound, (THREADS * EACH - bound) as u64));

        // A cancelled waiter makes room for exactly one other.
        queued.pop();
        let mut late = [task::spawn(guard.acquire()), task::spawn(guard.acquire())];
        assert_pending!(late[0].poll());
        assert!(is_full(&assert_ready_err!(late[1].poll())));
        drop((permit, queued, late));
        assert_idle(&guard);
    }
}

#[test]
fn blocking_callers_count_against_the_same_bound() {
    let guard = EndpointGuard::builder("bound").queue(Queue::Bounded(2)).build();
    let permit = guard.try_acquire().unwrap();
    let mut caller = task::spawn(guard.acquire());
    assert_pending!(caller.poll());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let outcome = guard.acquire_blocking().map(drop);
                outcomes.lock().unwrap().push(outcome);
            });
        }
        // One of the six threads takes the second place. The others return while the guard is still held.
        spin_until(|| outcomes.lock().unwrap().len() == 5);
        assert!(outcomes.lock().unwrap().iter().all(|outcome| is_full(outcome.as_ref().unwrap_err())));
        drop(permit);
        drop(assert_ready_ok!(caller.poll()));
    });
    assert_eq!(outcomes.into_inner().unwrap().last(), Some(&Ok(())));
    assert_idle(&guard);
}

#[test]
fn guard_without_a_queue_refuses_with_busy() {
    let guard = EndpointGuard::builder("reject").queue(Queue::Reject).build();
    let permit = guard.try_acquire().unwrap();
    assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire()).poll())));
    assert!(is_busy(&assert_ready_err!(task::spawn(guard.run(ready(()))).poll())));
    assert!(is_busy(&guard.acquire_blocking().unwrap_err()));
    assert!(is_busy(&guard.try_acquire().unwrap_err()));
    assert_eq!(guard.stats().refused, 3, "a failed `try_acquire` is not a refused caller");
    drop(permit);
    drop(assert_ready_ok!(task::spawn(guard.acquire()).poll()));
    assert_idle(&guard);
}
