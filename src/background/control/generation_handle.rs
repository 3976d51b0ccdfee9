//! [`GenerationHandle`], through which a generation and its supervisor communicate.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Context;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::child_tasks::ChildTasks;
use super::drop_signal::DropSignal;
use super::host_shared::HostShared;
use super::message::{GenerationEvent, GenerationPhase, ServiceHealth, SupervisorMessage};
use super::service_scope::{InServiceScope, ServiceScope};
use super::stop_signal::StopSignal;
use crate::background::service_guard::ServicePermit;
use crate::background::status::ServiceStatus;
use crate::sync::lock;

/// The shared state of one generation of a service.
pub(crate) struct GenerationHandle {
    /// The index of the service in its host.
    pub(crate) id: u32,
    /// The status of the service at the beginning of the generation.
    pub(crate) status: Arc<ServiceStatus>,
    pub(crate) host: Arc<HostShared>,
    /// The stack size of threads that run only the service.
    pub(crate) stack_size: Option<usize>,
    pub(crate) child_tasks: ChildTasks,
    /// Where the code of the service runs.
    pub(crate) scope: ServiceScope,
    /// The permit of the service's guard, until the generation has ended. The supervisor drops the handle of a
    /// generation that has left a thread behind, so the permit then lasts as long as the thread.
    permit: Mutex<Option<ServicePermit>>,
    /// Set if the generation has a runtime of its own.
    own_runtime: OnceLock<Handle>,
    /// Reports that the service was dropped, once nothing holds it.
    drop_signal: OnceLock<Weak<DropSignal>>,
    /// The signal is given when the generation has to stop. Its child tasks receive the signal by the end of its run at
    /// the latest.
    stop: StopSignal,
    /// The phase up to which the generation is aborted: a [`GenerationPhase`] as a number, or 0.
    aborted: AtomicU8,
    /// The task that polls a phase that can be aborted.
    polling_task: AtomicWaker,
    health: Mutex<ServiceHealth>,
    /// A [`GenerationEvent::HealthChanged`] was sent, and the supervisor has not read the health since.
    has_health_changed: AtomicBool,
    is_clean_up_claimed: AtomicBool,
}

impl GenerationHandle {
    pub(crate) fn new(id: u32, status: Arc<ServiceStatus>, is_ready: bool, host: Arc<HostShared>) -> Self {
        Self {
            id,
            scope: ServiceScope::new(host.host_id(), &status.name),
            status,
            host,
            stack_size: None,
            child_tasks: ChildTasks::default(),
            permit: Mutex::new(None),
            own_runtime: OnceLock::new(),
            drop_signal: OnceLock::new(),
            stop: StopSignal::default(),
            aborted: AtomicU8::new(0),
            polling_task: AtomicWaker::new(),
            health: Mutex::new(ServiceHealth { ready: is_ready, ..ServiceHealth::default() }),
            has_health_changed: AtomicBool::new(false),
            is_clean_up_claimed: AtomicBool::new(false),
        }
    }

    pub(crate) fn with_stack_size(self, stack_size: Option<usize>) -> Self {
        Self { stack_size, ..self }
    }

    /// Adds the permit that the service holds during the generation.
    pub(crate) fn with_permit(mut self, permit: Option<ServicePermit>) -> Self {
        self.scope.lease = permit.as_ref().and_then(ServicePermit::lease);
        Self { permit: Mutex::new(permit), ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.status.name
    }

    // Called by the supervisor, except that the generation itself stops its child tasks.

    /// Asks the generation and its child tasks to stop.
    pub(crate) fn request_stop(&self) {
        self.stop.give();
    }

    /// Drops the phase that is being polled, if it is `phase` or an earlier one, or once the generation reaches it.
    pub(crate) fn abort(&self, phase: GenerationPhase) {
        self.aborted.fetch_max(phase as u8, Ordering::AcqRel);
        self.polling_task.wake();
    }

    /// Takes the permit, once the generation has ended.
    pub(crate) fn take_permit(&self) -> Option<ServicePermit> {
        lock(&self.permit).take()
    }

    /// Returns the health, after [`GenerationEvent::HealthChanged`].
    pub(crate) fn take_health(&self) -> ServiceHealth {
        // The flag is cleared before the health is read, so that a later change sends a new event.
        self.has_health_changed.store(false, Ordering::SeqCst);
        lock(&self.health).clone()
    }

    // Called by the service through its contexts.

    pub(crate) fn update_health(&self, update: impl FnOnce(&mut ServiceHealth)) {
        let has_changed = {
            let mut health = lock(&self.health);
            let mut updated = health.clone();
            update(&mut updated);
            let has_changed = *health != updated;
            *health = updated;
            has_changed
        };
        if has_changed && !self.has_health_changed.swap(true, Ordering::SeqCst) {
            self.send(GenerationEvent::HealthChanged);
        }
    }

    pub(crate) fn record_heartbeat(&self) {
        // All generations share the heartbeat, and the remains of an old generation must not send heartbeats for the
        // next one.
        if let Some(heartbeat) = self.status.heartbeat.as_ref().filter(|_| !self.is_clean_up_claimed()) {
            heartbeat.record(Instant::now());
        }
    }

    pub(crate) fn spawn<F>(&self, child: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let child = InServiceScope { future: child, scope: self.scope.clone() };
        self.child_tasks.spawn(child, self.own_runtime.get().unwrap_or_else(|| self.host.server()))
    }

    /// Returns what a thread of the service holds while it uses the service.
    pub(crate) fn drop_signal(&self) -> Option<Arc<DropSignal>> {
        self.drop_signal.get().and_then(Weak::upgrade)
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        self.stop.token()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_given()
    }

    /// Waits until the generation has to stop.
    pub(crate) async fn stopping(&self) {
        self.stop.given().await;
    }

    /// Parks the thread until the generation has to stop, for at most `limit`. Returns `true` if the generation has to
    /// stop.
    pub(crate) fn park(&self, limit: Duration) -> bool {
        self.stop.park(limit)
    }

    // Called by the generation.

    pub(crate) fn send(&self, event: GenerationEvent) {
        self.host.send(SupervisorMessage::Generation { id: self.id, generation: self.status.generation, event });
    }

    pub(crate) fn set_drop_signal(&self, signal: &Arc<DropSignal>) {
        let is_first = self.drop_signal.set(Arc::downgrade(signal)).is_ok();
        debug_assert!(is_first, "a generation begins once");
    }

    /// Records the runtime of a generation that has one of its own.
    pub(crate) fn set_own_runtime(&self, runtime: Handle) {
        let is_first = self.own_runtime.set(runtime).is_ok();
        debug_assert!(is_first, "a generation runs on one runtime");
    }

    /// Returns `true` if `phase` has to be dropped. Otherwise `cx` is woken once `phase` has to be dropped.
    pub(crate) fn poll_aborted(&self, phase: GenerationPhase, cx: &Context<'_>) -> bool {
        if self.is_aborted(phase) {
            return true;
        }
        self.polling_task.register(cx.waker());
        // The abort may have come before the waker was registered.
        self.is_aborted(phase)
    }

    fn is_aborted(&self, phase: GenerationPhase) -> bool {
        self.aborted.load(Ordering::Acquire) >= phase as u8
    }

    /// Drops the waker of a generation that is no longer polled. The waker keeps the memory of the task alive.
    pub(crate) fn release_waker(&self) {
        drop(self.polling_task.take());
    }

    pub(crate) fn is_clean_up_claimed(&self) -> bool {
        self.is_clean_up_claimed.load(Ordering::Acquire)
    }

    /// Returns `true` if the caller has to call `stop`. Only one caller gets `true`.
    pub(crate) fn claim_clean_up(&self) -> bool {
        !self.is_clean_up_claimed.swap(true, Ordering::AcqRel)
    }
}
