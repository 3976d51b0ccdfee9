//! Callers of one process pass the turn on to each other without the store.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onelane::KeyedGuard;
use onelane::backend::LockDomain;
use support::http::eventually;
use tokio::time::timeout;
use tokio_test::task;

use super::in_memory::{InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_secs(30);

async fn connected(store: &Arc<Store>, settings: impl FnOnce(LockDomain) -> LockDomain) -> &'static LockDomain {
    let locks = domain(settings);
    locks.connect(InMemory::new(store, LEASE)).await.unwrap();
    locks
}

#[tokio::test]
async fn turn_is_passed_on_as_often_as_the_cohort_allows() {
    let store = Arc::<Store>::default();
    let guard = Arc::new(guard(connected(&store, |domain| domain.cohort(4, PATIENCE)).await));
    let mut tokens = Vec::new();
    let mut permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    for _ in 0..11 {
        let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
        assert!(next.poll().is_pending());
        tokens.push(permit.lease().unwrap().fence());
        let before = permit.lease().unwrap().clone();
        drop(permit);
        assert!(before.is_lost());
        permit = timeout(PATIENCE, next).await.unwrap().unwrap();
    }
    tokens.push(permit.lease().unwrap().fence());
    drop(permit);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    eventually("the lock is released", || store.held() == 0).await;
    assert_eq!((store.attempts(), store.releases.load(Ordering::Relaxed)), (3, 3), "12 turns, 4 in each cohort");
}

#[tokio::test]
async fn callers_of_a_key_pass_the_turn_on() {
    let store = Arc::<Store>::default();
    let locks = connected(&store, |domain| domain.cohort(4, PATIENCE)).await;
    let keyed = Arc::new(KeyedGuard::<u32>::builder("user").distributed(locks).build());
    let mut permit = Arc::clone(&keyed).acquire_owned(7).await.unwrap();
    for _ in 0..3 {
        let mut next = task::spawn(Arc::clone(&keyed).acquire_owned(7));
        assert!(next.poll().is_pending());
        drop(permit);
        permit = timeout(PATIENCE, next).await.unwrap().unwrap();
    }
    drop(permit);
    eventually("the lock is released", || store.held() == 0).await;
    assert_eq!(store.attempts(), 1);
}

/// The caller that was granted the permit exists, but its future is not polled.
#[tokio::test]
async fn turn_that_is_not_taken_in_the_time_of_the_cohort_goes_to_other_processes() {
    let store = Arc::<Store>::default();
    let here = Arc::new(guard(connected(&store, |domain| domain.cohort(16, MS * 100)).await));
    let there = guard(connected(&store, |domain| domain).await);
    let permit = Arc::clone(&here).acquire_owned().await.unwrap();
    let mut stuck = task::spawn(Arc::clone(&here).acquire_owned());
    assert!(stuck.poll().is_pending());
    drop(permit);
    drop(timeout(PATIENCE, there.acquire()).await.unwrap().unwrap());
    drop(timeout(PATIENCE, stuck).await.unwrap().unwrap());
}

#[tokio::test]
async fn caller_that_acquires_in_a_loop_lets_other_processes_have_their_turn() {
    let store = Arc::<Store>::default();
    let (one, other) = (
        Arc::new(guard(connected(&store, |domain| domain).await)),
        Arc::new(guard(connected(&store, |domain| domain).await)),
    );
    let looping = tokio::spawn(async move {
        loop {
            let permit = one.acquire().await.unwrap();
            tokio::time::sleep(MS * 2).await;
            drop(permit);
        }
    });
    for _ in 0..10 {
        drop(timeout(PATIENCE, other.acquire()).await.unwrap().unwrap());
        tokio::time::sleep(MS * 20).await;
    }
    looping.abort();
}

#[tokio::test]
async fn caller_that_waits_for_its_releases_lets_other_processes_have_their_turn() {
    let store = Arc::<Store>::default();
    let one = guard(connected(&store, |domain| domain).await);
    let other = guard(connected(&store, |domain| domain).await);
    let looping = tokio::spawn(async move {
        loop {
            let permit = one.acquire().await.unwrap();
            tokio::time::sleep(MS * 2).await;
            permit.release().await.unwrap();
        }
    });
    for _ in 0..10 {
        drop(timeout(PATIENCE, other.acquire()).await.unwrap().unwrap());
        tokio::time::sleep(MS * 20).await;
    }
    looping.abort();
}

#[tokio::test]
async fn disconnecting_completes_although_a_turn_is_passed_on_at_the_same_time() {
    let store = Arc::<Store>::default();
    let locks = connected(&store, |domain| domain.cohort(16, PATIENCE)).await;
    let guard = Arc::new(guard(locks));
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(next.poll().is_pending());
    let mut disconnecting = task::spawn(locks.disconnect());
    assert!(disconnecting.poll().is_pending());
    drop(permit);
    assert!(timeout(PATIENCE, next).await.unwrap().is_err());
    timeout(PATIENCE, disconnecting).await.unwrap();
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn disconnecting_waits_for_the_release_of_a_turn_that_no_caller_has_taken() {
    let store = Arc::<Store>::default();
    let locks = connected(&store, |domain| domain.cohort(16, PATIENCE)).await;
    let guard = Arc::new(guard(locks));
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(next.poll().is_pending());
    drop(permit);
    store.hang().await;
    let mut disconnecting = task::spawn(locks.disconnect());
    assert!(disconnecting.poll().is_pending());
    tokio::time::sleep(MS * 50).await;
    store.answer_again();
    timeout(PATIENCE, disconnecting).await.unwrap();
    assert_eq!(store.held(), 0);
}

#[tokio::test]
async fn turn_is_not_passed_on_when_the_time_of_the_cohort_is_over() {
    let store = Arc::<Store>::default();
    let guard = Arc::new(guard(connected(&store, |domain| domain.cohort(16, Duration::ZERO)).await));
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(next.poll().is_pending());
    drop(permit);
    drop(timeout(PATIENCE, next).await.unwrap().unwrap());
    assert_eq!(store.attempts(), 2);
}

#[tokio::test]
async fn turn_that_no_caller_takes_is_released() {
    let store = Arc::<Store>::default();
    let locks = connected(&store, |domain| domain.cohort(16, PATIENCE)).await;
    let guard = Arc::new(guard(locks));
    let keyed = Arc::new(KeyedGuard::<u32>::builder("user").distributed(locks).build());
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(next.poll().is_pending());
    drop(permit);
    assert_eq!(store.held(), 1, "the lock is left for the caller that waits");
    drop(next);
    assert_eq!(store.held(), 0);

    let permit = Arc::clone(&keyed).acquire_owned(7).await.unwrap();
    let mut next = task::spawn(Arc::clone(&keyed).acquire_owned(7));
    let mut after = task::spawn(Arc::clone(&keyed).acquire_owned(7));
    assert!(next.poll().is_pending() && after.poll().is_pending());
    drop(permit);
    drop(next);
    let permit = timeout(PATIENCE, after).await.unwrap().unwrap();
    assert_eq!(store.held(), 1);
    drop(permit);
    assert_eq!(store.held(), 0);
    assert!(keyed.is_empty());
}

#[tokio::test]
async fn release_is_waited_for_although_the_caller_that_had_to_wait_for_it_has_left() {
    let store = Arc::<Store>::default();
    let guard = Arc::new(guard(connected(&store, |domain| domain.cohort(1, PATIENCE)).await));
    let permit = Arc::clone(&guard).acquire_owned().await.unwrap();
    let mut next = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(next.poll().is_pending());
    store.hang().await;
    drop(permit);
    drop(next);
    let mut after = task::spawn(Arc::clone(&guard).acquire_owned());
    assert!(after.poll().is_pending());
    assert_eq!(store.attempts(), 1, "the caller competes with processes that have waited for longer");
    store.answer_again();
    drop(timeout(PATIENCE, after).await.unwrap().unwrap());
    eventually("the lock is released", || store.held() == 0).await;
}

#[tokio::test]
async fn process_that_has_had_its_turns_lets_others_go_first() {
    let store = Arc::<Store>::default();
    let one = Arc::new(guard(connected(&store, |domain| domain.cohort(1, PATIENCE)).await));
    let other = Arc::new(guard(connected(&store, |domain| domain.cohort(1, PATIENCE)).await));
    for _ in 0..20 {
        let permit = Arc::clone(&one).acquire_owned().await.unwrap();
        let next = tokio::spawn(Arc::clone(&one).acquire_owned());
        let elsewhere = tokio::spawn(Arc::clone(&other).acquire_owned());
        tokio::time::sleep(MS * 5).await;
        drop(permit);
        let elsewhere = timeout(PATIENCE, elsewhere).await.unwrap().unwrap().unwrap();
        tokio::time::sleep(MS).await;
        assert!(!next.is_finished());
        drop(elsewhere);
        drop(timeout(PATIENCE, next).await.unwrap().unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_that_has_had_its_turn_lets_all_others_that_wait_go_first() {
    let store = Arc::<Store>::default();
    let mut guards = Vec::new();
    for _ in 0..4 {
        guards.push(Arc::new(guard(connected(&store, |domain| domain.cohort(1, PATIENCE)).await)));
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let processes: Vec<_> = guards
        .into_iter()
        .enumerate()
        .map(|(number, guard)| {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                for _ in 0..25 {
                    let permit = guard.acquire().await.unwrap();
                    order.lock().unwrap().push(number);
                    // Long enough for the other processes to wait, and shorter than the time for which a process steps
                    // back.
                    tokio::time::sleep(MS * 2).await;
                    drop(permit);
                }
            })
        })
        .collect();
    for process in processes {
        timeout(PATIENCE, process).await.unwrap().unwrap();
    }
    let order = order.lock().unwrap();
    // All processes compete, except during the first and the last turns.
    let rounds: Vec<_> = order[20..80].windows(4).collect();
    let complete = rounds.iter().filter(|round| (0..4).all(|number| round.contains(&number))).count();
    assert!(complete > rounds.len() / 2, "{order:?}");
}
