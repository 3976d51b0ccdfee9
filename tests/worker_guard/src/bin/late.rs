//! A program that calls `worker_guard()` after it has started a thread.

#![allow(clippy::print_stdout, reason = "a test reads what the program prints")]

use std::thread;
use std::time::Duration;

fn main() {
    thread::spawn(|| thread::sleep(Duration::from_secs(60)));
    onelane::offload::process::worker_guard();
    println!("{:?}", onelane_worker_guard::add_in_a_worker());
}
