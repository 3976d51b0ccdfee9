//! Pools, streams, the limiter and the ways back from a thread, from outside.

mod from_thread;
mod limiter;
mod pool;
mod stream;
