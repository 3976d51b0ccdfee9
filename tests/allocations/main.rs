//! The allocations of guards, keyed guards, flights, hops and the web layers. They are counted per thread, so that
//! concurrent tests do not affect each other.

use support::counting::{Counting, allocations_of, live_bytes};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

mod endpoint_guard;
mod hops;
mod keyed_guard;
mod single_flight;
mod web;

/// Asserts that the counters count. Each module checks that, because its other tests prove nothing otherwise.
fn assert_allocator_counts() {
    let before = live_bytes();
    let made = allocations_of(|| {
        let bytes = vec![0_u8; 1_000];
        assert_eq!(live_bytes() - before, 1_000);
        bytes
    });
    assert_eq!((made, live_bytes() - before), (1, 0));
}
