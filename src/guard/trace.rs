//! The `tracing` events of guards: one function for each event, none of them on the uncontended path.

use super::error::AcquireError;
use crate::trace::TARGET;

pub(crate) fn refused(guard: &str, error: &AcquireError) {
    match error {
        AcquireError::WouldDeadlock | AcquireError::BlockingInAsync => {
            tracing::error!(target: TARGET, guard, %error, "caller refused: a mistake in the service");
        }
        _ => tracing::debug!(target: TARGET, guard, %error, "caller refused"),
    }
}

pub(crate) fn expired(guard: &str, turns: usize) {
    tracing::warn!(target: TARGET, guard, turns, "turns were not taken in time and went to others");
}

pub(crate) fn detached(guard: &str) {
    tracing::debug!(target: TARGET, guard, "caller left: its run goes on");
}

pub(crate) fn cut_off(guard: &str, reason: &str) {
    tracing::warn!(target: TARGET, guard, reason, "run dropped before its end");
}

#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) fn overrun(guard: &str) {
    let message = "response body took longer than body_hold_max: the next request goes on beside it";
    tracing::warn!(target: TARGET, guard, message);
}
