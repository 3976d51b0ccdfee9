//! [`Producer`], the side of a stream that runs on a thread of the pool.

use super::buffer::{Buffer, ParkOutcome, PushOutcome};
use super::item_size::ItemSize;
use crate::panic::{Panic, catch_owned, discard};
use crate::wake::wake;

/// An iterator, which moves from task to task, and how to measure its items.
pub(super) struct Producer<T> {
    fill: Box<FillFn<T>>,
    pub(super) size: ItemSize<T>,
}

/// Produces items until the sink stops it, or the iterator ends. One call produces many items, so that the loop over
/// the iterator is compiled for its type.
type FillFn<T> = dyn FnMut(&ItemSink<'_, T>) -> FillOutcome + Send;

pub(super) type StreamBuffer<T> = Buffer<T, Producer<T>, Panic>;

/// Pushes items into the buffer.
pub(super) struct ItemSink<'a, T> {
    buffer: &'a StreamBuffer<T>,
    size: &'a ItemSize<T>,
    is_one_at_a_time: bool,
}

/// Why an iterator stopped producing items.
pub(super) enum FillOutcome {
    Exhausted,
    Full,
    Closed,
}

impl<T> Producer<T> {
    /// Creates a producer, which calls `into_iter` on the thread of its first task.
    pub(super) fn new<I>(iter: I) -> Self
    where
        I: IntoIterator<Item = T> + Send + 'static,
        I::IntoIter: Send,
        T: 'static,
    {
        let (mut new, mut started) = (Some(iter), None);
        let fill = move |sink: &ItemSink<'_, T>| {
            let mut new = || new.take().expect("a producer that panicked in `into_iter` is not run again");
            let iter = started.get_or_insert_with(|| new().into_iter());
            iter.find_map(|item| sink.push(item)).unwrap_or(FillOutcome::Exhausted)
        };
        Self { fill: Box::new(fill), size: ItemSize::of_type() }
    }

    /// Produces items until the buffer is full or the iterator ends. With `is_one_at_a_time`, the producer parks after
    /// each item, since its consumer can take the item only after this method returns. A panic is passed to `report`
    /// before the consumer sees it.
    pub(super) fn run(mut self, buffer: &StreamBuffer<T>, is_one_at_a_time: bool, report: impl FnOnce(&Panic)) {
        let panicked = loop {
            let sink = ItemSink { buffer, size: &self.size, is_one_at_a_time };
            match catch_owned(|| (self.fill)(&sink)) {
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
        // Drop the producer before the buffer ends: a consumer that sees the end also sees that the iterator has
        // released what it held.
        let dropped = catch_owned(|| drop(self)).err();
        let panic = panicked.or(dropped);
        if let Some(panic) = &panic {
            report(panic);
        }
        let waker = buffer.end(panic);
        wake(waker);
    }
}

impl<T> ItemSink<'_, T> {
    /// Pushes an item. Returns the reason if the iterator must stop.
    fn push(&self, item: T) -> Option<FillOutcome> {
        let bytes = self.size.of(&item);
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
