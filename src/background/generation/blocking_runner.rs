//! [`BlockingRunner`], which runs the generations of a blocking service, each on a thread of its own.

use std::io;
use std::sync::{Arc, OnceLock};

use super::abortable::run_user_code;
use super::loss_guard::LossGuard;
use super::runner::{ServiceRunner, clean_up_result, phase_result, spawn_thread};
use crate::background::blocking::BlockingService;
use crate::background::context::{BlockingContext, StartContext, StopContext};
use crate::background::control::{DropSignal, GenerationEvent, GenerationHandle, PhaseResult};
use crate::background::placement::Placement;
use crate::background::status::ExitKind;
use crate::panic::discard;

/// The runner of a blocking service.
pub(crate) struct BlockingRunner<S> {
    service: S,
    /// Dropped after the service.
    drop_signal: OnceLock<DropSignal>,
}

impl<S> BlockingRunner<S> {
    pub(crate) fn new(service: S) -> Self {
        Self { service, drop_signal: OnceLock::new() }
    }
}

impl<S: BlockingService> ServiceRunner for BlockingRunner<S> {
    fn is_blocking(&self) -> bool {
        true
    }

    fn signal_drop(&self, signal: DropSignal) {
        let is_first = self.drop_signal.set(signal).is_ok();
        debug_assert!(is_first, "a service is added to one host");
    }

    fn begin(self: Arc<Self>, _: Placement, handle: Arc<GenerationHandle>) -> io::Result<()> {
        spawn_thread(handle.name().to_owned(), handle.stack_size, move || {
            run_generation(&self.service, LossGuard::new(handle));
            discard(self);
        })
    }

    fn clean_up_elsewhere(self: Arc<Self>, handle: Arc<GenerationHandle>, exit: ExitKind) -> io::Result<()> {
        spawn_thread(format!("{}-stop", handle.name()), handle.stack_size, move || {
            let mut guard = LossGuard::new(handle);
            if guard.claim_clean_up() {
                let cx = StopContext::new(&guard.handle, Err(exit));
                stop(&self.service, guard, &cx);
            }
            discard(self);
        })
    }
}

fn run_generation<S: BlockingService>(service: &S, mut guard: LossGuard) {
    let handle = &guard.handle;
    let cx = StartContext::new(handle);
    if let Err(kind) = phase_result(run_user_code(handle, || service.start(&cx))) {
        return guard.send_final(GenerationEvent::StartFailed(kind));
    }
    handle.send(GenerationEvent::Started);
    let cx = StopContext::new(handle, run(service, handle));
    handle.send(GenerationEvent::RunEnded(cx.ended()));
    if guard.claim_clean_up() {
        stop(service, guard, &cx);
    }
}

fn run<S: BlockingService>(service: &S, handle: &Arc<GenerationHandle>) -> PhaseResult {
    if handle.is_stopping() {
        return Ok(());
    }
    let cx = BlockingContext::new(handle);
    phase_result(run_user_code(handle, || service.run(cx)))
}

fn stop<S: BlockingService>(service: &S, guard: LossGuard, cx: &StopContext) {
    let result = run_user_code(&guard.handle, || service.stop(cx));
    guard.send_final(GenerationEvent::CleanedUp(clean_up_result(result)));
}
