//! Pools: which tasks run, which are queued, which never start, and what is left in the end.
//!
//! Real threads run here, so real time passes where a thread has to be busy. Assertions on times leave room for a busy
//! machine.

mod builder;
mod cancelled;
mod counts;
mod cpu;
mod cpu_parts;
mod errors;
mod hostile;
mod limits;
mod nested;
mod nested_beside;
mod order;
mod results;
mod runtimes;
mod storm;
mod threads;
mod user_code;

use std::hint::black_box;

/// Takes at least 512 bytes of stack for each of `n`. Returns `n / 2`.
#[inline(never)]
fn recurse(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    if n == 0 { 0 } else { recurse(n - 1) + frame[63] % 2 }
}
