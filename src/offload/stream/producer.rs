//! [`Producer`], the side of a stream that runs on a thread of the pool.

use super::buffer::{Buffer, Parking, Pushed};
use crate::offload::error::OffloadError;
use crate::offload::task::wake;
use crate::panic::{catch, discard};

/// An iterator, which goes from task to task, and how large its items are.
pub(super) struct Producer<T> {
    pub(super) source: Box<dyn Source<T>>,
    pub(super) size: Option<Box<Size<T>>>,
}

pub(super) type Size<T> = dyn Fn(&T) -> usize + Send;

pub(super) type StreamBuffer<T> = Buffer<T, Producer<T>, OffloadError>;

/// An iterator whose type is not known. It is not asked item by item, so that its loop is compiled as one.
pub(super) trait Source<T>: Send {
    fn fill(&mut self, outlet: &Outlet<'_, T>) -> Stop;
}

/// Where items go.
pub(super) struct Outlet<'a, T> {
    buffer: &'a StreamBuffer<T>,
    size: Option<&'a Size<T>>,
    is_patient: bool,
}

/// Why an iterator is not asked any more.
pub(super) enum Stop {
    Exhausted,
    Full,
    Closed,
}

/// What is to be iterated, and from the first task on its iterator.
pub(super) enum FromIter<I: IntoIterator> {
    New(Option<I>),
    Begun(I::IntoIter),
}

impl<T> Producer<T> {
    /// Makes items until the buffer is full or there are none. If it is `patient`, it makes one and waits: its consumer waits
    /// for this to return, and can't take it before.
    pub(super) fn run(mut self, buffer: &StreamBuffer<T>, is_patient: bool) {
        let panicked = loop {
            let outlet = Outlet { buffer, size: self.size.as_deref(), is_patient };
            match catch(|| self.source.fill(&outlet)) {
                Ok(Stop::Exhausted) => break None,
                Ok(Stop::Closed) => return discard(self),
                Ok(Stop::Full) => match buffer.park(self, is_patient) {
                    Parking::Parked => return,
                    Parking::GoOn(producer) => self = producer,
                    Parking::Closed(producer) => return discard(producer),
                },
                Err(panic) => break Some(panic),
            }
        };
        // Before the end is told: who sees it sees what the iterator held given back, too.
        let dropped = catch(|| drop(self)).err();
        let waker = buffer.end(panicked.or(dropped).map(OffloadError::Panicked));
        wake(waker);
    }
}

impl<T> Outlet<'_, T> {
    fn push(&self, item: T) -> Option<Stop> {
        let bytes = self.size.map_or(0, |size| size(&item));
        match self.buffer.push(item, bytes) {
            Pushed::Taken { is_full, waker } => {
                wake(waker);
                (is_full || self.is_patient).then_some(Stop::Full)
            }
            Pushed::Closed(item) => {
                discard(item);
                Some(Stop::Closed)
            }
        }
    }
}

impl<I> Source<I::Item> for FromIter<I>
where
    I: IntoIterator + Send,
    I::IntoIter: Send,
{
    fn fill(&mut self, outlet: &Outlet<'_, I::Item>) -> Stop {
        if let Self::New(iter) = self {
            let iter = iter.take().expect("where this panics, it is not called again");
            *self = Self::Begun(iter.into_iter());
        }
        let Self::Begun(iter) = self else { unreachable!("it has begun above") };
        iter.find_map(|item| outlet.push(item)).unwrap_or(Stop::Exhausted)
    }
}
