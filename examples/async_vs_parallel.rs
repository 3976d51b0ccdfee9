//! Two waits: one after the other, blocking and async, and both at once.
//!
//! Run it: `cargo run --example async_vs_parallel`. `HOLD_MS` (default 2000) changes how long a wait takes. It prints:
//!
//! ```text
//! blocking, one after the other: 4.0 s
//! awaited, one after the other:  4.0 s
//! awaited together:              2.0 s
//! ```
//!
//! `async` alone makes nothing parallel: whoever awaits one thing after the other waits for the sum. What blocks can be
//! awaited together with others, too, once it is in `run_blocking`: the third line is of one wait of each kind.

#![allow(clippy::print_stdout, reason = "it shows on stdout what takes how long")]

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
