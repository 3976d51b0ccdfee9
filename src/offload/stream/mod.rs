//! Blocking iterators as streams, and streams as blocking iterators.
//!
//! | file | contents |
//! |---|---|
//! | `blocking_stream` | the stream and its options |
//! | `running_stream` | a stream that was polled: it submits tasks, and takes their items |
//! | `buffer` | the items that were produced and not yet taken, and the producer while it does not run |
//! | `item_size` | how much memory an item takes |
//! | `producer` | what a task of the pool does with the iterator |
//! | `blocking_iter` | the opposite: an iterator over a stream |

mod blocking_iter;
mod blocking_stream;
mod buffer;
mod item_size;
#[cfg(all(test, loom))]
mod loom_tests;
mod producer;
mod running_stream;

pub use self::blocking_iter::{BlockingIter, iter_from_stream};
pub use self::blocking_stream::{BlockingStream, stream_blocking};
