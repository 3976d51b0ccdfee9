//! [`Buffer`], the items between an iterator and its stream, and the producer while it is parked.
//!
//! ```text
//!              resume              end
//!   Parked ──────────▶ Running ──────────▶ Ended
//!      ▲       park       │
//!      ╰──────────────────╯        from each of them, when the stream is dropped ──▶ Closed
//! ```
//!
//! The producer pushes each item immediately, since it can't know how long the next one takes. The consumer takes all
//! items that have accumulated: a chunk has one item while the consumer waits for it, and many while the consumer is
//! the slower side.
//!
//! # Invariants
//!
//! 1. The producer is in one place: in `Parked`, or with the task that runs it or is queued to run it.
//! 2. `items` and `bytes` count the items in `chunks` and in the chunk that the consumer has taken and not returned.
//!    Only the producer increases them, by one item at a time, and not while they are at their limits: so there are
//!    never more items than `max_items`, or than one, and the bytes exceed `max_bytes` by one item at most.
//! 3. A waker is kept only while nothing is buffered and the state is `Running`. `push` and `end`, which change that,
//!    take it out with the mutex held, and their caller wakes it. (`park` changes the state only while `items` is not
//!    0, when the consumer is not waiting.)
//! 4. While the producer is parked, `items` is not 0, or the producer has not started. So the consumer is not waiting:
//!    it will come back for the next chunk, and if it finds none, it resumes the producer, whatever happened before. So
//!    no wake-up can be lost.
//! 5. No item, producer, error or waker is dropped, cloned or woken with the mutex held.

use std::collections::VecDeque;
use std::mem;
use std::task::Waker;

use crate::sync::{Mutex, lock};
use crate::waker_slot::WakerSlot;

/// The maximum number of items in a chunk.
const MAX_CHUNK_ITEMS: usize = 256;
/// The maximum number of empty chunks that are kept for reuse.
const MAX_SPARE: usize = 2;

/// How much may be buffered. One item is buffered even if a limit is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferLimits {
    pub(crate) max_items: usize,
    pub(crate) max_bytes: Option<usize>,
}

/// `T` is an item, `P` the producer while it is parked, and `E` the error with which it ended.
pub(crate) struct Buffer<T, P, E> {
    limits: BufferLimits,
    pub(super) state: Mutex<BufferState<T, P, E>>,
}

pub(crate) struct BufferState<T, P, E> {
    pub(crate) chunks: VecDeque<Chunk<T>>,
    spare: Vec<VecDeque<T>>,
    pub(super) items: usize,
    bytes: usize,
    pub(crate) producer: ProducerState<P, E>,
    pub(crate) waker: WakerSlot,
}

/// Where the producer is.
pub(crate) enum ProducerState<P, E> {
    Parked(P),
    Running,
    Ended(Option<E>),
    Closed,
}

/// Items that the consumer takes together.
#[derive(Debug)]
pub(crate) struct Chunk<T> {
    pub(crate) items: VecDeque<T>,
    /// How many items were put in, and their size.
    count: usize,
    bytes: usize,
}

/// What the consumer finds.
pub(crate) enum TakeOutcome<P, E> {
    /// Items, now in the consumer's chunk.
    Chunk,
    /// There is no item. The consumer must run the producer, and then take again.
    Parked(P),
    /// There is no item. The waker is registered.
    Pending,
    /// There is no item. The consumer must take again with an owned waker.
    NeedsWaker,
    /// The stream has ended. The error is returned once.
    Ended(Option<E>),
}

/// What happened to a pushed item.
pub(crate) enum PushOutcome<T> {
    /// The item is buffered. The caller must call the waker.
    Pushed { is_full: bool, waker: Option<Waker> },
    /// The stream was dropped.
    Closed(T),
}

/// What happened to a producer that found the buffer full.
pub(crate) enum ParkOutcome<P> {
    Parked,
    /// There is room again, so the producer continues.
    HasRoom(P),
    /// The stream was dropped.
    Closed(P),
}

impl<T, P, E> Buffer<T, P, E> {
    pub(crate) fn new(limits: BufferLimits, producer: P) -> Self {
        Self { limits, state: Mutex::new(BufferState::new(ProducerState::Parked(producer))) }
    }

    // For the consumer.

    /// Takes the next chunk, in exchange for an empty one.
    pub(crate) fn take(&self, chunk: &mut Chunk<T>, waker: &Waker, spare: &mut Option<Waker>) -> TakeOutcome<P, E> {
        let mut state = lock(&self.state);
        state.uncount(chunk);
        if let Some(next) = state.chunks.pop_front() {
            let empty = mem::replace(chunk, next).items;
            if state.spare.len() < MAX_SPARE && empty.capacity() > 0 {
                state.spare.push(empty);
            }
            return TakeOutcome::Chunk;
        }
        if let Some(producer) = state.producer.resume() {
            return TakeOutcome::Parked(producer);
        }
        let BufferState { producer, waker: slot, .. } = &mut *state;
        match producer {
            ProducerState::Ended(error) => TakeOutcome::Ended(error.take()),
            ProducerState::Running if slot.register(waker, spare) => TakeOutcome::Pending,
            ProducerState::Running => TakeOutcome::NeedsWaker,
            ProducerState::Parked(_) => unreachable!("a parked producer was resumed above"),
            ProducerState::Closed => {
                unreachable!("the consumer itself closes the buffer, and takes nothing after that")
            }
        }
    }

    /// Returns the producer if it is parked and at most half of the limits is buffered. The caller has to run it.
    pub(crate) fn resume(&self) -> Option<P> {
        let mut state = lock(&self.state);
        if state.is_half_empty(self.limits) { state.producer.resume() } else { None }
    }

    /// Refuses further items, because the stream is dropped. Returns the contents, which must be dropped without the
    /// mutex held.
    pub(crate) fn close(&self) -> BufferState<T, P, E> {
        mem::replace(&mut *lock(&self.state), BufferState::new(ProducerState::Closed))
    }

    // For the producer.

    /// Adds an item. If the buffer is then full, the producer must [`park`](Self::park) before it pushes the next one.
    pub(crate) fn push(&self, item: T, bytes: usize) -> PushOutcome<T> {
        let mut state = lock(&self.state);
        if matches!(state.producer, ProducerState::Closed) {
            return PushOutcome::Closed(item);
        }
        state.push(item, bytes, self.limits);
        PushOutcome::Pushed { is_full: state.is_full(self.limits), waker: state.waker.take() }
    }

    /// Parks the producer until there is room: half of the limits or, with `until_empty`, all of them.
    pub(crate) fn park(&self, producer: P, until_empty: bool) -> ParkOutcome<P> {
        let mut state = lock(&self.state);
        let has_room = if until_empty { state.items == 0 } else { state.is_half_empty(self.limits) };
        match state.producer {
            ProducerState::Closed => ParkOutcome::Closed(producer),
            _ if has_room => ParkOutcome::HasRoom(producer),
            _ => {
                state.producer = ProducerState::Parked(producer);
                ParkOutcome::Parked
            }
        }
    }

    /// Records that no items will follow. Returns the waker to call.
    pub(crate) fn end(&self, error: Option<E>) -> Option<Waker> {
        let mut state = lock(&self.state);
        if matches!(state.producer, ProducerState::Closed) {
            drop(state);
            drop(error);
            return None;
        }
        state.producer = ProducerState::Ended(error);
        state.waker.take()
    }
}

impl<T, P, E> BufferState<T, P, E> {
    fn new(producer: ProducerState<P, E>) -> Self {
        Self { chunks: VecDeque::new(), spare: Vec::new(), items: 0, bytes: 0, producer, waker: WakerSlot::new() }
    }

    /// Subtracts the items of a chunk that the consumer has emptied.
    fn uncount(&mut self, chunk: &mut Chunk<T>) {
        self.items -= mem::take(&mut chunk.count);
        self.bytes -= mem::take(&mut chunk.bytes);
    }

    fn push(&mut self, item: T, bytes: usize, limits: BufferLimits) {
        // Clamped so that huge items don't overflow the sum, which is later reduced by the same number.
        let bytes = bytes.min(usize::MAX - self.bytes);
        self.items += 1;
        self.bytes += bytes;
        match self.chunks.back_mut() {
            Some(last) if last.has_room(limits) => last.push(item, bytes),
            _ => {
                let mut next = Chunk { items: self.spare.pop().unwrap_or_default(), count: 0, bytes: 0 };
                next.push(item, bytes);
                self.chunks.push_back(next);
            }
        }
    }

    fn is_full(&self, limits: BufferLimits) -> bool {
        self.items >= limits.max_items || limits.max_bytes.is_some_and(|max| self.bytes >= max)
    }

    fn is_half_empty(&self, limits: BufferLimits) -> bool {
        self.items <= limits.max_items / 2 && limits.max_bytes.is_none_or(|max| self.bytes <= max / 2)
    }
}

impl<P, E> ProducerState<P, E> {
    /// Returns the producer if it is parked. The caller has to run it.
    fn resume(&mut self) -> Option<P> {
        if !matches!(self, Self::Parked(_)) {
            return None;
        }
        match mem::replace(self, Self::Running) {
            Self::Parked(producer) => Some(producer),
            _ => unreachable!("the state was checked above"),
        }
    }
}

impl<T> Chunk<T> {
    /// Returns `true` below a quarter of the limits and [`MAX_CHUNK_ITEMS`]: while the consumer empties one chunk, the
    /// producer fills others.
    fn has_room(&self, limits: BufferLimits) -> bool {
        self.count < MAX_CHUNK_ITEMS.min(limits.max_items / 4)
            && limits.max_bytes.is_none_or(|max| self.bytes < max / 4)
    }

    fn push(&mut self, item: T, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
        self.items.push_back(item);
    }
}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), count: 0, bytes: 0 }
    }
}
