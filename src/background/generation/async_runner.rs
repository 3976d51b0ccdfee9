//! [`AsyncRunner`], which runs the generations of an async service in a task, or on a thread with a runtime.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle};

use super::abortable::Abortable;
use super::loss_guard::LossGuard;
use super::runner::{ServiceRunner, clean_up_result, phase_result, spawn_thread};
use crate::background::context::{RunContext, StartContext, StopContext};
use crate::background::control::{DropSignal, GenerationEvent, GenerationHandle, GenerationPhase, PhaseResult};
use crate::background::placement::Placement;
use crate::background::service::BackgroundService;
use crate::background::status::ExitKind;
use crate::own_runtime::OwnRuntime;
use crate::panic::discard;

/// The runner of an async service.
pub(crate) struct AsyncRunner<S> {
    service: S,
    /// Dropped after the service, and after the last runtime of its own.
    drop_signal: OnceLock<Arc<DropSignal>>,
}

impl<S> AsyncRunner<S> {
    pub(crate) fn new(service: S) -> Self {
        Self { service, drop_signal: OnceLock::new() }
    }
}

impl<S: BackgroundService> ServiceRunner for AsyncRunner<S> {
    fn is_blocking(&self) -> bool {
        false
    }

    fn signal_drop(&self, signal: DropSignal) {
        let is_first = self.drop_signal.set(Arc::new(signal)).is_ok();
        debug_assert!(is_first, "a service is added to one host");
    }

    fn begin(self: Arc<Self>, placement: Placement, handle: Arc<GenerationHandle>) -> io::Result<()> {
        if let Some(signal) = self.drop_signal.get() {
            handle.set_drop_signal(signal);
        }
        if placement == Placement::Shared {
            let server = handle.host.server().clone();
            server.spawn(run_generation(self, LossGuard::new(handle)));
            return Ok(());
        }
        let (name, signal) = (handle.name().to_owned(), self.drop_signal.get().cloned());
        spawn_thread_with_runtime(name, handle.stack_size, signal, async move || {
            handle.set_own_runtime(Handle::current());
            run_generation(self, LossGuard::new(handle)).await;
        })
    }

    fn clean_up_elsewhere(self: Arc<Self>, handle: Arc<GenerationHandle>, exit: ExitKind) -> io::Result<()> {
        let (name, signal) = (format!("{}-stop", handle.name()), self.drop_signal.get().cloned());
        spawn_thread_with_runtime(name, handle.stack_size, signal, async move || {
            let mut guard = LossGuard::new(handle);
            if guard.claim_clean_up() {
                let cx = StopContext::new(&guard.handle, Err(exit));
                stop(&self.service, guard, &cx).await;
            }
            discard(self);
        })
    }
}

/// Runs one generation. The guard outlives the service's futures, so a loss is reported after they were dropped.
async fn run_generation<S: BackgroundService>(runner: Arc<AsyncRunner<S>>, guard: LossGuard) {
    run_phases(&runner.service, guard).await;
    discard(runner);
}

async fn run_phases<S: BackgroundService>(service: &S, mut guard: LossGuard) {
    if let Err(kind) = start(service, &guard.handle).await {
        return guard.send_final(GenerationEvent::StartFailed(kind));
    }
    guard.handle.send(GenerationEvent::Started);
    guard.handle.host.let_supervisor_run().await;
    let cx = run(service, &guard.handle).await;
    guard.handle.send(GenerationEvent::RunEnded(cx.ended()));
    guard.handle.host.let_supervisor_run().await;
    if guard.claim_clean_up() {
        stop(service, guard, &cx).await;
    }
}

async fn start<S: BackgroundService>(service: &S, handle: &Arc<GenerationHandle>) -> PhaseResult {
    let cx = StartContext::new(handle);
    phase_result(Abortable::new(handle, GenerationPhase::Start, || service.start(&cx)).await)
}

/// Calls `run` and waits for the child tasks. Returns the context for `stop`.
async fn run<S: BackgroundService>(service: &S, handle: &Arc<GenerationHandle>) -> StopContext {
    if handle.is_stopping() {
        return StopContext::new(handle, Ok(()));
    }
    let run = Abortable::new(handle, GenerationPhase::Run, || service.run(RunContext::new(handle)));
    let result = phase_result(run.await);
    // The context is created before the child tasks are asked to stop: it reports if the service itself was asked to
    // stop.
    let cx = StopContext::new(handle, result);
    if !handle.child_tasks.close_if_unused() {
        stop_child_tasks(handle).await;
    }
    cx
}

/// Waits until the child tasks have ended.
async fn stop_child_tasks(handle: &GenerationHandle) {
    handle.request_stop();
    handle.send(GenerationEvent::AwaitsChildTasks);
    let _ = Abortable::new(handle, GenerationPhase::Run, || handle.child_tasks.ended()).await;
    // The phase may have been aborted, and tasks may have been spawned since it ended.
    handle.child_tasks.abort_all();
    handle.child_tasks.ended().await;
}

async fn stop<S: BackgroundService>(service: &S, guard: LossGuard, cx: &StopContext) {
    let result = Abortable::new(&guard.handle, GenerationPhase::Stop, || service.stop(cx)).await;
    guard.send_final(GenerationEvent::CleanedUp(clean_up_result(result)));
}

/// Runs a future on a thread with a runtime, whose own threads have the same stack size. The runtime does not wait for
/// tasks that the future leaves behind. It drops them, and then the signal.
fn spawn_thread_with_runtime(
    name: String,
    stack_size: Option<usize>,
    signal: Option<Arc<DropSignal>>,
    begin: impl AsyncFnOnce() + Send + 'static,
) -> io::Result<()> {
    // Built before the thread is spawned, so that both failures are reported in the same way.
    let mut builder = Builder::new_current_thread();
    if let Some(size) = stack_size {
        builder.thread_stack_size(size);
    }
    let runtime = OwnRuntime::build(&mut builder)?;
    spawn_thread(name, stack_size, move || {
        runtime.block_on(begin());
        discard(runtime);
        drop(signal);
    })
}
