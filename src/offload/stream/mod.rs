//! Iterators that block as streams, and streams as iterators that block.
//!
//! | file | what it is |
//! |---|---|
//! | `blocking_stream` | the stream: it has the iterator run, and gives items out |
//! | `buffer` | what was made and not given out, and whose turn it is |
//! | `producer` | what a task of the pool does with the iterator |
//! | `blocking_iter` | the other way round |

mod blocking_iter;
mod blocking_stream;
mod buffer;
mod producer;

pub use self::blocking_iter::{BlockingIter, iter_from_stream};
pub use self::blocking_stream::{BlockingStream, stream_blocking};
