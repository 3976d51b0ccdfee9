//! [`LossGuard`], which reports the loss of a generation that is dropped before its end.

use std::sync::Arc;

use crate::background::control::{GenerationEvent, GenerationHandle};

/// Sends [`GenerationEvent::Lost`] when it is dropped, unless the final event was sent or another caller has to send
/// it.
pub(super) struct LossGuard {
    pub(super) handle: Arc<GenerationHandle>,
    has_claimed: bool,
    has_sent_final: bool,
}

impl LossGuard {
    pub(super) fn new(handle: Arc<GenerationHandle>) -> Self {
        Self { handle, has_claimed: false, has_sent_final: false }
    }

    /// Returns `true` if the caller has to call `stop`, and then to send the final event.
    pub(super) fn claim_clean_up(&mut self) -> bool {
        self.has_claimed = self.handle.claim_clean_up();
        self.has_claimed
    }

    /// Sends the event that ends the generation.
    pub(super) fn send_final(mut self, event: GenerationEvent) {
        self.has_sent_final = true;
        self.handle.send(event);
    }
}

impl Drop for LossGuard {
    fn drop(&mut self) {
        let is_claimed_elsewhere = self.handle.is_clean_up_claimed() && !self.has_claimed;
        if self.has_sent_final {
            // The supervisor keeps the handle until the next generation, and must not keep the ended task with it.
            self.handle.release_waker();
        } else if !is_claimed_elsewhere {
            self.handle.send(GenerationEvent::Lost { in_stop: self.has_claimed });
        }
    }
}
