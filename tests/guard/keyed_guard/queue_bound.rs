//! The bound of each key's queue.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::thread;

use onelane::{KeyedGuard, Queue};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::assert_idle;
use crate::{is_busy, is_full};

#[test]
fn concurrent_callers_fill_the_queue_of_each_key_to_its_bound() {
    const THREADS: usize = 4;
    const EACH: usize = 50;
    const KEYS: usize = 3;
    for bound in [1, 7, 199] {
        let guard = Arc::new(KeyedGuard::builder("bound").queue(Queue::Bounded(bound)).build());
        let permits: Vec<_> = (0..KEYS).map(|key| guard.try_acquire(key).unwrap()).collect();
        let barrier = Barrier::new(THREADS);
        let queues = [(); KEYS].map(|()| Mutex::new(Vec::new()));
        let refused = [(); KEYS].map(|()| AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    for call in 0..KEYS * EACH {
                        let key = call % KEYS;
                        let mut caller = task::spawn(Arc::clone(&guard).acquire_owned(key));
                        match caller.poll() {
                            Poll::Pending => queues[key].lock().unwrap().push(caller),
                            Poll::Ready(result) => {
                                assert!(is_full(&result.unwrap_err()));
                                refused[key].fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let mut queues = queues.map(|queue| queue.into_inner().unwrap());
        assert_eq!(queues.each_ref().map(Vec::len), [bound; KEYS]);
        assert_eq!(refused.map(AtomicUsize::into_inner), [THREADS * EACH - bound; KEYS]);
        assert_eq!(guard.stats().waiting, KEYS * bound);
        assert_eq!(guard.stats().refused, (KEYS * (THREADS * EACH - bound)) as u64);

        // A cancelled waiter makes room for exactly one other of the same key.
        queues[1].pop();
        let mut late = [0, 1, 1, 2].map(|key| task::spawn(guard.acquire(key)));
        assert!(is_full(&assert_ready_err!(late[0].poll())));
        assert_pending!(late[1].poll());
        assert!(is_full(&assert_ready_err!(late[2].poll())));
        assert!(is_full(&assert_ready_err!(late[3].poll())));
        drop((permits, queues, late));
        assert_idle(&guard);
    }
}

#[test]
fn guard_without_queues_refuses_with_busy() {
    let guard = KeyedGuard::builder("reject").queue(Queue::Reject).build();
    let permit = guard.try_acquire(1).unwrap();
    assert!(is_busy(&assert_ready_err!(task::spawn(guard.acquire(1)).poll())));
    assert!(is_busy(&assert_ready_err!(task::spawn(guard.run(1, ready(()))).poll())));
    assert!(is_busy(&guard.acquire_blocking(1).unwrap_err()));
    assert!(is_busy(&guard.try_acquire(1).unwrap_err()));
    assert_eq!(guard.stats().refused, 3, "a failed `try_acquire` is not a refused caller");
    drop(guard.try_acquire(2).unwrap());
    drop(permit);
    drop(assert_ready_ok!(task::spawn(guard.acquire(1)).poll()));
    assert_idle(&guard);
}
