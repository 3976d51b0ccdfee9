//! `stream_blocking` and `BlockingStream`: iterators that block, as streams.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

mod bounds;
mod dropped;
mod ends;
mod order;
mod pools;
mod source;
mod started;
