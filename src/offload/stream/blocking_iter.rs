//! [`iter_from_stream`] and [`BlockingIter`]: a stream for code that blocks.

use std::iter::FusedIterator;
use std::pin::Pin;
use std::task::Poll;
use std::thread;

use futures_core::Stream;
use tokio::runtime::Handle;

use crate::caller_trace::CallerTrace;
use crate::debug::impl_debug;
use crate::offload::from_thread::{FromThreadError, ThreadExecutor};
use crate::park::runs_async_tasks;

/// Converts a stream into an iterator, for code that may block: inside `run_blocking`, or on a thread of your own.
///
/// The stream's timers, its sockets and the tasks that it spawns belong to the runtime that is current at this call or,
/// if there is none, to the runtime that is current where the iterator is used. A stream that needs no runtime works
/// without one. The stream is polled in the `tracing` span and with the subscriber of the code that calls this
/// function.
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
    BlockingIter {
        stream: Some(Box::pin(stream)),
        runtime: Handle::try_current().ok(),
        trace: CallerTrace::capture(),
        executor: None,
    }
}

/// An iterator over a stream, which blocks its thread while the stream is pending. Created by [`iter_from_stream`].
///
/// When the stream has ended, the iterator drops the stream and returns `None`. A panic in the stream unwinds into the
/// caller.
#[must_use = "iterators do nothing unless they are iterated"]
pub struct BlockingIter<S> {
    /// `None` once the stream has ended.
    stream: Option<Pin<Box<S>>>,
    runtime: Option<Handle>,
    trace: CallerTrace,
    /// The executor of the thread that used the iterator last. That thread may block.
    executor: Option<ThreadExecutor>,
}

impl<S: Stream> BlockingIter<S> {
    /// Returns the next item, as [`Iterator::next`] does, or an error where that would panic.
    ///
    /// # Errors
    ///
    /// Returns [`FromThreadError::BlockingInAsync`] on a thread that runs async tasks, if the call has to wait or comes
    /// from another thread than the last one. No item is lost.
    pub fn try_next(&mut self) -> Result<Option<S::Item>, FromThreadError> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        // Checking the thread takes longer than many streams take for an item, so the thread is checked once, and again
        // before each wait.
        let executor = match self.executor.take() {
            Some(executor) if executor.thread_id() == thread::current().id() => executor,
            _ if runs_async_tasks() => return Err(FromThreadError::BlockingInAsync),
            _ => ThreadExecutor::current(),
        };
        let (_entered, trace) = (self.runtime.as_ref().map(Handle::enter), &self.trace);
        let item = loop {
            let next = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx));
            if let Poll::Ready(item) = trace.enter(|| executor.poll(std::pin::pin!(next))) {
                break item;
            }
            if runs_async_tasks() {
                return Err(FromThreadError::BlockingInAsync);
            }
            executor.park();
        };
        self.executor = Some(executor);
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
    /// Panics if the call has to wait, or comes from another thread than the last one, on a thread that runs async
    /// tasks, since it would block those tasks. Use the stream itself there. [`try_next`](BlockingIter::try_next)
    /// returns an error instead.
    #[track_caller]
    fn next(&mut self) -> Option<S::Item> {
        // With `unwrap_or_else`, the panic would have the location of the closure, not of the caller.
        match self.try_next() {
            Ok(item) => item,
            Err(error) => panic!("BlockingIter::next: {error}"),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.stream.as_ref().map_or((0, Some(0)), |stream| stream.size_hint())
    }
}

impl<S: Stream> FusedIterator for BlockingIter<S> {}

impl_debug!([S] BlockingIter<S> |this| { ended: this.stream.is_none(), .. });
