//! Pools from outside: who runs, who waits, who never begins, and what is left.
//!
//! Real threads run here, so real time passes where one has to be busy. Times are asserted with the slack of a busy machine.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]
#![allow(clippy::clone_on_ref_ptr, reason = "a test clones what it looks at")]

mod abandoned;
mod cpu;
mod gate;
mod hostile;
mod limits;
mod nested;
mod order;
mod results;
mod runtimes;
mod storm;
