//! The `tracing` events of background tasks.

use std::time::Duration;

use crate::panic::Panic;
use crate::rounded::rounded;
use crate::trace::emit;

#[cold]
pub(super) fn refused(task: &str) {
    emit!(DEBUG, task, "background task refused: the queue is full");
}

#[cold]
pub(super) fn dropped(task: &str) {
    emit!(WARN, task, "background task dropped: the queue is full, and a newer task takes its place");
}

#[cold]
pub(super) fn failed(task: &str, error: &str) {
    emit!(WARN, task, error, "background task failed");
}

#[cold]
pub(super) fn panicked(task: &str, panic: &Panic) {
    emit!(WARN, task, %panic, "background task panicked");
}

#[cold]
pub(super) fn timed_out(task: &str, limit: Duration) {
    let limit = rounded(limit);
    emit!(WARN, task, ?limit, "background task timed out");
}
