//! [`SupervisorTask`], the event loop of a supervisor: it waits for messages, signals and timers.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::executor::Executor;
use super::releaser::Releaser;
use super::state::Supervisor;
use super::work_drain::WorkDrain;
use crate::background::control::{HostShared, SupervisorMessage};
use crate::background::error::HostError;
use crate::background::generation::ServiceRunner;
use crate::background::host_watch::HostWatch;
use crate::background::signals::{self, SignalStream, Signals};
use crate::background::status::HostEvent;
use crate::watch::Watch;

/// How many messages are handled before timers are checked and the status is published.
const BATCH: usize = 256;

/// How long a server that has ended may take to drop its last handlers. A connection of axum signals its end a moment
/// before it drops the handler of a client that has disconnected. On the server's own runtime, both happen in one poll.
const SETTLE: Duration = Duration::from_millis(2);

/// A supervisor that has not been started, with everything that it needs.
pub(crate) struct SupervisorTask {
    pub(crate) supervisor: Supervisor,
    pub(crate) runners: Vec<Arc<dyn ServiceRunner>>,
    pub(crate) shared: Arc<HostShared>,
    pub(crate) events: broadcast::Sender<HostEvent>,
    pub(crate) work: WorkDrain,
    pub(crate) inbox: UnboundedReceiver<SupervisorMessage>,
    /// How long the process may run after the end of the host before it is ended. `None` if the process may run
    /// forever.
    pub(crate) exit_within: Option<Duration>,
    pub(crate) watch: HostWatch,
}

/// The request to start a host.
#[derive(Debug)]
pub(crate) struct StartRequest {
    /// Receives the result once all first starts are decided.
    pub(crate) reply: oneshot::Sender<Result<(), HostError>>,
    /// A server exists, and has to end before the services stop.
    pub(crate) has_server: bool,
}

impl SupervisorTask {
    /// Runs the host from its start to its end. `probes` serves the probes until the host has ended, if the probes have
    /// their own port.
    pub(crate) async fn run(
        self,
        request: StartRequest,
        signals: Signals,
        has_own_thread: bool,
        probes: Option<AbortOnDropHandle<()>>,
    ) {
        let Self { supervisor, runners, shared, events, work, mut inbox, exit_within, watch } = self;
        // Before anything that may panic, such as a runtime without timers: dropping the executor ends the host.
        let mut executor = Executor {
            supervisor,
            guard_tasks: runners.iter().map(|_| None).collect(),
            generations: vec![None; runners.len()],
            runners: runners.into_iter().map(Some).collect(),
            releaser: Releaser::new(),
            shared,
            events,
            work,
            settle: if has_own_thread { SETTLE } else { Duration::ZERO },
            request: Some(request),
            outcome: None,
            start_error: None,
            has_ended: false,
            was_signalled: false,
        };
        let mut signals = SignalStream::listen(signals);
        let watch = watch.start(executor.shared.server(), has_own_thread);
        executor.shared.update_status(|status| status.watch = watch.as_ref().map(Watch::view));
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut batch = Vec::new();
        executor.start();
        let outcome = loop {
            if let Some(outcome) = executor.outcome.take() {
                break outcome;
            }
            let deadlines = [executor.supervisor.timers.next(), executor.releaser.check_at];
            let next = deadlines.into_iter().flatten().min();
            if let Some(next) = next.filter(|next| *next != timer.deadline()) {
                timer.as_mut().reset(next);
            }
            tokio::select! {
                biased;
                signal = signals.recv() => executor.on_signal(signal),
                () = timer.as_mut(), if next.is_some() => {}
                _ = inbox.recv_many(&mut batch, BATCH) => {}
                () = executor.work.progress(), if executor.work.is_waiting() => {}
            }
            let now = executor.on_messages(batch.drain(..));
            executor.check_work();
            executor.check_releases(now);
        };
        if let Some(probes) = probes {
            probes.abort();
            // The port is free once the task is gone.
            let _ = probes.await;
        }
        drop(watch);
        let exit_code = executor.report_end(outcome);
        executor.tear_down(inbox);
        // On the server's runtime, the supervisor's task keeps nothing alive, and cannot act once the runtime is stuck.
        if has_own_thread {
            tokio::join!(signals::exit_on_further_signal(signals), signals::exit_after(exit_within, exit_code));
        }
    }
}
