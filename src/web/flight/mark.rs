//! [`FlightMark`], which keeps a request from entering the same flight twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Identifies a flight. Unlike an address, an id is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlightId(u64);

/// A request extension that lists the flights in which the request leads a run.
///
/// If a flight layer is applied to a router and to one of its routes, the inner layer passes a marked request through.
/// A request that a handler sends itself has no mark, and so is not confused with the request that the handler serves.
#[derive(Clone, Debug)]
pub(crate) struct FlightMark {
    flight: FlightId,
    outer: Option<Arc<Self>>,
}

impl FlightId {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl FlightMark {
    pub(crate) fn new(flight: FlightId, outer: Option<Self>) -> Self {
        Self { flight, outer: outer.map(Arc::new) }
    }

    pub(crate) fn is_inside(&self, flight: FlightId) -> bool {
        self.flight == flight || self.outer.as_ref().is_some_and(|outer| outer.is_inside(flight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_names_every_flight_around_it_and_no_other() {
        let [outer, inner, other] = [(); 3].map(|()| FlightId::new());
        let mark = FlightMark::new(inner, Some(FlightMark::new(outer, None)));
        assert_eq!([outer, inner, other].map(|flight| mark.is_inside(flight)), [true, true, false]);
    }
}
