//! Closing a flight, and waiting until its work has ended.

use std::future::{pending, ready};
use std::sync::Arc;

use onelane::SingleFlight;
use onelane::guard::FlightErrorKind;
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

type Flight = SingleFlight<u32, u32>;

#[test]
fn closed_flight_refuses_callers_and_its_runs_continue() {
    let flight = Flight::new("closing");
    let (sender, result) = oneshot::channel();
    let mut leader = task::spawn(flight.run(1, || async { Ok(result.await.unwrap()) }));
    assert_pending!(leader.poll());
    let mut drained = task::spawn(flight.drained());
    assert_pending!(drained.poll());
    flight.close();
    assert!(flight.is_closed());
    assert_pending!(drained.poll());

    for key in [1, 2] {
        let error = assert_ready_err!(task::spawn(flight.run(key, || ready(Ok(0)))).poll());
        assert_eq!((error.kind(), error.name()), (FlightErrorKind::Closed, Some("closing")));
    }
    sender.send(7).unwrap();
    assert_eq!(assert_ready_ok!(leader.poll()), 7);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());
}

#[test]
fn cancelled_run_and_an_unused_flight_are_drained() {
    let flight = Flight::new("cancelled");
    let mut leader = task::spawn(flight.run(1, pending));
    assert_pending!(leader.poll());
    flight.close();
    let mut drained = task::spawn(flight.drained());
    assert_pending!(drained.poll());
    drop(leader);
    assert!(drained.is_woken());
    assert_ready!(drained.poll());

    let unused = Flight::new("unused");
    unused.close();
    assert_ready!(task::spawn(unused.drained()).poll());
}

/// A caller that is never polled again must not hold up the end of the process.
#[tokio::test]
async fn outcome_that_no_waiter_takes_holds_up_nothing() {
    let flight = Flight::new("not taken");
    let (sender, result) = oneshot::channel();
    let mut leader = task::spawn(flight.run(1, || async { Ok(result.await.unwrap()) }));
    assert_pending!(leader.poll());
    let mut follower = task::spawn(flight.run(1, || ready(Ok(0))));
    assert_pending!(follower.poll());
    flight.close();
    sender.send(7).unwrap();
    flight.drained().await;
    assert_eq!(assert_ready_ok!(follower.poll()), 7);
    assert_eq!(assert_ready_ok!(leader.poll()), 7);
}

#[tokio::test]
async fn detached_run_is_known_to_the_process_and_waited_for() {
    let flight = Arc::new(SingleFlight::<u32, u32>::builder("detached flight").detached().build());
    let (sender, result) = oneshot::channel();
    let mut leader = task::spawn(flight.run(1, || async { Ok(result.await.unwrap()) }));
    assert_pending!(leader.poll());
    drop(leader);
    let running = onelane::detached::running();
    let work = running.iter().find(|work| work.name() == "detached flight").unwrap();
    assert_eq!(work.count(), 1);
    flight.close();
    let mut drained = task::spawn(flight.drained());
    assert_pending!(drained.poll());
    sender.send(7).unwrap();
    drained.await;
    onelane::detached::drained().await;
}
