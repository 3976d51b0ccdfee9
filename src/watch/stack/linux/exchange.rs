//! [`Exchange`], through which a thread passes its stack to the watch that has requested the stack.
//!
//! # Invariants
//!
//! - The state is a phase and the target, which is the thread whose stack is requested. The phases are `IDLE` →
//!   `REQUESTED` → `WRITING` → `DONE` → `REQUESTED` → ….
//! - One watch at a time makes requests, and that watch holds the lock of `capture`. Only that watch enters
//!   `REQUESTED`. If the watch gives up, it alone changes `REQUESTED` back to `IDLE`.
//! - Only the target changes `REQUESTED` to `WRITING`, with a compare-and-swap. A handler that runs after the watch has
//!   given up finds `IDLE`, or a request to another thread, and writes nothing.
//! - In `WRITING`, the addresses belong to the handler, however long the handler takes. If the watch gives up in that
//!   phase, no watch makes another request until the handler has entered `DONE`.
//! - A handler that runs late may answer the next request to the same thread. The answer is correct: it is the stack of
//!   that thread at a moment after the request.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The greatest number of frames that are captured, from the innermost one outwards.
pub(super) const MAX_FRAMES: usize = 128;

const IDLE: u64 = 0;
const REQUESTED: u64 = 1;
const WRITING: u64 = 2;
const DONE: u64 = 3;

/// The memory that a watch shares with the handlers of the signal. Its methods for the handler are async-signal-safe:
/// they take no lock and allocate nothing.
pub(super) struct Exchange {
    /// The phase in the lower two bits, and the id of the thread above them.
    state: AtomicU64,
    length: AtomicUsize,
    addresses: [AtomicUsize; MAX_FRAMES],
}

/// The right to write the addresses.
pub(super) struct Writer<'a> {
    exchange: &'a Exchange,
    tid: libc::pid_t,
    length: usize,
}

impl Exchange {
    pub(super) const fn new() -> Self {
        Self {
            state: AtomicU64::new(IDLE),
            length: AtomicUsize::new(0),
            addresses: [const { AtomicUsize::new(0) }; MAX_FRAMES],
        }
    }

    /// Requests the stack of a thread. Returns `false` if the target of an earlier request is still writing.
    pub(super) fn request(&self, tid: libc::pid_t) -> bool {
        // In `IDLE` and `DONE`, only the watch changes the state, and no request is open.
        let is_free = self.state.load(Ordering::Acquire) & 3 != WRITING;
        if is_free {
            self.state.store(state(tid, REQUESTED), Ordering::Release);
        }
        is_free
    }

    /// Withdraws the request. Has no effect if the thread has begun to write.
    pub(super) fn withdraw(&self, tid: libc::pid_t) {
        let _ = self.state.compare_exchange(state(tid, REQUESTED), IDLE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Returns the addresses, from the innermost frame outwards, once the thread has written them.
    pub(super) fn take(&self, tid: libc::pid_t) -> Option<Vec<usize>> {
        // Pairs with `finish`.
        if self.state.load(Ordering::Acquire) != state(tid, DONE) {
            return None;
        }
        let length = self.length.load(Ordering::Relaxed);
        Some(self.addresses[..length].iter().map(|address| address.load(Ordering::Relaxed)).collect())
    }

    /// Called by the handler of the signal. Returns `None` if its thread is not the target of a request.
    pub(super) fn write(&self, tid: libc::pid_t) -> Option<Writer<'_>> {
        let (requested, writing) = (state(tid, REQUESTED), state(tid, WRITING));
        let started = self.state.compare_exchange(requested, writing, Ordering::AcqRel, Ordering::Relaxed);
        started.ok().map(|_| Writer { exchange: self, tid, length: 0 })
    }
}

impl Writer<'_> {
    /// Adds an address. Returns `false` if there is no room for another one.
    pub(super) fn push(&mut self, address: usize) -> bool {
        if let Some(place) = self.exchange.addresses.get(self.length) {
            place.store(address, Ordering::Relaxed);
            self.length += 1;
        }
        self.length < MAX_FRAMES
    }

    pub(super) fn finish(self) {
        self.exchange.length.store(self.length, Ordering::Relaxed);
        self.exchange.state.store(state(self.tid, DONE), Ordering::Release);
    }
}

fn state(tid: libc::pid_t, phase: u64) -> u64 {
    u64::from(tid.unsigned_abs()) << 2 | phase
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use super::*;

    #[test]
    fn target_of_a_request_passes_on_its_addresses() {
        let exchange = Exchange::new();
        assert!(exchange.request(7) && exchange.take(7).is_none());
        assert!(exchange.write(8).is_none(), "another thread is not the target");
        let mut writer = exchange.write(7).unwrap();
        assert!(writer.push(1) && writer.push(2));
        writer.finish();
        assert_eq!(exchange.take(7), Some(vec![1, 2]));
        assert!(exchange.write(7).is_none(), "one request is answered once");
    }

    #[test]
    fn only_the_innermost_frames_have_room() {
        let exchange = Exchange::new();
        assert!(exchange.request(7));
        let mut writer = exchange.write(7).unwrap();
        let pushed = (0..).take_while(|address| writer.push(*address)).count() + 1;
        assert!(!writer.push(usize::MAX));
        writer.finish();
        assert_eq!(pushed, MAX_FRAMES);
        assert_eq!(exchange.take(7), Some((0..MAX_FRAMES).collect()));
    }

    #[test]
    fn handler_that_is_late_writes_nothing() {
        let exchange = Exchange::new();
        assert!(exchange.request(7));
        exchange.withdraw(7);
        assert!(exchange.write(7).is_none());
        assert!(exchange.request(8));
        assert!(exchange.write(7).is_none());
    }

    #[test]
    fn no_request_is_made_while_a_handler_writes_for_a_request_that_was_withdrawn() {
        let exchange = Exchange::new();
        assert!(exchange.request(7));
        let writer = exchange.write(7).unwrap();
        exchange.withdraw(7);
        assert!(!exchange.request(8));
        writer.finish();
        assert!(exchange.request(8));
        assert!(exchange.take(8).is_none());
    }
}
