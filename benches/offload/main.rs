//! What it costs to run work off the async threads. Ids are `group/variant`; the goals are ratios.
//!
//! `cargo bench --features full --bench offload`

mod limiter;
mod pools;
mod streams;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = limiter::limiter_uncontended, limiter::limiter_contended_64, pools::round_trip, pools::in_flight_1000,
        pools::par_iter, pools::sleeps_800, streams::stream_item
}
criterion_main!(benches);
