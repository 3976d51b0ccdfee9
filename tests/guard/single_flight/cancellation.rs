//! A cancelled caller leaves the run to the others.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_test::assert_pending;

use support::runtimes::{multi_thread, paused};
use support::waiting::{MS, yield_until};

use super::{Caller, WorkResult, assert_idle, caller, flight, joined, on_demand};
use crate::SECOND;

/// The number of await points of the work. Every second one takes time.
const POINTS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Dropped,
    /// Kept, but not polled again.
    Kept,
}

/// Work that reports which of its await points it has reached.
async fn work(reached: watch::Sender<usize>, started: Arc<AtomicUsize>) -> WorkResult {
    started.fetch_add(1, Ordering::Relaxed);
    for point in 0..POINTS {
        reached.send_replace(point);
        if point % 2 == 0 {
            yield_now().await;
        } else {
            sleep(10 * MS).await;
        }
    }
    Ok(7)
}

/// Of `others + 1` callers, one is dropped or no longer polled while the work is at an await point. Returns the time
/// at which each of the others got its value. `victim` 0 is the leader.
async fn outputs_of_the_others(others: usize, victim: usize, point: usize, fate: Fate, exact: bool) -> Vec<Duration> {
    let flight = flight();
    let start = Instant::now();
    let (reached, mut at) = watch::channel(0);
    let started = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for _ in 0..=others {
        let work = work(reached.clone(), Arc::clone(&started));
        callers.push(Some(Box::pin(flight.run(0, || work))));
    }
    drop(reached);
    // All in one poll, so that nothing else runs on this thread meanwhile.
    let first_polls = async {
        for caller in callers.iter_mut().flatten() {
            poll_fn(|cx| {
                assert_pending!(caller.as_mut().poll(cx));
                Poll::Ready(())
            })
            .await;
        }
    };
    unconstrained(first_polls).await;
    let before = *at.wait_for(|reached| *reached >= point).await.unwrap();
    if exact {
        assert_eq!(before, point);
    }
    let dropped = callers[victim].take();
    let kept = (fate == Fate::Kept).then_some(dropped);
    let others = callers.into_iter().flatten().map(|caller| async move {
        assert_eq!(caller.await.unwrap(), 7);
        start.elapsed()
    });
    let outputs = join_all(others).await;
    assert_eq!(started.load(Ordering::Relaxed), 1, "the work was run again");
    assert_eq!(flight.len(), 0);
    assert_eq!(flight.stats().waiting, usize::from(kept.is_some()));
    drop(kept);
    yield_until(|| flight.stats().waiting == 0).await;
    let stats = flight.stats();
    assert_eq!((stats.runs, stats.shared, stats.cancelled), (1, outputs.len() as u64, 0));
    outputs
}

fn every_case(others: usize) -> impl Iterator<Item = (usize, usize, Fate)> {
    let mut victims = vec![0, others.div_ceil(2), others];
    victims.dedup();
    victims.into_iter().flat_map(|victim| {
        (0..POINTS).flat_map(move |point| [Fate::Dropped, Fate::Kept].map(|fate| (victim, point, fate)))
    })
}

fn play_paused(others: usize) {
    // The time at which the value arrives without a cancellation.
    let undisturbed = paused().block_on(async {
        let start = Instant::now();
        let (reached, _at) = watch::channel(0);
        work(reached, Arc::default()).await.unwrap();
        start.elapsed()
    });
    assert!(undisturbed >= 30 * MS);
    for (victim, point, fate) in every_case(others) {
        let outputs = outputs_of_the_others(others, victim, point, fate, true);
        // Fails at once instead of hanging, because time is paused.
        let outputs = paused().block_on(async { timeout(1_000 * SECOND, outputs).await.expect("a caller hangs") });
        assert_eq!(outputs, vec![undisturbed; others], "{victim} {fate:?} at {point}");
    }
}

#[test]
fn one_of_two_callers_is_cancelled_at_any_point_and_the_other_gets_the_value_in_time() {
    play_paused(1);
}

#[test]
fn one_of_ten_callers_is_cancelled_at_any_point_and_the_others_get_the_value_in_time() {
    play_paused(9);
}

#[test]
fn one_of_a_thousand_callers_is_cancelled_at_any_point_and_the_others_get_the_value_in_time() {
    play_paused(1_000);
}

#[test]
fn caller_is_cancelled_at_any_point_on_many_threads_and_the_others_get_the_value() {
    let runtime = multi_thread(4);
    for others in [1, 9, 1_000] {
        for (victim, point, fate) in every_case(others) {
            // Real time, because a runtime with several threads has no other. It is not checked.
            let outputs = runtime.block_on(async {
                let outputs = tokio::spawn(outputs_of_the_others(others, victim, point, fate, false));
                timeout(60 * SECOND, outputs).await.expect("a caller hangs").unwrap()
            });
            assert_eq!(outputs.len(), others);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leader_dropped_by_its_own_work_leaves_the_run_to_its_follower() {
    let flight = flight();
    let dropped_by_work = Arc::new(Mutex::new(None::<Caller>));
    let mut other = {
        let leader = Arc::clone(&dropped_by_work);
        let mut first = caller(flight, 0, async move {
            sleep(SECOND).await;
            assert!(leader.lock().unwrap().take().is_some());
            sleep(SECOND).await;
            Ok(7)
        });
        assert_pending!(first.poll());
        let other = joined(flight, 0);
        *dropped_by_work.lock().unwrap() = Some(first);
        other
    };
    assert_eq!((&mut other).await.unwrap(), 7);
    assert_eq!((flight.stats().runs, flight.stats().cancelled), (1, 0));
}

#[tokio::test]
async fn ten_thousand_cancelled_leaders_leave_the_run_to_the_survivor() {
    cancel_ten_thousand(true).await;
}

#[test]
fn ten_thousand_cancelled_leaders_pass_the_work_on_without_a_runtime() {
    block_on(cancel_ten_thousand(false));
}

async fn cancel_ten_thousand(has_runtime: bool) {
    const CANCELLED: usize = 10_000;
    let flight = flight();
    let (finish, work) = on_demand();
    let polls = Arc::new(AtomicUsize::new(0));
    let mut work = Box::pin(work);
    let counted = Arc::clone(&polls);
    let mut leader = caller(
        flight,
        0,
        poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            work.as_mut().poll(cx)
        }),
    );
    assert_pending!(leader.poll());
    let mut survivor = joined(flight, 0);
    for _ in 0..CANCELLED {
        let next = joined(flight, 0);
        drop(std::mem::replace(&mut leader, next));
        if has_runtime {
            yield_now().await;
        } else {
            // Becomes the driver, or finds that the survivor is.
            assert_pending!(leader.poll());
        }
    }
    drop(leader);
    if !has_runtime {
        assert!(survivor.is_woken());
        assert_pending!(survivor.poll());
        assert!(polls.load(Ordering::Relaxed) > CANCELLED, "each leader polled the work");
    }
    finish.send(7).unwrap();
    assert_eq!(survivor.await.unwrap(), 7);
    let stats = flight.stats();
    assert_eq!((stats.runs, stats.shared, stats.cancelled), (1, CANCELLED as u64 + 1, 0));
    assert_idle(flight);
}
