//! [`stream_blocking`] and [`BlockingStream`]: an iterator that blocks, as a stream.

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

use super::buffer::{Bounds, Buffer, Chunk, Taken};
use super::producer::{FromIter, Producer, StreamBuffer};
use crate::offload::blocking::BlockingPool;
use crate::offload::error::OffloadError;
use crate::offload::task::{Priority, Task, TaskContext, TaskHandle};
use crate::offload::workers::Pool;
use crate::panic::{catch, discard};

/// So many items are buffered at most if it was not told.
const MAX_ITEMS: usize = 1024;

/// Makes a stream of an iterator that blocks: each [`next`](Iterator::next) is called on a thread of [`run_blocking`], 40
/// streams and tasks at a time. It is what `StreamingResponse` does with a generator that is not async.
///
/// It is [`BlockingPool::global`]'s [`stream`](BlockingPool::stream), with the same rules.
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
/// // `once_with` has the file opened on the thread of the pool, too.
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
/// In a response the two kinds of errors become one, and a stream that the pool refuses is answered with its status:
/// `Body::from_stream(lines.started().await?.map(|line| Ok::<_, BoxError>(line??)))`. (An `Err` of the iterator is an item like
/// others: a file that is not there is found in the body, unless the first item is looked at.)
pub fn stream_blocking<I>(iter: I) -> BlockingStream<I::Item>
where
    I: IntoIterator + Send + 'static,
    I::IntoIter: Send,
    I::Item: Send,
{
    BlockingPool::global().stream(iter)
}

/// The items of an iterator that runs on a [`BlockingPool`]. Made by [`stream_blocking`] and [`BlockingPool::stream`].
///
/// - Nothing happens before it is polled. Then `into_iter` and `next` are called on threads of the pool, never at the same
///   time, and not always on the same one.
/// - Each item can be taken as soon as it is there, the first one too: none waits for another to come with it. If they come
///   faster than they are taken, they are handed over many at a time.
/// - The iterator is one task of the pool while it makes items. When as many are buffered as may be, the task ends and its
///   thread and its permit are free for others; when half of them were taken, a new task goes on behind all that wait then,
///   even if the queue is full: what was let in is not refused in the middle.
///   So a reader that is slow takes no thread, while an iterator that is slow (one that waits for a line from somewhere) does.
/// - An iterator that panics ends the stream with [`OffloadError::Panicked`], after the items before the panic, and so does
///   a task that the pool refuses, with its reason. After an error, as after the end, there is only `None`. The iterator was
///   dropped by then: on a thread of the pool, unless it was refused.
///
/// Polled from a task of its own pool, through [`iter_from_stream`](super::iter_from_stream) or
/// [`from_thread::block_on`](crate::offload::from_thread::block_on), it makes one item at a time, on that very thread:
/// waiting for a thread, it might wait for itself.
///
/// # Cancel safety
///
/// A future of one `next` can be dropped: no item is lost.
///
/// Dropping the stream stops the iterator at its next item, which is dropped. An iterator that is just making it is dropped
/// on its thread afterwards, one that is not, here, with what is buffered. (One that takes long for an item can look at
/// [`check_cancelled`](crate::offload::from_thread::check_cancelled).) A panic of such a drop is shown by the panic hook,
/// and ends there.
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
    /// What was taken from the buffer, and is given out next.
    ready: Chunk<T>,
    stage: Stage<T>,
}

enum Stage<T> {
    New(Box<New<T>>),
    Going(Box<Going<T>>),
    Over,
}

struct New<T> {
    producer: Producer<T>,
    bounds: Bounds,
    terms: Terms,
    queue_timeout: Option<Duration>,
}

/// What each task of it is started with.
struct Terms {
    pool: Arc<Pool>,
    label: Option<Cow<'static, str>>,
    priority: Priority,
}

struct Going<T> {
    buffer: Arc<StreamBuffer<T>>,
    terms: Terms,
    /// How long the first task may wait.
    queue_timeout: Option<Duration>,
    /// Whether it has begun: the later tasks are neither refused by a full queue nor wait in it for so long only.
    is_admitted: bool,
    task: Option<TaskHandle<()>>,
    /// Why there was no task. What is buffered comes before it is told.
    failure: Option<OffloadError>,
    /// How it ended, once it has. It is told when its task has come to its own end, whose thread is free then.
    end: Option<Result<(), OffloadError>>,
}

impl BlockingPool {
    /// Makes a stream of an iterator that blocks, whose items are made on threads of this pool.
    pub fn stream<I>(&self, iter: I) -> BlockingStream<I::Item>
    where
        I: IntoIterator + Send + 'static,
        I::IntoIter: Send,
        I::Item: Send,
    {
        let new = New {
            producer: Producer { source: Box::new(FromIter::New(Some(iter))), size: None },
            bounds: Bounds { max_items: MAX_ITEMS, max_bytes: usize::MAX },
            terms: Terms { pool: Arc::clone(&self.0), label: None, priority: Priority::Normal },
            queue_timeout: self.0.queue_timeout,
        };
        BlockingStream { ready: Chunk::default(), stage: Stage::New(Box::new(new)) }
    }
}

/// Options. They have no effect on a stream that was polled.
impl<T> BlockingStream<T> {
    /// How many items may have been made that were not taken. At least 1. Default: 1024.
    pub fn max_items(self, items: usize) -> Self {
        self.with(|new| new.bounds.max_items = items.max(1))
    }

    /// How many bytes of items may have been made that were not taken, as `size` tells them. The item that reaches the
    /// bound is the last one before the iterator waits, so there may be more by less than one item. Default: any number.
    pub fn max_bytes(self, bytes: usize, size: impl Fn(&T) -> usize + Send + 'static) -> Self {
        self.with(|new| {
            new.bounds.max_bytes = bytes.max(1);
            new.producer.size = Some(Box::new(size));
        })
    }

    /// As [`Task::label`].
    pub fn label(self, label: impl Into<Cow<'static, str>>) -> Self {
        self.with(|new| new.terms.label = Some(label.into()))
    }

    /// As [`Task::priority`].
    pub fn priority(self, priority: Priority) -> Self {
        self.with(|new| new.terms.priority = priority)
    }

    /// As [`Task::queue_timeout`], for the first item: a stream that has begun waits for its further turns however long it
    /// takes.
    pub fn queue_timeout(self, limit: Duration) -> Self {
        self.with(|new| new.queue_timeout = Some(limit))
    }

    fn with(mut self, set: impl FnOnce(&mut New<T>)) -> Self {
        if let Stage::New(new) = &mut self.stage {
            set(new);
        }
        self
    }
}

impl<T: Send + 'static> BlockingStream<T> {
    /// Waits until the first item is there, or the end. The stream begins with that item then.
    ///
    /// For a response: what goes wrong later ends a body whose status was sent already, what goes wrong here can still be
    /// answered.
    ///
    /// # Errors
    ///
    /// What the stream would have begun with: it is refused, or it panics before the first item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the stream.
    ///
    /// # Examples
    ///
    /// ```
    /// use onelane::BlockingPool;
    /// use onelane::offload::{BlockingStream, OffloadError};
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
    /// assert_eq!(rows(pool).await.err(), Some(OffloadError::Closed));
    /// # }
    /// ```
    pub async fn started(mut self) -> Result<Self, OffloadError> {
        if self.ready.items.is_empty() {
            poll_fn(|cx| self.refill(cx)).await.transpose()?;
        }
        Ok(self)
    }

    /// Takes the next chunk, which is not empty.
    fn refill(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(), OffloadError>>> {
        if let Stage::New(_) = &self.stage {
            let Stage::New(new) = mem::replace(&mut self.stage, Stage::Over) else { unreachable!("it was there") };
            self.stage = Stage::Going(Box::new(Going::new(*new)));
        }
        let Stage::Going(going) = &mut self.stage else { return Poll::Ready(None) };
        let end = ready!(going.refill(&mut self.ready, cx));
        if !matches!(end, Some(Ok(()))) {
            self.stage = Stage::Over;
        }
        Poll::Ready(end)
    }
}

impl<T: Send + 'static> Going<T> {
    fn new(new: New<T>) -> Self {
        let New { producer, bounds, terms, queue_timeout } = new;
        let buffer = Arc::new(Buffer::new(bounds, producer));
        Self { buffer, terms, queue_timeout, is_admitted: false, task: None, failure: None, end: None }
    }

    fn refill(&mut self, chunk: &mut Chunk<T>, cx: &mut Context<'_>) -> Poll<Option<Result<(), OffloadError>>> {
        let mut fresh = None;
        loop {
            if self.end.is_some() {
                if let Some(task) = &mut self.task {
                    // It has done its work, so it does not fail any more.
                    let _ = ready!(Pin::new(task).poll(cx));
                    self.task = None;
                }
                return Poll::Ready(self.end.take().and_then(|end| end.err().map(Err)));
            }
            match self.buffer.take(chunk, cx.waker(), &mut fresh) {
                Taken::Chunk => {
                    // On a thread of the pool it would make the next item now, before this one is given out.
                    if !self.is_inside()
                        && let Some(producer) = self.buffer.resume()
                    {
                        self.start(producer);
                    }
                    return Poll::Ready(Some(Ok(())));
                }
                Taken::Parked(producer) => self.start(producer),
                Taken::WantsWaker => fresh = Some(cx.waker().clone()),
                Taken::Ended(error) => self.end = Some(error.map_or(Ok(()), Err)),
                Taken::Pending => {
                    if let Some(error) = self.failure.take() {
                        return Poll::Ready(Some(Err(error)));
                    }
                    let task = self.task.as_mut().expect("while it runs there is a task, or the reason why not");
                    // It tells when there will be none, too. Then the buffer is looked at again: it may have run before.
                    self.failure = ready!(Pin::new(task).poll(cx)).err();
                    self.task = None;
                }
            }
        }
    }

    /// Whether the consumer is a task of the pool. Then a new task is run before `start` returns.
    fn is_inside(&self) -> bool {
        TaskContext::is_inside(self.terms.pool.rules.limiter_id())
    }

    /// Has the producer go on in a new task.
    fn start(&mut self, producer: Producer<T>) {
        let (buffer, is_patient) = (Arc::clone(&self.buffer), self.is_inside());
        let work = move |_: &TaskContext| producer.run(&buffer, is_patient);
        let mut task = Task::new(Arc::clone(&self.terms.pool), work).priority(self.terms.priority);
        task.terms.label.clone_from(&self.terms.label);
        task.terms.is_admitted = mem::replace(&mut self.is_admitted, true);
        task.queue_timeout = self.queue_timeout.take();
        // A task that is refused is dropped here, with the iterator, which is foreign code.
        match catch(|| task.start()) {
            Ok(Ok(task)) => self.task = Some(task),
            Ok(Err(error)) => self.failure = Some(error),
            Err(panic) => self.failure = Some(OffloadError::Panicked(panic)),
        }
    }
}

impl<T: Send + 'static> Stream for BlockingStream<T> {
    type Item = Result<T, OffloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A stream that is always ready lets other tasks have their turn, too.
        let turn = ready!(coop::poll_proceed(cx));
        if self.ready.items.is_empty() {
            match ready!(self.refill(cx)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        turn.made_progress();
        Poll::Ready(self.ready.items.pop_front().map(Ok))
    }

    /// At least what is at hand. At the end, that it is over.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let ready = self.ready.items.len();
        (ready, matches!(self.stage, Stage::Over).then_some(ready))
    }
}

impl<T: Send + 'static> FusedStream for BlockingStream<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }
}

// Neither items nor the iterator are polled, so nothing is pinned.
impl<T> Unpin for BlockingStream<T> {}

impl<T> Drop for BlockingStream<T> {
    fn drop(&mut self) {
        let Stage::Going(going) = mem::replace(&mut self.stage, Stage::Over) else { return };
        // One by one: a second panic while one unwinds would end the process.
        let remains = going.buffer.close();
        let chunks = iter::once(mem::take(&mut self.ready)).chain(remains.chunks);
        chunks.flat_map(|chunk| chunk.items).for_each(discard);
        discard(remains.stage);
        discard(remains.waker);
        discard(going.task);
    }
}

impl<T> fmt::Debug for BlockingStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::New(_) => "new",
            Stage::Going(_) => "going",
            Stage::Over => "over",
        };
        f.debug_struct("BlockingStream").field("ready", &self.ready.items.len()).field("stage", &stage).finish()
    }
}
