//! [`Executor`], which executes the decisions of a supervisor.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::decisions::{Action, Decisions, FailedService};
use super::event_loop::StartRequest;
use super::state::Supervisor;
use crate::background::control::{GenerationEvent, GenerationHandle, HostOutcome, HostShared, SupervisorMessage};
use crate::background::error::HostError;
use crate::background::generation::ServiceRunner;
use crate::background::placement::Placement;
use crate::background::status::{HostEvent, HostPhase, ShutdownReport, Trigger};
use crate::background::trace;
use crate::panic::{catch, discard};

/// A supervisor with its surroundings.
pub(super) struct Executor {
    supervisor: Supervisor,
    services: Vec<ManagedService>,
    shared: Arc<HostShared>,
    events: broadcast::Sender<HostEvent>,
    /// Taken when it is answered.
    request: Option<StartRequest>,
    /// The exit code for the process, once the host has ended.
    exit_code: Option<u8>,
    was_signalled: bool,
}

/// A service and its current or last generation.
pub(crate) struct ManagedService {
    runner: Arc<dyn ServiceRunner>,
    generation: Option<Arc<GenerationHandle>>,
}

impl ManagedService {
    pub(crate) fn new(runner: Arc<dyn ServiceRunner>) -> Self {
        Self { runner, generation: None }
    }
}

impl Executor {
    /// Starts the host.
    pub(super) fn start(
        supervisor: Supervisor,
        services: Vec<ManagedService>,
        shared: Arc<HostShared>,
        events: broadcast::Sender<HostEvent>,
        request: StartRequest,
    ) -> Self {
        let has_server = request.has_server;
        let request = Some(request);
        let mut executor =
            Self { supervisor, services, shared, events, request, exit_code: None, was_signalled: false };
        let now = executor.read_clocks();
        executor.supervisor.start(now, has_server);
        executor.execute();
        executor
    }

    pub(super) fn exit_code(&self) -> Option<u8> {
        self.exit_code
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.supervisor.next_timer()
    }

    fn read_clocks(&mut self) -> Instant {
        self.supervisor.set_wall_clock(SystemTime::now());
        Instant::now()
    }

    /// Handles a signal. The first one stops the host. It does so even if the host is stopping for another reason: a process
    /// that was signalled once was not asked twice. The second signal forces the stop.
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
                let handle = self.generation(id).filter(|handle| handle.generation == generation);
                let has_changed = matches!(event, GenerationEvent::HealthChanged);
                let health = handle.filter(|_| has_changed).map(|handle| handle.take_health());
                self.supervisor.on_event(now, id, generation, event, health);
            }
            SupervisorMessage::Shutdown(trigger) => self.supervisor.shutdown(now, trigger),
            SupervisorMessage::ForceShutdown(trigger) => self.supervisor.force_shutdown(now, trigger),
            SupervisorMessage::ServerEnded => self.supervisor.server_ended(now),
        }
    }

    fn generation(&self, id: u32) -> Option<&Arc<GenerationHandle>> {
        self.services[id as usize].generation.as_ref()
    }

    fn is_shared(&self, id: u32) -> bool {
        self.supervisor.slot(id).options.placement == Placement::Shared
    }

    /// Publishes what has changed, and then executes what was decided. In this order, no observer of an action sees the
    /// status from before it, and a subscriber that has seen that status receives the event of the change.
    fn execute(&mut self) {
        let Decisions { changed, actions } = self.supervisor.take_decisions();
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
            Action::BeginGeneration(id) => self.begin_generation(id),
            Action::RequestStop(id) => self.generation(id).into_iter().for_each(|handle| handle.request_stop()),
            Action::Abort(id, phase) => self.generation(id).into_iter().for_each(|handle| handle.abort(phase)),
            Action::CleanUpElsewhere(id, exit) => {
                if let Some(handle) = self.generation(id) {
                    let runner = Arc::clone(&self.services[id as usize].runner);
                    runner.clean_up_elsewhere(Arc::clone(handle), exit);
                }
            }
            // Without subscribers the event comes back.
            Action::Emit(event) => discard(self.events.send(event)),
            Action::ReportStarted => self.reply(Ok(())),
            Action::DrainServer => self.shared.draining().cancel(),
            Action::DropServer => self.shared.stopping().cancel(),
            Action::Finish(report, failed) => self.finish(*report, failed),
        }
    }

    fn begin_generation(&mut self, id: u32) {
        let slot = self.supervisor.slot(id);
        let handle = Arc::new(GenerationHandle::new(
            id,
            slot.status.generation,
            Arc::clone(&slot.status.name),
            !slot.options.manual_ready,
            slot.status.heartbeat.clone(),
            slot.status.last_failure.clone(),
            Arc::clone(&self.shared),
        ));
        let placement = slot.options.placement;
        let service = &mut self.services[id as usize];
        discard(service.generation.replace(Arc::clone(&handle)));
        // On a runtime that has shut down, the task is dropped at once, and with it values of the service.
        let _ = catch(|| Arc::clone(&service.runner).begin(placement, handle));
    }

    /// Reports to the caller that started the host how the start went.
    fn reply(&mut self, result: Result<(), HostError>) {
        if let Some(request) = self.request.take() {
            // It fails if the caller does not wait any more.
            let _ = request.reply.send(result);
        }
    }

    fn finish(&mut self, report: ShutdownReport, failed: Option<FailedService>) {
        trace::host_stopped(&report);
        let status = |id: u32| self.supervisor.status(id);
        let dependency = failed.and_then(|failed| failed.dependency).map(status);
        let error = HostError::of(&report, failed.map(|failed| status(failed.id)), dependency);
        if self.request.is_some() {
            let stopped = || HostError::StoppedWhileStarting { report: Box::new(report.clone()) };
            self.reply(Err(error.clone().unwrap_or_else(stopped)));
        }
        self.exit_code = Some(error.as_ref().map_or_else(|| report.exit_code(), HostError::exit_code));
        self.shared.set_outcome(HostOutcome { report, error });
    }

    /// Drops the services and what they left, value by value: two destructors that panic at once would abort the process.
    pub(super) fn tear_down(mut self, mut inbox: UnboundedReceiver<SupervisorMessage>) {
        while let Ok(message) = inbox.try_recv() {
            discard(message);
        }
        self.supervisor.discard_values();
        for ManagedService { runner, generation } in mem::take(&mut self.services) {
            discard(runner);
            discard(generation);
        }
        discard(self);
        discard(inbox);
    }

    pub(super) fn warn_of_lag(&self, lag: Duration) {
        let generations = self.services.iter().filter_map(|service| service.generation.as_ref());
        // A service on a thread of its own blocks no other.
        let busy = generations.filter(|handle| handle.is_in_poll() && self.is_shared(handle.id));
        let busy: Vec<&str> = busy.map(|handle| &*handle.name).collect();
        trace::runtime_lags(lag, &busy);
    }
}

/// If the supervisor ends before its host, the host is not ready any more, whatever its services do. Services on threads of
/// their own are asked to stop, since nothing else would ever ask them.
impl Drop for Executor {
    fn drop(&mut self) {
        if self.exit_code.is_none() {
            self.shared.update_status(|status| {
                status.phase = HostPhase::Stopping;
                status.since = SystemTime::now();
            });
            self.shared.draining().cancel();
            let generations = self.services.iter().filter_map(|service| service.generation.as_ref());
            generations.for_each(|handle| handle.request_stop());
        }
    }
}
