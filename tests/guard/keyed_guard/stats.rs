//! The counters.

use std::fmt::Debug;
use std::hash::Hash;
use std::task::Poll;

use onelane::guard::GuardStats;
use onelane::guard::futures::AcquireKey;
use onelane::{KeyedGuard, KeyedPermit, Queue};
use tokio::task::yield_now;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, task};

use support::leak;
use support::random::Random;

use super::{assert_idle, is_too_many, queued};
use crate::{Colliding, SECOND, is_full};

#[tokio::test(start_paused = true)]
async fn each_counter_counts_only_its_own_event() {
    let guard = leak(
        KeyedGuard::builder("counted")
            .queue(Queue::Bounded(2))
            .max_wait(10 * SECOND)
            .grant_timeout(SECOND)
            .max_keys(3)
            .build(),
    );
    let counters = || {
        let GuardStats { granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached, .. } =
            guard.stats();
        [granted, queued, refused, timed_out, cancelled, expired, panicked, finished_detached]
    };
    assert_eq!((counters(), guard.len()), ([0; 8], 0));
    assert_eq!((&*guard.stats().name, guard.name(), guard.stats().permits), ("counted", "counted", 1));

    let other = guard.acquire(2).await.unwrap();
    let permit = guard.acquire(1).await.unwrap();
    assert_eq!(counters(), [2, 0, 0, 0, 0, 0, 0, 0], "permits acquired at once");
    assert!(guard.try_acquire(1).is_err());
    assert_eq!(counters(), [2, 0, 0, 0, 0, 0, 0, 0], "a `try_acquire` that finds its key busy");
    let [first, second] = [1, 1].map(|key| queued(guard, key));
    let third = queued(guard, 2);
    assert_eq!(counters(), [2, 3, 0, 0, 0, 0, 0, 0], "three waiters");
    assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (2, 3, 2));
    assert!(guard.acquire(1).await.is_err());
    assert_eq!(counters(), [2, 3, 1, 0, 0, 0, 0, 0], "a caller that finds the queue full");
    drop(second);
    assert_eq!(counters(), [2, 3, 1, 0, 1, 0, 0, 0], "a waiter that is cancelled");
    drop(permit);
    assert_eq!(counters(), [3, 3, 1, 0, 1, 0, 0, 0], "a permit granted to a waiter");
    drop(first);
    assert_eq!(counters(), [3, 3, 1, 0, 2, 0, 0, 0], "a granted waiter that is cancelled");
    drop((third, other));
    assert_eq!(counters(), [3, 3, 1, 0, 3, 0, 0, 0], "a cancelled waiter of another key");
    assert_idle(guard);

    let permit = guard.acquire(1).await.unwrap();
    assert!(guard.acquire(1).await.is_err());
    assert_eq!(counters(), [4, 4, 1, 1, 3, 0, 0, 0], "a waiter that times out");
    let mut late = queued(guard, 1);
    drop(permit);
    advance(SECOND).await;
    drop(guard.try_acquire(1).unwrap());
    assert_eq!(counters(), [6, 5, 1, 1, 3, 1, 0, 0], "a grant that expires, and its permit acquired by another caller");
    assert_ready_err!(late.poll());
    drop(late);
    assert_eq!(counters(), [6, 5, 1, 1, 3, 1, 0, 0], "reporting the expiry to the waiter counts nothing");

    assert!(tokio::spawn(guard.run(1, async { panic!("counted") })).await.is_err());
    assert_eq!(counters(), [7, 5, 1, 1, 3, 1, 1, 0], "a panic in a run");
    guard.run(1, async { guard.acquire(1).await.unwrap_err() }).await.unwrap();
    assert_eq!(counters(), [8, 5, 2, 1, 3, 1, 1, 0], "a caller that would wait for itself");
    assert!(guard.acquire_blocking(1).is_err());
    assert_eq!(counters(), [8, 5, 3, 1, 3, 1, 1, 0], "a caller that would block an async thread");
    let all = guard.acquire_all([1, 2, 3]).await.unwrap();
    assert!(guard.acquire(4).await.is_err());
    assert_eq!(counters(), [11, 5, 4, 1, 3, 1, 1, 0], "a caller with one key too many");
    drop(all);

    let mut run = task::spawn(guard.run_to_completion(1, yield_now()));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!(guard.stats().detached, 1);
    assert_eq!(counters(), [12, 5, 4, 1, 3, 1, 1, 0], "a run that is detached");
    guard.acquire(1).await.map(drop).unwrap();
    assert_eq!(counters(), [13, 6, 4, 1, 3, 1, 1, 1], "the detached run finishes");

    guard.close();
    assert!(guard.acquire(1).await.is_err());
    assert_eq!(counters(), [13, 6, 5, 1, 3, 1, 1, 1], "a caller after close");
    assert_eq!((guard.stats().overrun, guard.stats().cut_off), (0, 0));
    assert_idle(guard);
}

/// A caller that is enqueued or holds a permit.
enum Caller<'a, K: Hash + Eq> {
    Queued(task::Spawn<AcquireKey<'a, K>>),
    Holding(KeyedPermit<'a, K>),
}

/// Callers are created, polled and dropped at random. A waiter that was woken has been granted a permit.
fn stats_match_the_callers_of_a_random_program<K: Hash + Eq + Ord + Copy + Debug>(key: impl Fn(u32) -> K) {
    const KEYS: usize = 12;
    const MOST: usize = 8;
    let guard = KeyedGuard::builder("mixed").permits(2).queue(Queue::Bounded(3)).max_keys(MOST).build();
    let mut callers: Vec<(K, Caller<'_, K>)> = Vec::new();
    let mut random = Random(11);
    let (mut refused, mut cancelled, mut queued_callers, mut grants) = (0, 0, 0, 0);
    for step in 0..20_000 {
        // Mostly creates callers for a while, then mostly drops them, so that keys are added and removed all the time.
        let creates = random.below(8) < if step % 100 < 50 { 5 } else { 2 };
        if creates || callers.is_empty() {
            let key = key(random.below(KEYS) as u32);
            let mut caller = task::spawn(guard.acquire(key));
            match caller.poll() {
                Poll::Ready(Ok(permit)) => {
                    grants += 1;
                    callers.push((key, Caller::Holding(permit)));
                }
                Poll::Ready(Err(error)) => {
                    let known = callers.iter().any(|(other, _)| *other == key);
                    assert!(if known { is_full(&error) } else { is_too_many(&error) }, "{error:?}");
                    refused += 1;
                }
                Poll::Pending => {
                    queued_callers += 1;
                    callers.push((key, Caller::Queued(caller)));
                }
            }
        } else {
            let at = random.below(callers.len());
            let (key, caller) = callers.swap_remove(at);
            match caller {
                Caller::Queued(mut caller) if random.below(3) > 0 => {
                    let is_granted = caller.is_woken();
                    match caller.poll() {
                        Poll::Ready(permit) => {
                            assert!(is_granted);
                            grants += 1;
                            callers.push((key, Caller::Holding(permit.unwrap())));
                        }
                        Poll::Pending => {
                            assert!(!is_granted);
                            callers.push((key, Caller::Queued(caller)));
                        }
                    }
                }
                Caller::Queued(caller) => {
                    grants += u64::from(caller.is_woken());
                    cancelled += 1;
                    drop(caller);
                }
                Caller::Holding(permit) => drop(permit),
            }
        }
        let is_waiting = |caller: &Caller<'_, K>| matches!(caller, Caller::Queued(caller) if !caller.is_woken());
        let waiting = callers.iter().filter(|(_, caller)| is_waiting(caller)).count();
        let untaken = callers.iter().filter(|(_, caller)| matches!(caller, Caller::Queued(c) if c.is_woken())).count();
        let mut keys: Vec<_> = callers.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let stats = guard.stats();
        assert_eq!((stats.held, stats.waiting, guard.len()), (callers.len() - waiting, waiting, keys.len()));
        assert_eq!((stats.refused, stats.cancelled, stats.queued), (refused, cancelled, queued_callers));
        assert_eq!(stats.granted, grants + untaken as u64);
    }
    assert!(refused > 100 && cancelled > 100 && queued_callers > 100, "{:?}", guard.stats());
    drop(callers);
    assert_idle(&guard);
}

#[test]
fn stats_of_a_random_program_are_exact() {
    stats_match_the_callers_of_a_random_program(|number| number);
}

#[test]
fn stats_of_a_random_program_with_colliding_keys_are_exact() {
    stats_match_the_callers_of_a_random_program(Colliding);
}
