//! A host and its services from outside.
//!
//! Where no thread is involved, time stands still and jumps, so that times are exact. Where one is, real time passes, as
//! little as can be told from the noise of a busy machine.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]
#![allow(clippy::clone_on_ref_ptr, reason = "a test clones what it looks at")]

mod actor;
mod build;
mod cancellation;
mod children;
mod hostile;
mod matrix;
mod restart;
mod restart_with;
mod run_until;
mod start;
mod status;
mod stop;
mod threads;
