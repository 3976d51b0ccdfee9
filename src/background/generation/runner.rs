//! [`ServiceRunner`], a service of any type as its supervisor uses it.

use std::sync::Arc;
use std::{io, thread};

use super::abortable::Interrupt;
use crate::background::control::{DropSignal, GenerationHandle, PhaseResult};
use crate::background::placement::Placement;
use crate::background::service::ServiceResult;
use crate::background::status::{CleanUp, ExitKind};

/// Runs the generations of one service.
pub(crate) trait ServiceRunner: Send + Sync {
    /// Returns `true` if the service blocks and needs a thread.
    fn is_blocking(&self) -> bool;

    /// Sets the signal that is dropped after the service. Called once, before the first generation.
    fn signal_drop(&self, signal: DropSignal);

    /// Begins a generation, which reports its events through the handle. Fails if it needs a thread that can't be
    /// spawned.
    fn begin(self: Arc<Self>, placement: Placement, handle: Arc<GenerationHandle>) -> io::Result<()>;

    /// Calls `stop` on a thread of its own, unless the generation calls it first. Fails if the thread can't be spawned.
    fn clean_up_elsewhere(self: Arc<Self>, handle: Arc<GenerationHandle>, exit: ExitKind) -> io::Result<()>;
}

pub(super) fn spawn_thread(
    name: String,
    stack_size: Option<usize>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let thread = thread::Builder::new().name(name);
    let thread = match stack_size {
        Some(size) => thread.stack_size(size),
        None => thread,
    };
    thread.spawn(run).map(drop)
}

/// Returns how a `start` or `run` ended.
pub(super) fn phase_result(result: Result<ServiceResult, Interrupt>) -> PhaseResult {
    match result {
        Ok(result) => result.map_err(|error| ExitKind::Failed(error.into())),
        Err(Interrupt::Panicked(panic)) => Err(ExitKind::Panicked(panic)),
        Err(Interrupt::Aborted) => Err(ExitKind::Aborted),
    }
}

/// Returns how a `stop` ended.
pub(super) fn clean_up_result(result: Result<ServiceResult, Interrupt>) -> CleanUp {
    match result {
        Ok(result) => result.map_or_else(|error| CleanUp::Failed(error.into()), |()| CleanUp::Done),
        Err(Interrupt::Panicked(panic)) => CleanUp::Panicked(panic),
        Err(Interrupt::Aborted) => CleanUp::TimedOut,
    }
}
