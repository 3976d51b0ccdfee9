//! What the crate tells `tracing`: one function an event, none of them on a path without waiting.

use std::fmt::Display;

pub(crate) fn refused(guard: &str, reason: &dyn Display) {
    tracing::debug!(guard, %reason, "caller refused");
}

pub(crate) fn expired(guard: &str, turns: usize) {
    tracing::warn!(guard, turns, "turns were not taken in time and went to others");
}

pub(crate) fn detached(guard: &str) {
    tracing::debug!(guard, "caller left: its run goes on");
}

pub(crate) fn cut_off(guard: &str, reason: &str) {
    tracing::warn!(guard, reason, "run dropped before its end");
}

#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) fn overrun(guard: &str) {
    tracing::warn!(guard, "response body took longer than body_hold_max: the next request goes on beside it");
}
