//! The `tracing` events of process pools.

use std::fmt::Display;

use super::frame::RemoteEvent;
use crate::offload::process::error::ProcessError;
use crate::offload::trace;
use crate::trace::emit;

/// Emits an event of a worker in the caller's span of the task that the worker runs.
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

/// Reports a task that has panicked or has lost its worker.
#[cold]
pub(super) fn task_failed(pool: &str, label: &str, error: &ProcessError) {
    let label = Some(label).filter(|label| !label.is_empty());
    match error {
        ProcessError::Panicked(panic) => trace::panicked(pool, label, panic),
        ProcessError::WorkerDied(_) => worker_died(pool, label, error),
        ProcessError::Timeout(_)
        | ProcessError::MemoryLimit(_)
        | ProcessError::CpuLimit(_)
        | ProcessError::BadReply { .. } => emit!(WARN, pool, label, %error, "worker killed"),
        ProcessError::Cancelled(_) => emit!(DEBUG, pool, label, %error, "worker killed"),
        ProcessError::Codec(_) | ProcessError::ForeignFunction => {
            emit!(ERROR, pool, label, %error, "task failed: a bug in the service");
        }
        ProcessError::NotStarted(_) | ProcessError::NoWorker { .. } => {}
    }
}

#[cold]
pub(super) fn worker_died(pool: &str, label: Option<&str>, error: &dyn Display) {
    emit!(WARN, pool, label, %error, "worker died");
}

#[cold]
pub(super) fn worker_missing(pool: &str, error: &str) {
    emit!(WARN, pool, error, "starting a worker failed");
}
