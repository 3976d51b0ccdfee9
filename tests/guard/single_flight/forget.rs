//! Forgetting a run.

use std::future::pending;
use std::sync::Arc;

use onelane::SingleFlight;
use tokio_test::{assert_pending, assert_ready_ok, task};

use support::leak;
use support::runtimes::current_thread;

use super::{Flight, assert_idle, assert_starts_fresh, caller, flight, joined, on_demand, settle};

#[test]
fn next_call_starts_another_run_and_each_run_keeps_its_own_callers() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        let flight = flight();
        assert!(!flight.forget(&0), "the key was never called");
        let (finish_old, old_work) = on_demand();
        let (finish_new, new_work) = on_demand();
        let mut old = caller(flight, 0, old_work);
        assert_pending!(old.poll());
        let mut shares_old = joined(flight, 0);
        assert!(!flight.forget(&1));
        assert!(flight.forget(&0));
        assert!(!flight.forget(&0), "the run is already forgotten");
        assert_eq!((flight.len(), flight.stats().waiting), (0, 2));
        let mut new = caller(flight, 0, new_work);
        assert_pending!(new.poll());
        let mut shares_new = joined(flight, 0);
        assert_eq!((flight.len(), flight.stats().waiting, flight.stats().runs), (1, 4, 2));
        // The new run completes first, which does not affect the old one.
        finish_new.send(2).unwrap();
        if has_runtime {
            runtime.block_on(settle());
        }
        assert_eq!(assert_ready_ok!(new.poll()), 2);
        assert_eq!(assert_ready_ok!(shares_new.poll()), 2);
        assert_pending!(old.poll());
        assert_starts_fresh(flight, 0);
        finish_old.send(1).unwrap();
        if has_runtime {
            runtime.block_on(settle());
        }
        assert_eq!(assert_ready_ok!(old.poll()), 1);
        assert_eq!(assert_ready_ok!(shares_old.poll()), 1);
        assert_idle(flight);
    }
}

#[test]
fn completion_of_a_forgotten_run_does_not_remove_the_new_one() {
    let flight = flight();
    let (finish_old, old_work) = on_demand();
    let (finish_new, new_work) = on_demand();
    let mut old = caller(flight, 0, old_work);
    assert_pending!(old.poll());
    flight.forget(&0);
    let mut new = caller(flight, 0, new_work);
    assert_pending!(new.poll());
    finish_old.send(1).unwrap();
    assert_eq!(assert_ready_ok!(old.poll()), 1);
    assert_eq!((flight.len(), flight.stats().waiting), (1, 1));
    let mut shares_new = joined(flight, 0);
    finish_new.send(2).unwrap();
    assert_eq!(assert_ready_ok!(new.poll()), 2);
    assert_eq!(assert_ready_ok!(shares_new.poll()), 2);
    assert_idle(flight);
}

#[test]
fn forgotten_run_whose_callers_are_all_dropped_is_cancelled() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        for callers in [1, 2, 3] {
            let flight = flight();
            let marker = Arc::new(());
            let captured = Arc::clone(&marker);
            let mut first = caller(flight, 0, async move {
                let _held = captured;
                pending().await
            });
            assert_pending!(first.poll());
            let mut all = vec![first];
            all.extend((1..callers).map(|_| joined(flight, 0)));
            assert!(flight.forget(&0));
            let mut new = caller(flight, 0, pending());
            assert_pending!(new.poll());
            drop(all);
            assert_eq!(Arc::strong_count(&marker), 1);
            assert_eq!((flight.len(), flight.stats().waiting, flight.stats().cancelled), (1, 1, 1));
            let shares_new = joined(flight, 0);
            drop((new, shares_new));
            assert_eq!(flight.stats().cancelled, 2);
            assert_idle(flight);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn forgotten_detached_run_finishes() {
    let flight = leak(Flight::builder("detached").detached().build());
    let (finish, work) = on_demand();
    let mut first = caller(flight, 0, work);
    assert_pending!(first.poll());
    flight.forget(&0);
    drop(first);
    assert_starts_fresh(flight, 0);
    assert!(!finish.is_closed());
    finish.send(7).unwrap();
    settle().await;
    assert_eq!((flight.len(), flight.stats().cancelled), (0, 0));
}

#[test]
fn work_of_a_forgotten_run_may_call_its_key() {
    let flight = flight();
    let mut only = caller(flight, 0, async {
        assert!(flight.forget(&0));
        flight.run(0, || async { Ok(8) }).await.map_err(|_| "the forgotten run still owns the key")
    });
    assert_eq!(assert_ready_ok!(only.poll()), 8);
    assert_eq!(flight.stats().runs, 2);
    assert_idle(flight);
}

#[test]
fn key_may_be_borrowed() {
    let flight = SingleFlight::<String, u32>::new("borrowed");
    let mut leader = task::spawn(flight.run("page".to_owned(), pending));
    assert_pending!(leader.poll());
    assert!(flight.forget("page") && !flight.forget("page"));
}
