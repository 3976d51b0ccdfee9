//! [`Executor`], which executes the decisions of a supervisor.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::decisions::{Action, Decisions, FailedService};
use super::event_loop::StartRequest;
use super::guard_tasks;
use super::releaser::Releaser;
use super::state::Supervisor;
use super::work_drain::WorkDrain;
use crate::background::control::{GenerationEvent, GenerationHandle, HostOutcome, HostShared, SupervisorMessage};
use crate::background::error::HostError;
use crate::background::generation::ServiceRunner;
use crate::background::status::{CleanUp, ExitKind, HostEvent, HostPhase, ShutdownReport, Trigger};
use crate::background::trace;
use crate::panic::{catch, discard};

/// A supervisor with the resources that it acts on.
pub(super) struct Executor {
    pub(super) supervisor: Supervisor,
    /// The services. Each is taken when it is released.
    pub(super) runners: Vec<Option<Arc<dyn ServiceRunner>>>,
    pub(super) releaser: Releaser,
    /// For each service with a guard, the task that waits for its permit, or for the loss of its lease.
    pub(super) guard_tasks: Vec<Option<AbortOnDropHandle<()>>>,
    /// The current or last generation of each service.
    pub(super) generations: Vec<Option<Arc<GenerationHandle>>>,
    /// Generations that have left a thread behind, which owns the handle and the permit in it.
    pub(super) shared: Arc<HostShared>,
    pub(super) events: broadcast::Sender<HostEvent>,
    pub(super) work: WorkDrain,
    /// How long a server that has ended may take to drop its last handlers, on other threads.
    pub(super) settle: Duration,
    /// Taken when the request is answered.
    pub(super) request: Option<StartRequest>,
    /// How the host has ended. It is shared once the host has released everything.
    pub(super) outcome: Option<HostOutcome>,
    /// Why the host did not start, if it did not.
    pub(super) start_error: Option<HostError>,
    pub(super) has_ended: bool,
    pub(super) was_signalled: bool,
}

impl Executor {
    pub(super) fn start(&mut self) {
        let has_server = self.request.as_ref().is_some_and(|request| request.has_server);
        let now = self.read_clocks();
        self.supervisor.server_settles = !self.settle.is_zero();
        self.supervisor.start(now, has_server);
        self.execute();
    }

    /// Reads what the supervisor needs to know for its decisions, and returns the current time.
    fn read_clocks(&mut self) -> Instant {
        self.supervisor.wall = SystemTime::now();
        self.supervisor.has_pools = self.work.has_pools();
        self.supervisor.has_work = self.work.has_work();
        Instant::now()
    }

    /// Handles a signal. The first one stops the host and never forces the stop, even if the host is already stopping
    /// for another reason: its sender has asked only once. The second one forces the stop.
    pub(super) fn on_signal(&mut self, signal: i32) {
        let (now, trigger) = (self.read_clocks(), Trigger::Signal(signal));
        if mem::replace(&mut self.was_signalled, true) {
            self.supervisor.force_shutdown(now, trigger);
        } else {
            self.supervisor.shutdown(now, trigger);
        }
    }

    /// Handles messages and the timers that are due, and executes what is decided. Returns the current time.
    pub(super) fn on_messages(&mut self, messages: impl Iterator<Item = SupervisorMessage>) -> Instant {
        let now = self.read_clocks();
        messages.for_each(|message| self.on_message(now, message));
        self.supervisor.on_time(now);
        self.execute();
        now
    }

    fn on_message(&mut self, now: Instant, message: SupervisorMessage) {
        match message {
            SupervisorMessage::Generation { id, generation, event } => {
                let handle = self.generation(id).filter(|handle| handle.status.generation == generation);
                let has_changed = matches!(event, GenerationEvent::HealthChanged);
                let health = handle.filter(|_| has_changed).map(|handle| handle.take_health());
                self.supervisor.on_event(now, id, generation, event, health);
            }
            SupervisorMessage::Admitted { id, permit } => self.supervisor.on_admitted(now, id, permit),
            SupervisorMessage::NotAdmitted { id, reason } => self.supervisor.on_not_admitted(id, reason),
            SupervisorMessage::Shutdown(trigger) => self.supervisor.shutdown(now, trigger),
            SupervisorMessage::ForceShutdown(trigger) => self.supervisor.force_shutdown(now, trigger),
            SupervisorMessage::ServerEnded => self.supervisor.server_ended(now),
            SupervisorMessage::ServiceDropped(id) => self.supervisor.service_dropped(now, id),
        }
    }

    /// Continues the stop if all work that the host waits for has ended. Called after each event.
    pub(super) fn check_work(&mut self) {
        if !self.supervisor.is_draining() || self.work.is_waiting() {
            return;
        }
        self.work.wait_for_detached();
        if !self.work.is_waiting() {
            let now = self.read_clocks();
            self.supervisor.drained(now);
            self.execute();
        }
    }

    pub(super) fn check_releases(&mut self, now: Instant) {
        self.releaser.check(now, self.shared.server());
    }

    fn generation(&self, id: u32) -> Option<&Arc<GenerationHandle>> {
        self.generations[id as usize].as_ref()
    }

    /// Publishes what has changed, and then executes what was decided. In this order, no observer of an action sees the
    /// status from before the action, and a subscriber that has seen the old status receives the event of the change.
    fn execute(&mut self) {
        let Decisions { changed, actions } = mem::take(&mut self.supervisor.decisions);
        if !changed.is_empty() || !actions.is_empty() {
            self.publish(&changed);
        }
        for action in actions {
            self.execute_action(action);
        }
    }

    fn publish(&self, changed: &[u32]) {
        let supervisor = &self.supervisor;
        let replaced: Vec<_> = self.shared.update_status(|published| {
            published.phase = supervisor.phase;
            published.since = supervisor.since;
            published.has_started = supervisor.has_started;
            let replace = |id: &u32| {
                let status = Arc::clone(&supervisor.slot(*id).status);
                mem::replace(&mut published.services[*id as usize], status)
            };
            changed.iter().map(replace).collect()
        });
        replaced.into_iter().for_each(discard);
    }

    fn execute_action(&mut self, action: Action) {
        match action {
            Action::StandBy(id) => self.stand_by(id),
            Action::LeaveStandby(id) => drop(self.guard_tasks[id as usize].take()),
            Action::BeginGeneration(id) => self.begin_generation(id),
            Action::ReleasePermit(id) => {
                drop(self.guard_tasks[id as usize].take());
                discard(self.generation(id).and_then(|handle| handle.take_permit()));
            }
            Action::LeavePermit(id) => self.leave_permit(id),
            Action::RequestStop(id) => self.generation(id).into_iter().for_each(|handle| handle.request_stop()),
            Action::Abort(id, phase) => self.generation(id).into_iter().for_each(|handle| handle.abort(phase)),
            Action::CleanUpElsewhere(id, exit) => self.clean_up_elsewhere(id, exit),
            Action::Release(id) => self.release(id),
            Action::Emit(event) => self.emit(event),
            Action::ReportStarted => self.reply(Ok(())),
            Action::DrainServer => {
                self.work.begin();
                cancel(&self.shared.draining);
            }
            Action::RefuseWaiters => {
                self.work.refuse_waiters();
                cancel(&self.shared.refusing);
            }
            Action::DrainWork => {
                cancel(&self.shared.stopping);
                self.work.drain_work(self.settle);
            }
            Action::DrainPools => self.work.drain_pools(),
            Action::DropServer => {
                self.work.give_up();
                cancel(&self.shared.stopping);
            }
            Action::Finish(report, failed) => self.finish(*report, failed),
        }
    }

    fn emit(&self, event: HostEvent) {
        // Without subscribers the event is returned as an error. With slow ones it replaces an event, which may be the
        // last owner of a service's error.
        if let Ok(result) = catch(|| self.events.send(event)) {
            discard(result);
        }
    }

    /// Waits for the permit of the service's guard.
    fn stand_by(&mut self, id: u32) {
        let Some(guard) = self.supervisor.slot(id).options.guard.clone() else { return };
        self.guard_tasks[id as usize] = Some(guard_tasks::wait_for_permit(guard, id, Arc::clone(&self.shared)));
    }

    fn begin_generation(&mut self, id: u32) {
        let slot = self.supervisor.slot_mut(id);
        let permit = slot.permit.take();
        let (placement, is_ready) = (slot.options.placement, !slot.options.manual_ready);
        let handle = GenerationHandle::new(id, slot.status(), is_ready, Arc::clone(&self.shared));
        let handle = Arc::new(handle.with_stack_size(slot.options.stack_size).with_permit(permit));
        self.guard_tasks[id as usize] = guard_tasks::watch_lease(&handle);
        discard(self.generations[id as usize].replace(Arc::clone(&handle)));
        let runner = self.runner(id);
        // On a runtime that has shut down, the task is dropped immediately, together with values of the service.
        if let Ok(Err(error)) = catch(|| runner.begin(placement, Arc::clone(&handle))) {
            handle.send(GenerationEvent::StartFailed(ExitKind::Failed(Arc::new(error))));
        }
    }

    /// Leaves the permit of a generation to its threads: the permit is released when the last of them drops the handle.
    fn leave_permit(&mut self, id: u32) {
        drop(self.guard_tasks[id as usize].take());
        if let Some(handle) = self.generations[id as usize].take() {
            discard(handle);
        }
    }

    fn clean_up_elsewhere(&self, id: u32, exit: ExitKind) {
        let Some(handle) = self.generation(id).filter(|handle| !handle.is_clean_up_claimed()) else { return };
        let runner = self.runner(id);
        if let Err(error) = runner.clean_up_elsewhere(Arc::clone(handle), exit) {
            handle.send(GenerationEvent::CleanedUp(CleanUp::Failed(Arc::new(error))));
        }
    }

    fn runner(&self, id: u32) -> Arc<dyn ServiceRunner> {
        Arc::clone(self.runners[id as usize].as_ref().expect("a service is released after its last generation"))
    }

    fn release(&mut self, id: u32) {
        if let Some(runner) = self.runners[id as usize].take() {
            self.releaser.release(Instant::now(), runner, self.shared.server());
        }
    }

    /// Sends the result of the start to the caller that started the host.
    fn reply(&mut self, result: Result<(), HostError>) {
        if let Some(request) = self.request.take() {
            // Sending fails if the caller has stopped waiting.
            let _ = request.reply.send(result);
        }
    }

    fn finish(&mut self, mut report: ShutdownReport, failed: Option<FailedService>) {
        report.unfinished = self.work.unfinished().into();
        trace::work_unfinished(&report);
        trace::host_stopped(&report);
        let status = |id: u32| self.supervisor.status(id);
        let dependency = failed.and_then(|failed| failed.dependency).map(status);
        let error = HostError::from_report(&report, failed.map(|failed| status(failed.id)), dependency);
        if self.request.is_some() {
            let stopped = || HostError::StoppedWhileStarting { report: Box::new(report.clone()) };
            self.start_error = Some(error.clone().unwrap_or_else(stopped));
        }
        self.outcome = Some(HostOutcome { report, error });
    }

    /// Reports the end of the host, and returns the exit code for the process.
    pub(super) fn report_end(&mut self, outcome: HostOutcome) -> u8 {
        let HostOutcome { report, error } = &outcome;
        let exit_code = error.as_ref().map_or_else(|| report.exit_code(), HostError::exit_code);
        if let Some(error) = self.start_error.take() {
            self.reply(Err(error));
        }
        self.shared.set_outcome(outcome);
        self.has_ended = true;
        exit_code
    }

    /// Drops what the services have left, value by value: two destructors that panic at the same time would abort the
    /// process.
    pub(super) fn tear_down(mut self, mut inbox: UnboundedReceiver<SupervisorMessage>) {
        while let Ok(message) = inbox.try_recv() {
            discard(message);
        }
        self.supervisor.discard_values();
        self.work.discard_values();
        self.generations.drain(..).for_each(discard);
        discard(self);
        discard(inbox);
    }
}

/// Handles a supervisor that is dropped before its host has stopped. The host is no longer ready, whatever its services
/// do. Services on threads of their own are asked to stop, since nothing else would ever ask them.
impl Drop for Executor {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.update_status(|status| {
                status.phase = HostPhase::Stopping;
                status.since = SystemTime::now();
            });
            self.generations.iter().flatten().for_each(|handle| handle.request_stop());
            cancel(&self.shared.draining);
        }
    }
}

/// Cancels a token of the host. Its wakers are user code, and a panic in one must not end the supervisor.
fn cancel(token: &CancellationToken) {
    let _ = catch(|| token.cancel());
}
