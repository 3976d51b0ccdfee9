//! Single flights.

use std::convert::Infallible;
use std::future::{pending, ready};

use onelane::SingleFlight;
use onelane::guard::FlightErrorKind;
use support::leak;
use support::runtimes::current_thread;

use crate::{SHORT, poll_and_drop, quiet_panic};

type Flight = SingleFlight<&'static str, u8, Infallible>;

pub(crate) async fn scenario() {
    let flight: &Flight = leak(Flight::new("plain"));
    poll_and_drop(flight.run("left", pending));
    let panicked = flight.run("panics", || async {
        quiet_panic();
        Ok(0)
    });
    assert_eq!(panicked.await.unwrap_err().kind(), FlightErrorKind::Panicked);
    let nested = flight.run("nested", move || async move {
        let error = flight.run("nested", || ready(Ok(0))).await.unwrap_err();
        assert_eq!(error.kind(), FlightErrorKind::WouldDeadlock);
        Ok(0)
    });
    assert_eq!(nested.await.unwrap(), 0);
    flight.close();
    assert_eq!(flight.run("late", || ready(Ok(0))).await.unwrap_err().kind(), FlightErrorKind::Closed);

    let hasty = Flight::builder("hasty").max_wait(SHORT).build();
    assert_eq!(hasty.run("slow", pending).await.unwrap_err().kind(), FlightErrorKind::Timeout);
}

/// A runtime that ends while a run continues without callers.
pub(crate) fn scenario_of_runtimes() {
    let flight: &Flight = leak(Flight::builder("detached").detached().build());
    let runtime = current_thread();
    runtime.block_on(async { poll_and_drop(flight.run("cut", pending)) });
    drop(runtime);
}
