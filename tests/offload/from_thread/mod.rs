//! `from_thread`, `Portal` and `iter_from_stream`: async code from threads that block.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

mod block_on;
mod iter;
mod portal;
mod support;
