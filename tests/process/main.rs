//! Process pools, with real processes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]
#![allow(clippy::print_stderr, reason = "a task may write to its standard error")]
#![allow(clippy::print_stdout, reason = "a test prints what it has measured")]
#![allow(clippy::exit, reason = "a task may end its worker")]

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
