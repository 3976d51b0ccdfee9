//! Runs two waits one after the other, first blocking and then async, and finally both at once.
//!
//! Run it: `cargo run --example async_vs_parallel`. `HOLD_MS` (default 2000) sets the duration of a wait. It prints:
//!
//! ```text
//! blocking, one after the other: 4.0 s
//! awaited, one after the other:  4.0 s
//! awaited together:              2.0 s
//! ```
//!
//! `async` alone makes nothing parallel: code that awaits one future after the other waits for the sum of both.
//! Blocking code can be awaited together with other futures, too, once it is in `run_blocking`: the third line awaits
//! one wait of each kind.

#![allow(clippy::print_stdout, reason = "the example shows durations on stdout")]

use std::time::{Duration, Instant};
use std::{env, thread};

use onelane::{OffloadError, run_blocking};
use tokio::time::sleep;

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

fn show(what: &str, since: Instant) {
    println!("{what:30} {:.1} s", since.elapsed().as_secs_f64());
}

#[tokio::main]
async fn main() -> Result<(), OffloadError> {
    let start = Instant::now();
    thread::sleep(hold());
    thread::sleep(hold());
    show("blocking, one after the other:", start);

    let start = Instant::now();
    sleep(hold()).await;
    sleep(hold()).await;
    show("awaited, one after the other:", start);

    let start = Instant::now();
    let ((), blocked) = tokio::join!(sleep(hold()), run_blocking(|| thread::sleep(hold())));
    show("awaited together:", start);
    blocked
}
