//! `stream_blocking` and `BlockingStream`: blocking iterators as streams.

mod bounds;
mod dropped;
mod ends;
mod order;
mod pools;
mod quiet;
mod source;
mod started;
