//! [`stream_blocking`] and [`BlockingStream`]: a blocking iterator as a stream.

use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::iter;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use tokio::task::coop;

use super::buffer::Chunk;
use super::item_size::ItemSize;
use super::producer::Producer;
use super::running_stream::{NewStream, RunningStream, StreamTaskOptions};
use crate::offload::blocking::BlockingPool;
use crate::offload::error::OffloadError;
use crate::offload::job::{CallerContext, Priority};
use crate::panic::discard;

/// The default of `max_bytes`: a mebibyte.
const MAX_BYTES: usize = 1024 * 1024;

/// Converts a blocking iterator into a stream: each [`next`](Iterator::next) is called on a thread of [`run_blocking`],
/// which runs at most 40 streams and tasks at a time. FastAPI's `StreamingResponse` does the same with a generator that
/// is not async.
///
/// This is [`stream`](BlockingPool::stream) of [`BlockingPool::global`].
///
/// [`run_blocking`]: crate::offload::run_blocking
///
/// # Examples
///
/// ```
/// use futures::StreamExt;
/// use std::fs::File;
/// use std::io::{BufRead, BufReader};
/// use std::iter::once_with;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // `once_with` opens the file on the thread of the pool, too.
/// let lines = once_with(|| File::open("Cargo.toml")).flat_map(|file| match file {
///     Ok(file) => BufReader::new(file).lines().collect::<Vec<_>>(),
///     Err(error) => vec![Err(error)],
/// });
/// let mut lines = onelane::stream_blocking(lines);
/// while let Some(line) = lines.next().await {
///     let _line: String = line??;
/// }
/// # Ok(())
/// # }
/// ```
///
/// In a response, merge the two kinds of errors, and answer with the status of the refusal if the pool refuses the
/// stream: `Body::from_stream(lines.started().await?.map(|line| Ok::<_, BoxError>(line??)))`. (An `Err` from the
/// iterator is an item like any other: a missing file shows up in the body, unless the handler checks the first item.)
pub fn stream_blocking<I>(iter: I) -> BlockingStream<I::Item>
where
    I: IntoIterator + Send + 'static,
    I::IntoIter: Send,
    I::Item: Send,
{
    BlockingPool::global().stream(iter)
}

/// The items of an iterator that runs on a [`BlockingPool`]. Created by [`stream_blocking`] and
/// [`BlockingPool::stream`].
///
/// - Nothing happens until the stream is polled. Then `into_iter` and `next` are called on threads of the pool, never
///   at the same time, and not always on the same thread.
/// - Each item, including the first one, can be taken as soon as it is produced: no item waits for another. Items that
///   are produced faster than they are taken are handed over many at a time.
/// - At most a mebibyte of items is produced ahead of the consumer, or 16 items if their size is not known: see
///   [`max_bytes`](Self::max_bytes).
/// - The iterator is one task of the pool while it produces items. When the buffer is full, the task ends, and its
///   thread and its token are free for others. When half of the items are taken, a new task continues. The new task is
///   queued behind all tasks of its priority that are already waiting, even if the queue is full: a stream that was
///   admitted is not refused in the middle. So a slow reader occupies no thread, while a slow iterator (one that waits
///   for a line from somewhere) does.
/// - The iterator runs in the `tracing` span and with the subscriber of the code that creates the stream, whichever
///   code polls it.
/// - An iterator that panics ends the stream with [`Panicked`](crate::offload::OffloadErrorKind::Panicked), after the
///   items before the panic. If the pool refuses a task, the stream ends with the reason. After an error, as after the
///   end, the stream returns `None`. The iterator has been dropped by then: on a thread of the pool, unless it was
///   refused.
///
/// If the stream is polled by a task of its own pool, through [`iter_from_stream`](super::iter_from_stream) or
/// [`from_thread::block_on`](crate::offload::from_thread::block_on), it produces one item at a time, on that same
/// thread: if it waited for a thread, it might wait for itself. In a runtime that the task has built, it does so on a
/// thread of that runtime while a token is free, like every [nested task](crate::offload#nested-tasks).
///
/// # Cancel safety
///
/// The future of one `next` can be dropped: no item is lost.
///
/// Dropping the stream stops the iterator at its next item, which is dropped. An iterator that is producing an item is
/// dropped on its thread afterwards; otherwise it is dropped here, with the buffered items. (An iterator that takes a
/// long time for an item can call [`check_cancelled`](crate::offload::from_thread::check_cancelled).) The panic hook
/// reports a panic in such a drop, and the panic does not propagate.
///
/// # Examples
///
/// ```
/// use futures::TryStreamExt;
/// use onelane::offload::{BlockingPool, OffloadError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), OffloadError> {
/// let pool = BlockingPool::new("exports");
/// let rows = (0..10_000).map(|row| format!("{row};{}\n", row * row));
/// let csv = pool.stream(rows).max_bytes(64 * 1024, String::len).label("squares.csv");
/// let bytes: usize = csv.try_fold(0, |sum, row| async move { Ok(sum + row.len()) }).await?;
/// assert_eq!(bytes, 134_264);
/// # Ok(())
/// # }
/// ```
#[must_use = "streams do nothing unless polled"]
pub struct BlockingStream<T> {
    /// Items that were taken from the buffer, and are returned next.
    ready: Chunk<T>,
    state: StreamState<T>,
}

enum StreamState<T> {
    New(Box<NewStream<T>>),
    Running(Box<RunningStream<T>>),
    Ended,
}

impl BlockingPool {
    /// Converts a blocking iterator into a stream, whose items are produced on threads of this pool.
    pub fn stream<I>(&self, iter: I) -> BlockingStream<I::Item>
    where
        I: IntoIterator + Send + 'static,
        I::IntoIter: Send,
        I::Item: Send,
    {
        let new = NewStream {
            producer: Producer::new(iter),
            max_items: None,
            max_bytes: MAX_BYTES,
            tasks: StreamTaskOptions {
                pool: Arc::clone(&self.0),
                label: None,
                priority: Priority::Normal,
                caller: CallerContext::capture(),
            },
            max_wait: self.0.max_wait,
        };
        BlockingStream { ready: Chunk::default(), state: StreamState::New(Box::new(new)) }
    }
}

/// Options, which have no effect once the stream was polled.
impl<T> BlockingStream<T> {
    /// Limits how many items may be produced ahead of the consumer. With 0 or 1, each item is produced only when the
    /// stream is polled for it. The limit of [`max_bytes`](Self::max_bytes) applies beside this one. Default: 1024 if
    /// the size of the items is known, and 16 otherwise.
    pub fn max_items(self, items: usize) -> Self {
        self.with(|new| new.max_items = Some(items))
    }

    /// Limits how many bytes of items may be produced ahead of the consumer, as measured by `size`. The item that
    /// reaches the limit is the last one before the iterator waits, so the limit is exceeded by one item at most. With
    /// 0, an item is produced only when all bytes before it were taken. With `usize::MAX`, there is no limit.
    ///
    /// Default: a mebibyte, as measured by the bytes or the text in the items, if their type is `Vec<u8>`, `String`,
    /// `Bytes`, `BytesMut`, `Box`, `Arc` or `Cow` of `[u8]` or `str`, or a `Result` of one of these types with
    /// `io::Error`, `Infallible`, [`OffloadError`] or `Box<dyn Error + Send + Sync>`. A type without a destructor, such
    /// as a number or an array, is measured by `size_of`. The size of other items is not known, and only
    /// [`max_items`](Self::max_items) limits them.
    pub fn max_bytes(self, bytes: usize, size: impl Fn(&T) -> usize + Send + 'static) -> Self {
        self.with(|new| {
            new.max_bytes = bytes;
            new.producer.size = ItemSize::Measured(Box::new(size));
        })
    }

    /// Sets the label of the stream's tasks: see [`Task::label`](crate::offload::Task::label).
    pub fn label(self, label: impl Into<Cow<'static, str>>) -> Self {
        self.with(|new| new.tasks.label = Some(label.into()))
    }

    /// Sets the priority of the stream's tasks: see [`Task::priority`](crate::offload::Task::priority).
    pub fn priority(self, priority: Priority) -> Self {
        self.with(|new| new.tasks.priority = priority)
    }

    /// Limits how long the stream's first task waits for a thread: see
    /// [`Task::max_wait`](crate::offload::Task::max_wait). The later tasks of a stream that has started wait
    /// without a time limit.
    pub fn max_wait(self, limit: Duration) -> Self {
        self.with(|new| new.max_wait = Some(limit))
    }

    fn with(mut self, set: impl FnOnce(&mut NewStream<T>)) -> Self {
        if let StreamState::New(new) = &mut self.state {
            set(new);
        }
        self
    }
}

impl<T: Send + 'static> BlockingStream<T> {
    /// Waits until the first item is produced, or the stream ends. The stream then starts with that item.
    ///
    /// Call this method before a response is sent: an error after the first item ends a body whose status was already
    /// sent, while the handler can still answer an error from this method with a status.
    ///
    /// # Errors
    ///
    /// Returns the error with which the stream would have started: the pool refused the stream, or the iterator
    /// panicked before the first item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the stream.
    ///
    /// # Examples
    ///
    /// ```
    /// use onelane::BlockingPool;
    /// use onelane::offload::{BlockingStream, OffloadError, OffloadErrorKind};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// /// As a handler: 503 if the pool has no thread for it.
    /// async fn rows(pool: BlockingPool) -> Result<BlockingStream<String>, OffloadError> {
    ///     pool.stream((0..100).map(|n| format!("row {n}\n"))).started().await
    /// }
    ///
    /// let pool = BlockingPool::new("exports");
    /// assert!(rows(pool.clone()).await.is_ok());
    /// pool.close();
    /// assert_eq!(rows(pool).await.err().map(|error| error.kind()), Some(OffloadErrorKind::Closed));
    /// # }
    /// ```
    pub async fn started(mut self) -> Result<Self, OffloadError> {
        if self.ready.items.is_empty() {
            poll_fn(|cx| self.poll_chunk(cx)).await.transpose()?;
        }
        Ok(self)
    }

    /// Takes the next chunk, which is not empty.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), OffloadError>>> {
        self.state = match mem::replace(&mut self.state, StreamState::Ended) {
            StreamState::New(new) => StreamState::Running(Box::new(RunningStream::new(*new))),
            other => other,
        };
        let StreamState::Running(running) = &mut self.state else { return Poll::Ready(None) };
        let outcome = ready!(running.poll_chunk(&mut self.ready, cx));
        if !matches!(outcome, Some(Ok(()))) {
            self.state = StreamState::Ended;
        }
        Poll::Ready(outcome)
    }
}

impl<T: Send + 'static> Stream for BlockingStream<T> {
    type Item = Result<T, OffloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A stream that is always ready still lets other tasks run.
        let coop = ready!(coop::poll_proceed(cx));
        if self.ready.items.is_empty() {
            match ready!(self.poll_chunk(cx)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        coop.made_progress();
        Poll::Ready(self.ready.items.pop_front().map(Ok))
    }

    /// Returns the number of items already taken from the buffer as the lower bound. After the end, this number is
    /// exact.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let ready = self.ready.items.len();
        (ready, self.is_terminated().then_some(ready))
    }
}

impl<T: Send + 'static> FusedStream for BlockingStream<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, StreamState::Ended)
    }
}

// Neither items nor the iterator are polled, so nothing is pinned.
impl<T> Unpin for BlockingStream<T> {}

impl<T> Drop for BlockingStream<T> {
    fn drop(&mut self) {
        let running = match mem::replace(&mut self.state, StreamState::Ended) {
            StreamState::Running(running) => running,
            // The iterator is the user's.
            unstarted => return discard(unstarted),
        };
        // Drop the values one by one: a second panic during unwinding would abort the process.
        let deferred = running.buffer.close();
        let chunks = iter::once(mem::take(&mut self.ready)).chain(deferred.chunks);
        chunks.flat_map(|chunk| chunk.items).for_each(discard);
        discard(deferred.producer);
        discard(deferred.waker);
        discard(running.task);
    }
}

impl<T> fmt::Debug for BlockingStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            StreamState::New(_) => "new",
            StreamState::Running(_) => "running",
            StreamState::Ended => "ended",
        };
        f.debug_struct("BlockingStream").field("ready", &self.ready.items.len()).field("state", &state).finish()
    }
}
