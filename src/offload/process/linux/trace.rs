//! The `tracing` events of process pools.

use super::frame::RemoteEvent;
use crate::trace::emit;

/// Emits an event of a worker, in the span of the task that the worker runs.
#[cold]
pub(super) fn worker_event(worker: i32, event: &RemoteEvent) {
    let RemoteEvent { level, target, message, fields } = event;
    match level {
        1 => emit!(ERROR, worker, target, fields, event = message, "event of a worker"),
        2 => emit!(WARN, worker, target, fields, event = message, "event of a worker"),
        3 => emit!(INFO, worker, target, fields, event = message, "event of a worker"),
        4 => emit!(DEBUG, worker, target, fields, event = message, "event of a worker"),
        _ => emit!(TRACE, worker, target, fields, event = message, "event of a worker"),
    }
}
