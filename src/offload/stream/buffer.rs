//! [`Buffer`], what an iterator has made and its stream has not given out yet, and whose turn it is.
//!
//! ```text
//!              resume              end
//!   Parked ──────────▶ Running ──────────▶ Ended
//!      ▲       park       │
//!      ╰──────────────────╯        from each of them, when the stream is dropped ──▶ Closed
//! ```
//!
//! The producer puts each item in at once, since it does not know how long the next one takes, and the consumer takes what
//! has gathered as a whole: a chunk has one item where the consumer waits for it, and many where it is the slower one.
//!
//! # Invariants
//!
//! 1. The producer is in one place: in `Parked`, or with the task that runs it or waits to.
//! 2. `items` and `bytes` count what is in `chunks` and in the chunk that the consumer has not come back with. Only the
//!    producer raises them, by one item a time, and not while they are at their bounds: so there are never more items than
//!    `max_items`, and the bytes are beyond `max_bytes` by less than one item.
//! 3. A waker is kept only while nothing is buffered and the stage is `Running`. What changes either, `push` and `end`,
//!    takes it out under the same lock, and its caller wakes it. (`park` changes the stage only while `items` is not 0, when the consumer does not wait.)
//! 4. While the producer is parked, `items` is not 0, or it has not begun. So the consumer has not waited since: it is about
//!    to come for the next chunk, and when it finds none it resumes the producer, whatever has happened before. There is no
//!    wake-up to lose.
//! 5. No item, producer, error or waker is dropped, cloned or woken under the mutex.

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;

use std::collections::VecDeque;
use std::mem;
use std::task::Waker;

use crate::sync::{Mutex, lock};

/// So many items of one kind make a chunk at most.
const CHUNK: usize = 256;
/// So many empty chunks are kept to be filled again.
const SPARE: usize = 2;

/// How much is buffered at most. Each is at least 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_items: usize,
    pub(crate) max_bytes: usize,
}

/// `P` is the producer while it does not run, `E` why it ended early.
pub(crate) struct Buffer<T, P, E> {
    bounds: Bounds,
    state: Mutex<State<T, P, E>>,
}

struct State<T, P, E> {
    chunks: VecDeque<Chunk<T>>,
    spare: Vec<VecDeque<T>>,
    items: usize,
    bytes: usize,
    stage: Stage<P, E>,
    waker: Option<Waker>,
}

/// Who has the producer.
pub(crate) enum Stage<P, E> {
    Parked(P),
    Running,
    Ended(Option<E>),
    Closed,
}

/// Items that are handed over together.
#[derive(Debug)]
pub(crate) struct Chunk<T> {
    pub(crate) items: VecDeque<T>,
    /// How many they were.
    count: usize,
    bytes: usize,
}

/// What the consumer finds.
pub(crate) enum Taken<P, E> {
    /// Items, in the chunk it came with.
    Chunk,
    /// Nothing. The producer is to be run, and then it is to look again.
    Parked(P),
    /// Nothing, and the waker is kept.
    Pending,
    /// Nothing, and it is to come again with a waker that can be kept.
    WantsWaker,
    /// Nothing any more. The error is told once.
    Ended(Option<E>),
}

/// What has become of an item.
pub(crate) enum Pushed<T> {
    /// The consumer is to be woken, if it waits.
    Taken { is_full: bool, waker: Option<Waker> },
    /// Nobody wants it.
    Closed(T),
}

/// What has become of a producer that found the buffer full.
pub(crate) enum Parking<P> {
    Parked,
    /// There is room again.
    GoOn(P),
    /// Nobody wants its items.
    Closed(P),
}

/// What is left when the stream is dropped.
pub(crate) struct Remains<T, P, E> {
    pub(crate) chunks: VecDeque<Chunk<T>>,
    pub(crate) stage: Stage<P, E>,
    pub(crate) waker: Option<Waker>,
}

impl<T, P, E> Buffer<T, P, E> {
    pub(crate) fn new(bounds: Bounds, producer: P) -> Self {
        let state = State {
            chunks: VecDeque::new(),
            spare: Vec::new(),
            items: 0,
            bytes: 0,
            stage: Stage::Parked(producer),
            waker: None,
        };
        Self { bounds, state: Mutex::new(state) }
    }

    // For the consumer.

    /// Takes the next chunk, in exchange for one that is empty.
    pub(crate) fn take(&self, chunk: &mut Chunk<T>, waker: &Waker, fresh: &mut Option<Waker>) -> Taken<P, E> {
        let mut state = lock(&self.state);
        state.settle(chunk);
        if let Some(next) = state.chunks.pop_front() {
            let empty = mem::replace(chunk, next).items;
            if state.spare.len() < SPARE && empty.capacity() > 0 {
                state.spare.push(empty);
            }
            return Taken::Chunk;
        }
        let State { stage, waker: known, .. } = &mut *state;
        match stage {
            Stage::Parked(_) => {
                let Stage::Parked(producer) = mem::replace(stage, Stage::Running) else {
                    unreachable!("it was there under the lock")
                };
                Taken::Parked(producer)
            }
            Stage::Ended(error) => Taken::Ended(error.take()),
            Stage::Running if known.as_ref().is_some_and(|known| known.will_wake(waker)) => Taken::Pending,
            Stage::Running => {
                let Some(fresh) = fresh.take() else { return Taken::WantsWaker };
                let stale = known.replace(fresh);
                drop(state);
                drop(stale);
                Taken::Pending
            }
            Stage::Closed => unreachable!("it is the consumer that closes it"),
        }
    }

    /// The producer, if it is parked and at most half of what may be is buffered. It has to be run.
    pub(crate) fn resume(&self) -> Option<P> {
        let mut state = lock(&self.state);
        if !matches!(state.stage, Stage::Parked(_)) || !state.is_drained(self.bounds) {
            return None;
        }
        match mem::replace(&mut state.stage, Stage::Running) {
            Stage::Parked(producer) => Some(producer),
            _ => unreachable!("it was there under the lock"),
        }
    }

    /// Nobody wants items any more.
    pub(crate) fn close(&self) -> Remains<T, P, E> {
        let mut state = lock(&self.state);
        Remains {
            chunks: mem::take(&mut state.chunks),
            stage: mem::replace(&mut state.stage, Stage::Closed),
            waker: state.waker.take(),
        }
    }

    // For the producer.

    /// Puts an item in. If the buffer is full then, no other one may follow before [`park`](Self::park).
    pub(crate) fn push(&self, item: T, bytes: usize) -> Pushed<T> {
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Closed) {
            return Pushed::Closed(item);
        }
        state.put(item, bytes, self.bounds);
        Pushed::Taken { is_full: state.is_full(self.bounds), waker: state.waker.take() }
    }

    /// Leaves the producer here until there is room. If it is `patient`, it is left even if there is some room.
    pub(crate) fn park(&self, producer: P, is_patient: bool) -> Parking<P> {
        let mut state = lock(&self.state);
        let has_room = if is_patient { state.items == 0 } else { state.is_drained(self.bounds) };
        match state.stage {
            Stage::Closed => Parking::Closed(producer),
            _ if has_room => Parking::GoOn(producer),
            _ => {
                state.stage = Stage::Parked(producer);
                Parking::Parked
            }
        }
    }

    /// There will be no more items. The consumer is to be woken, if it waits.
    pub(crate) fn end(&self, error: Option<E>) -> Option<Waker> {
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Closed) {
            drop(state);
            drop(error);
            return None;
        }
        state.stage = Stage::Ended(error);
        state.waker.take()
    }
}

impl<T, P, E> State<T, P, E> {
    /// The consumer has given out what it had taken.
    fn settle(&mut self, chunk: &mut Chunk<T>) {
        self.items -= mem::take(&mut chunk.count);
        self.bytes -= mem::take(&mut chunk.bytes);
    }

    fn put(&mut self, item: T, bytes: usize, bounds: Bounds) {
        // The bytes of an item beyond all bounds don't make the sum overflow, and are taken off as they were put on.
        let bytes = bytes.min(usize::MAX - self.bytes);
        self.items += 1;
        self.bytes += bytes;
        match self.chunks.back_mut() {
            Some(last) if last.has_room(bounds) => last.put(item, bytes),
            _ => {
                let mut next = Chunk { items: self.spare.pop().unwrap_or_default(), count: 0, bytes: 0 };
                next.put(item, bytes);
                self.chunks.push_back(next);
            }
        }
    }

    fn is_full(&self, bounds: Bounds) -> bool {
        self.items >= bounds.max_items || self.bytes >= bounds.max_bytes
    }

    fn is_drained(&self, bounds: Bounds) -> bool {
        self.items <= bounds.max_items / 2 && self.bytes <= bounds.max_bytes / 2
    }
}

impl<T> Chunk<T> {
    /// A quarter of the bounds at most: while the consumer gives one out, the producer fills others.
    fn has_room(&self, bounds: Bounds) -> bool {
        self.count < CHUNK.min(bounds.max_items / 4) && self.bytes < bounds.max_bytes / 4
    }

    fn put(&mut self, item: T, bytes: usize) {
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
