//! A program that does not call `worker_guard()`.

#![allow(clippy::print_stdout, reason = "a test reads what the program prints")]

fn main() {
    println!("{:?}", onelane_worker_guard::add_in_a_worker());
}
