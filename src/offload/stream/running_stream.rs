//! [`RunningStream`], a stream that was polled: it submits tasks to its pool, and takes their items.

use std::borrow::Cow;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::buffer::{Buffer, BufferLimits, Chunk, TakeOutcome};
use super::producer::{Producer, StreamBuffer};
use crate::offload::error::OffloadError;
use crate::offload::job::{CallerContext, Priority, TaskContext};
use crate::offload::task::{Task, TaskHandle};
use crate::offload::trace;
use crate::offload::workers::Pool;
use crate::panic::{Panic, catch};

/// The default of `max_items` for items whose size is known, so that `max_bytes` limits their memory.
const MAX_ITEMS: usize = 1024;
/// The default of `max_items` for items of unknown size.
const MAX_ITEMS_OF_UNKNOWN_SIZE: usize = 16;

/// A stream before it is polled.
pub(super) struct NewStream<T> {
    pub(super) producer: Producer<T>,
    /// `None` for the default.
    pub(super) max_items: Option<usize>,
    pub(super) max_bytes: usize,
    pub(super) tasks: StreamTaskOptions,
    /// How long the first task may be queued.
    pub(super) max_wait: Option<Duration>,
}

/// The options of each task of a stream.
pub(super) struct StreamTaskOptions {
    pub(super) pool: Arc<Pool>,
    pub(super) label: Option<Cow<'static, str>>,
    pub(super) priority: Priority,
    /// Captured when the stream was created.
    pub(super) caller: CallerContext,
}

pub(super) struct RunningStream<T> {
    pub(super) buffer: Arc<StreamBuffer<T>>,
    tasks: StreamTaskOptions,
    max_wait: Option<Duration>,
    /// The first task was submitted. Later ones are neither refused by a full queue nor limited in how long they are
    /// queued.
    is_admitted: bool,
    pub(super) task: Option<TaskHandle<()>>,
    /// Why the last task did not run. The stream returns it after the buffered items.
    failure: Option<OffloadError>,
    /// How the producer ended. The stream returns it once the producer's task has ended too, so that the task's thread
    /// is free by then.
    end: Option<Result<(), OffloadError>>,
}

impl<T: Send + 'static> RunningStream<T> {
    pub(super) fn new(new: NewStream<T>) -> Self {
        let NewStream { producer, max_items, max_bytes, tasks, max_wait } = new;
        let is_size_known = producer.size.is_known();
        let default_items = if is_size_known { MAX_ITEMS } else { MAX_ITEMS_OF_UNKNOWN_SIZE };
        let max_items = max_items.unwrap_or(default_items);
        let limits = BufferLimits { max_items, max_bytes: is_size_known.then_some(max_bytes) };
        let buffer = Arc::new(Buffer::new(limits, producer));
        Self { buffer, tasks, max_wait, is_admitted: false, task: None, failure: None, end: None }
    }

    /// Exchanges an empty chunk for the next one, which is not empty.
    pub(super) fn poll_chunk(
        &mut self,
        chunk: &mut Chunk<T>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<(), OffloadError>>> {
        let mut fresh = None;
        loop {
            if self.end.is_some() {
                if let Some(task) = &mut self.task {
                    // The producer has ended inside this task, so the task can't fail any more.
                    let _ = ready!(Pin::new(task).poll(cx));
                    self.task = None;
                }
                return Poll::Ready(self.end.take().and_then(|end| end.err().map(Err)));
            }
            match self.buffer.take(chunk, cx.waker(), &mut fresh) {
                TakeOutcome::Chunk => {
                    // On a thread of the pool, the producer might make the next item before this one is returned.
                    if !self.is_polled_by_pool()
                        && let Some(producer) = self.buffer.resume()
                    {
                        self.submit(producer);
                    }
                    return Poll::Ready(Some(Ok(())));
                }
                TakeOutcome::Parked(producer) => self.submit(producer),
                TakeOutcome::NeedsWaker => fresh = Some(cx.waker().clone()),
                TakeOutcome::Ended(panic) => self.end = Some(panic.map_or(Ok(()), |panic| Err(self.panicked(panic)))),
                TakeOutcome::Pending => {
                    if let Some(error) = self.failure.take() {
                        return Poll::Ready(Some(Err(error)));
                    }
                    let task = self.task.as_mut().expect("a running producer has a task, or a failure instead");
                    // The task may end without an item. The buffer is checked again then, since the producer may have
                    // run.
                    self.failure = ready!(Pin::new(task).poll(cx)).err();
                    self.task = None;
                }
            }
        }
    }

    fn panicked(&self, panic: Panic) -> OffloadError {
        OffloadError::panicked(panic).of_task(self.tasks.pool.config.pool.clone(), self.tasks.label.clone())
    }

    /// Returns `true` if the consumer is a task of the pool's limiter. A new task may then run before `start` returns.
    fn is_polled_by_pool(&self) -> bool {
        TaskContext::holds_token_of(self.tasks.pool.config.limiter_id())
    }

    /// Runs the producer in a new task.
    fn submit(&mut self, producer: Producer<T>) {
        let (buffer, is_one_at_a_time) = (Arc::clone(&self.buffer), self.is_polled_by_pool());
        let pool = Arc::clone(&self.tasks.pool);
        let work = move |cx: &TaskContext| {
            let report = |panic: &Panic| trace::panicked(&pool.config.pool, cx.label(), panic);
            producer.run(&buffer, is_one_at_a_time, report);
        };
        let caller = self.tasks.caller.for_one_of_many();
        let mut task = Task::with_caller(Arc::clone(&self.tasks.pool), work, caller).priority(self.tasks.priority);
        task.options.label.clone_from(&self.tasks.label);
        task.options.ignores_queue_bound = mem::replace(&mut self.is_admitted, true);
        task.max_wait = self.max_wait.take();
        // A refused task is dropped here, together with the iterator, which is user code.
        match catch(|| task.start()) {
            Ok(Ok(task)) => {
                // The earlier task has parked the iterator, and only has to return.
                if let Some(earlier) = self.task.replace(task) {
                    earlier.forget();
                }
            }
            Ok(Err(error)) => self.failure = Some(error),
            Err(panic) => {
                trace::panicked(&self.tasks.pool.config.pool, self.tasks.label.as_deref(), &panic);
                self.failure = Some(self.panicked(panic));
            }
        }
    }
}
