//! Tests of a host and its services through the public API.
//!
//! Tests without threads use paused time, so their times are exact. Tests with threads use real time, with limits just
//! long enough to stand out from the noise of a busy machine.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]
#![allow(clippy::clone_on_ref_ptr, reason = "clones in tests are short")]

mod actor;
mod build;
mod cancellation;
mod children;
mod hostile;
mod intake;
mod lifespan;
mod matrix;
mod release;
mod restart;
mod restart_with;
mod run_until;
mod shares;
mod spans;
mod stack_size;
mod start;
mod status;
mod stop;
mod threads;
