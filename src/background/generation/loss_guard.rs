//! [`LossGuard`], which reports the loss of a generation that is dropped before its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::background::control::{GenerationEvent, GenerationHandle};

/// Sends [`GenerationEvent::Lost`] when it is dropped, unless the final event was sent or another caller has to send it.
///
/// One thread at a time uses it, so its flags order nothing.
pub(super) struct LossGuard {
    pub(super) handle: Arc<GenerationHandle>,
    has_sent_final: AtomicBool,
    has_claimed: AtomicBool,
}

impl LossGuard {
    pub(super) fn new(handle: Arc<GenerationHandle>) -> Self {
        Self { handle, has_sent_final: AtomicBool::new(false), has_claimed: AtomicBool::new(false) }
    }

    /// Sends the event that ends the generation.
    pub(super) fn send_final(&self, event: GenerationEvent) {
        self.has_sent_final.store(true, Ordering::Relaxed);
        self.handle.send(event);
    }

    /// Returns `true` if the caller has to call `stop`, and then to send the final event.
    pub(super) fn claim_clean_up(&self) -> bool {
        let is_won = self.handle.claim_clean_up();
        self.has_claimed.store(is_won, Ordering::Relaxed);
        is_won
    }
}

impl Drop for LossGuard {
    fn drop(&mut self) {
        let is_claimed_elsewhere = self.handle.is_clean_up_claimed() && !self.has_claimed.load(Ordering::Relaxed);
        if self.has_sent_final.load(Ordering::Relaxed) {
            // The supervisor keeps the handle until the next generation, and must not keep the ended task with it.
            self.handle.release_waker();
        } else if !is_claimed_elsewhere {
            self.handle.send(GenerationEvent::Lost);
        }
    }
}
