//! Iterators that block as streams, and streams as iterators that block.

mod blocking_iter;
mod blocking_stream;
mod buffer;
mod producer;

pub use self::blocking_iter::{BlockingIter, iter_from_stream};
pub use self::blocking_stream::{BlockingStream, stream_blocking};
