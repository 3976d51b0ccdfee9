//! The `tracing` events of guards, one function each. None of them is on the uncontended path.

use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use crate::trace::TARGET;

pub(super) fn refused(guard: &str, error: &AcquireError) {
    match error.kind() {
        AcquireErrorKind::WouldDeadlock | AcquireErrorKind::BlockingInAsync => {
            tracing::error!(target: TARGET, guard, %error, "caller refused: a bug in the service");
        }
        _ => tracing::debug!(target: TARGET, guard, %error, "caller refused"),
    }
}

pub(super) fn expired(guard: &str, grants: usize) {
    tracing::warn!(target: TARGET, guard, grants, "grants expired: their permits went to other callers");
}

pub(super) fn detached(guard: &str) {
    tracing::debug!(target: TARGET, guard, "run detached: it continues without its caller");
}

pub(super) fn cut_off(guard: &str, reason: &str) {
    tracing::warn!(target: TARGET, guard, reason, "run dropped before it completed");
}

#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(super) fn overrun(guard: &str) {
    let message = "response body took longer than body_hold_max: the next request runs while it is sent";
    tracing::warn!(target: TARGET, guard, message);
}
