//! `from_thread`, `Portal` and `iter_from_stream`: async code from threads that block.

mod block_on;
mod iter;
mod portal;
mod support;
