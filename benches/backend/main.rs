//! The cost of a distributed guard, beside the raw operations of each store and other crates. Ids are `group/variant`.
//!
//! `cargo bench -p onelane-benches-backend`
//!
//! | group | what is measured |
//! |---|---|
//! | `uncontended_…` | acquire and release a lock that no other process wants |
//! | `hand_off_…` | from the release in one process to the end of the wait in another one |
//! | `cohort_…` | round trips for a turn, while many callers of a process want the lock |
//! | `renewals_…` | the CPU time of 1,000 permits that are held |
//!
//! The machine's noise is larger than some differences. The variants of a group therefore take turns in short rounds,
//! and a ratio is the median of the ratios of all rounds. Only `uncontended_…` has criterion figures in addition.
//!
//! The benchmark starts its own servers, and runs without those that are not installed.

#![allow(clippy::print_stdout, reason = "it prints ratios and tables")]

mod cohort;
mod compare;
mod hand_off;
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
mod host;
mod locks;
mod postgres;
mod redis;
mod renewals;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let groups = [
        #[cfg(target_os = "linux")]
        (host::GROUP, host::VARIANTS),
        (redis::GROUP, redis::VARIANTS),
        (postgres::GROUP, postgres::VARIANTS),
    ];
    if hand_off::serve_if_asked(&groups) {
        return;
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    #[cfg(target_os = "linux")]
    host::all(&mut criterion);
    redis::all(&mut criterion);
    postgres::all(&mut criterion);
    criterion.final_summary();
}
