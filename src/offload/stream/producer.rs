//! [`Producer`], the side of a stream that runs on a thread of the pool.

use super::buffer::{Buffer, ParkOutcome, PushOutcome};
use crate::offload::error::OffloadError;
use crate::offload::task::wake;
use crate::panic::{catch, discard};

/// An iterator, which moves from task to task, and how to measure its items.
pub(super) struct Producer<T> {
    pub(super) source: Box<dyn ItemSource<T>>,
    pub(super) size: Option<Box<SizeFn<T>>>,
}

pub(super) type SizeFn<T> = dyn Fn(&T) -> usize + Send;

pub(super) type StreamBuffer<T> = Buffer<T, Producer<T>, OffloadError>;

/// An iterator of an erased type. One call produces many items, so that the loop over the iterator is compiled as one.
pub(super) trait ItemSource<T>: Send {
    /// Produces items until the sink stops it, or the iterator ends.
    fn fill(&mut self, sink: &ItemSink<'_, T>) -> FillOutcome;
}

/// Pushes items into the buffer.
pub(super) struct ItemSink<'a, T> {
    buffer: &'a StreamBuffer<T>,
    size: Option<&'a SizeFn<T>>,
    is_one_at_a_time: bool,
}

/// Why a source stopped.
pub(super) enum FillOutcome {
    Exhausted,
    Full,
    Closed,
}

/// An `IntoIterator` until the first task, and its iterator from then on.
pub(super) enum IterSource<I: IntoIterator> {
    New(Option<I>),
    Started(I::IntoIter),
}

impl<T> Producer<T> {
    /// Produces items until the buffer is full or the iterator ends. If it `is_one_at_a_time`, it parks after each item: its
    /// consumer can take the item only after this returns.
    pub(super) fn run(mut self, buffer: &StreamBuffer<T>, is_one_at_a_time: bool) {
        let panicked = loop {
            let sink = ItemSink { buffer, size: self.size.as_deref(), is_one_at_a_time };
            match catch(|| self.source.fill(&sink)) {
                Ok(FillOutcome::Exhausted) => break None,
                Ok(FillOutcome::Closed) => return discard(self),
                Ok(FillOutcome::Full) => match buffer.park(self, is_one_at_a_time) {
                    ParkOutcome::Parked => return,
                    ParkOutcome::HasRoom(producer) => self = producer,
                    ParkOutcome::Closed(producer) => return discard(producer),
                },
                Err(panic) => break Some(panic),
            }
        };
        // Before the buffer ends: a consumer that sees the end also sees that the iterator has released what it held.
        let dropped = catch(|| drop(self)).err();
        let waker = buffer.end(panicked.or(dropped).map(OffloadError::Panicked));
        wake(waker);
    }
}

impl<T> ItemSink<'_, T> {
    /// Pushes an item. Returns why the source has to stop, if it has to.
    fn push(&self, item: T) -> Option<FillOutcome> {
        let bytes = self.size.map_or(0, |size| size(&item));
        match self.buffer.push(item, bytes) {
            PushOutcome::Pushed { is_full, waker } => {
                wake(waker);
                (is_full || self.is_one_at_a_time).then_some(FillOutcome::Full)
            }
            PushOutcome::Closed(item) => {
                discard(item);
                Some(FillOutcome::Closed)
            }
        }
    }
}

impl<I> ItemSource<I::Item> for IterSource<I>
where
    I: IntoIterator + Send,
    I::IntoIter: Send,
{
    fn fill(&mut self, sink: &ItemSink<'_, I::Item>) -> FillOutcome {
        if let Self::New(iter) = self {
            let iter = iter.take().expect("a source that panicked in `into_iter` is not filled again");
            *self = Self::Started(iter.into_iter());
        }
        let Self::Started(iter) = self else { unreachable!("the iterator was created above") };
        iter.find_map(|item| sink.push(item)).unwrap_or(FillOutcome::Exhausted)
    }
}
