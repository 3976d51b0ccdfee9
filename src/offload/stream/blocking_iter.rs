//! [`iter_from_stream`] and [`BlockingIter`]: a stream for code that blocks.

use std::fmt;
use std::iter::FusedIterator;
use std::pin::Pin;
use std::task::Poll;
use std::thread;

use futures_core::Stream;
use tokio::runtime::Handle;

use crate::offload::from_thread::{FromThreadError, Waiter};
use crate::park::runs_async_tasks;

/// Makes an iterator of a stream, for code that may block: inside of `run_blocking`, or on a thread of your own.
///
/// What the stream does in the runtime, its timers, its sockets and what it spawns, is done in the one that is current where
/// this is called, or, if there is none, where the iterator is used. A stream that needs no runtime needs none.
///
/// # Examples
///
/// ```
/// use futures::{StreamExt, stream};
/// use onelane::offload::iter_from_stream;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), onelane::offload::OffloadError> {
/// let upload = stream::iter(["a;1", "b;2"]).then(|line| async move { line.to_owned() });
/// let lines = iter_from_stream(upload);
/// let sum = onelane::run_blocking(|| lines.filter_map(|line| line[2..].parse::<u32>().ok()).sum::<u32>());
/// assert_eq!(sum.await?, 3);
/// # Ok(())
/// # }
/// ```
pub fn iter_from_stream<S: Stream>(stream: S) -> BlockingIter<S> {
    BlockingIter { stream: Some(Box::pin(stream)), runtime: Handle::try_current().ok(), waiter: None }
}

/// An iterator over a stream, which blocks its thread while the stream waits. Made by [`iter_from_stream`].
///
/// When the stream has ended it is dropped, and there is only `None`. A panic of the stream goes on here.
#[must_use = "iterators do nothing unless they are iterated"]
pub struct BlockingIter<S> {
    /// `None` when it has ended.
    stream: Option<Pin<Box<S>>>,
    runtime: Option<Handle>,
    /// That of the thread on which it was used last, which may block.
    waiter: Option<Waiter>,
}

impl<S: Stream> BlockingIter<S> {
    /// The next item, as [`Iterator::next`] gives it, or an error where that would panic.
    ///
    /// # Errors
    ///
    /// [`FromThreadError::BlockingInAsync`] on a thread that runs async tasks. No item is lost.
    pub fn try_next(&mut self) -> Result<Option<S::Item>, FromThreadError> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        // A look at the thread takes longer than many a stream for an item, so it is taken once, and before each wait.
        let waiter = match self.waiter.take() {
            Some(waiter) if waiter.thread() == thread::current().id() => waiter,
            _ if runs_async_tasks() => return Err(FromThreadError::BlockingInAsync),
            _ => Waiter::here(),
        };
        let _entered = self.runtime.as_ref().map(Handle::enter);
        let item = loop {
            let next = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx));
            if let Poll::Ready(item) = waiter.poll(std::pin::pin!(next)) {
                break item;
            }
            if runs_async_tasks() {
                return Err(FromThreadError::BlockingInAsync);
            }
            waiter.park();
        };
        self.waiter = Some(waiter);
        if item.is_none() {
            self.stream = None;
        }
        Ok(item)
    }
}

impl<S: Stream> Iterator for BlockingIter<S> {
    type Item = S::Item;

    /// # Panics
    ///
    /// On a thread that runs async tasks, which would stand still while this one waits. There the stream itself is to be
    /// used. [`try_next`](BlockingIter::try_next) returns an error instead.
    fn next(&mut self) -> Option<S::Item> {
        self.try_next().unwrap_or_else(|error| panic!("BlockingIter::next: {error}"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.stream.as_ref().map_or((0, Some(0)), |stream| stream.size_hint())
    }
}

impl<S: Stream> FusedIterator for BlockingIter<S> {}

impl<S> fmt::Debug for BlockingIter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingIter").field("ended", &self.stream.is_none()).finish_non_exhaustive()
    }
}
