//! A program that calls `worker_guard()` first.

#![allow(clippy::print_stdout, reason = "a test reads what the program prints")]

fn main() {
    onelane::offload::process::worker_guard();
    println!("main");
    println!("{:?}", onelane_worker_guard::add_in_a_worker());
}
