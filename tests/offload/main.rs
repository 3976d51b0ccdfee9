//! Pools, streams, the limiter and async code from threads, through their public API.

#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]
#![allow(clippy::clone_on_ref_ptr, reason = "a test clones the handles that it checks")]

mod caller_context;
mod from_thread;
mod limiter;
mod pool;
mod runtimes;
mod stream;
