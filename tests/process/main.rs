//! Process pools, with real processes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]
#![allow(clippy::exit, reason = "a task may end its worker")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures, and what a worker writes")]

mod callers;
mod calls;
mod faults;
mod idle;
mod limits;
mod processes;
mod recycling;
mod sandbox;
mod together;
mod work;
