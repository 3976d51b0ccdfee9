//! The overhead of the guard over real sockets, and its benefit under overload. Ids are `group/variant`; one element is
//! one request.
//!
//! `cargo bench --features full --bench http`
//!
//! The machine's noise is larger than the layer's overhead. Therefore, after criterion's own figures, the variants of a
//! group take turns in short rounds, and the lines `… ratio …` print the median of the ratios of all rounds. The group
//! `overload` has no criterion figure: it prints a table.

#![allow(clippy::print_stdout, reason = "it prints ratios and a table")]

mod client;
mod echo;
#[path = "../harness/mod.rs"]
mod harness;
mod overload;
mod refusal;
mod serve;
mod server;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // The benchmark starts itself as the server of `overload`.
    if overload::serve_if_asked() {
        return;
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    echo::axum_echo(&mut criterion);
    echo::axum_echo_watched(&mut criterion);
    refusal::refusal(&mut criterion);
    serve::serve_group(&mut criterion);
    overload::overload();
    criterion.final_summary();
}
