//! The `tracing` events of a watch.

use std::time::Duration;

use super::label::Label;
use super::report::{Blocked, Recovered};
use crate::panic::Panic;
use crate::rounded::rounded;
use crate::trace::emit;

pub(super) fn worker_is_blocked(blocked: &Blocked) {
    let (worker, thread, label, repeats) = (blocked.worker(), blocked.thread(), blocked.label(), blocked.repeats());
    let (blocked_for, hint) = (rounded(blocked.blocked_for()), blocked.hint());
    let at = blocked.stack().and_then(|stack| stack.culprit()).map(tracing::field::display);
    // The whole stack fills many lines, so a repetition has the culprit alone.
    let stack = blocked.stack().filter(|_| repeats == 0).map(tracing::field::display);
    emit!(WARN, worker, thread, label, ?blocked_for, repeats, at, %hint, stack, "worker is blocked: it polls no other task");
}

/// Emits nothing if the thread has emitted `slow_poll` for the same block.
pub(super) fn worker_has_recovered(recovered: &Recovered) {
    if !recovered.is_logged {
        let (worker, blocked_for) = (recovered.last().worker(), rounded(recovered.total()));
        emit!(INFO, worker, ?blocked_for, "worker is no longer blocked");
    }
}

#[cold]
pub(super) fn slow_poll(label: Label, took: Duration) {
    emit!(WARN, label = label.as_str(), ?took, "slow poll: it has blocked its worker");
}

pub(super) fn callback_panicked(panic: &Panic) {
    emit!(ERROR, %panic, "callback of a watch panicked");
}
