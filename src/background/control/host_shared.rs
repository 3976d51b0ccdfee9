//! [`HostShared`], the state that a host, its handles, its supervisor and its services share.

#[cfg(feature = "probe-listener")]
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{broadcast, watch};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use super::message::SupervisorMessage;
use crate::background::error::HostError;
use crate::background::status::{HostEvent, HostEvents, HostStatus, ShutdownReport};
use crate::sync::lock;
use crate::wake::Contained;

/// The shared state of one host.
#[derive(Debug)]
pub(crate) struct HostShared {
    inbox: UnboundedSender<SupervisorMessage>,
    /// The status is copied on write while a snapshot of it exists. So a change costs the same for any number of
    /// services, and there are at most as many copies as snapshots.
    status: Mutex<Arc<HostStatus>>,
    /// The supervisor holds the sender and drops it at the end.
    events: broadcast::WeakSender<HostEvent>,
    /// Cancelled when the stop begins.
    pub(crate) draining: CancellationToken,
    /// Cancelled shortly before the server's time is up, when requests that still wait are refused.
    pub(crate) refusing: CancellationToken,
    /// Cancelled when the services begin to stop.
    pub(crate) stopping: CancellationToken,
    /// The runtime on which the host was started, and `true` if the supervisor is one of its tasks.
    server: OnceLock<(Handle, bool)>,
    outcome: watch::Sender<Option<HostOutcome>>,
    #[cfg(feature = "probe-listener")]
    probe_address: Option<SocketAddr>,
}

/// How a host has ended.
#[derive(Clone, Debug)]
pub(crate) struct HostOutcome {
    pub(crate) report: ShutdownReport,
    pub(crate) error: Option<HostError>,
}

impl HostShared {
    pub(crate) fn new(
        inbox: UnboundedSender<SupervisorMessage>,
        status: HostStatus,
        events: broadcast::WeakSender<HostEvent>,
    ) -> Self {
        Self {
            inbox,
            status: Mutex::new(Arc::new(status)),
            events,
            draining: CancellationToken::new(),
            refusing: CancellationToken::new(),
            stopping: CancellationToken::new(),
            server: OnceLock::new(),
            outcome: watch::Sender::new(None),
            #[cfg(feature = "probe-listener")]
            probe_address: None,
        }
    }

    #[cfg(feature = "probe-listener")]
    pub(crate) fn with_probe_address(mut self, address: Option<SocketAddr>) -> Self {
        self.probe_address = address;
        self
    }

    #[cfg(feature = "probe-listener")]
    pub(crate) fn probe_address(&self) -> Option<SocketAddr> {
        self.probe_address
    }

    /// Identifies the host among all hosts of the process.
    pub(crate) fn host_id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Records the server's runtime, and if it runs the supervisor. Called by the first start of the host.
    pub(crate) fn set_server(&self, server: Handle, runs_supervisor: bool) {
        let is_first = self.server.set((server, runs_supervisor)).is_ok();
        debug_assert!(is_first, "a host starts once");
    }

    pub(crate) fn is_started(&self) -> bool {
        self.server.get().is_some()
    }

    pub(crate) fn server(&self) -> &Handle {
        &self.server.get().expect("generations begin after the host was started, which sets it").0
    }

    /// Lets the supervisor handle the messages that were sent to it. Called before user code that may block its thread:
    /// a supervisor that is a task of the same runtime may be the next task of this very thread, and no other thread
    /// would take it from there.
    pub(crate) async fn let_supervisor_run(&self) {
        if self.server.get().is_some_and(|(_, runs_supervisor)| *runs_supervisor) {
            yield_now().await;
        }
    }

    /// Sends a message to the supervisor. The message is dropped if the supervisor has ended.
    pub(crate) fn send(&self, message: SupervisorMessage) {
        let _ = self.inbox.send(message);
    }

    /// Returns a snapshot of the status.
    pub(crate) fn status(&self) -> Arc<HostStatus> {
        Arc::clone(&lock(&self.status))
    }

    /// Changes the published status. Values that `update` replaces belong to services, and their destructors are user
    /// code, so `update` must return them instead of dropping them with the mutex held.
    pub(crate) fn update_status<T>(&self, update: impl FnOnce(&mut HostStatus) -> T) -> T {
        update(Arc::make_mut(&mut lock(&self.status)))
    }

    pub(crate) fn subscribe(&self) -> HostEvents {
        let events = self.events.upgrade().map(|events| events.subscribe());
        // After the end of the host, this is the receiver of a sender that is already gone: there will be no more
        // events.
        HostEvents(events.unwrap_or_else(|| broadcast::channel(1).1))
    }

    pub(crate) fn set_outcome(&self, outcome: HostOutcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// Waits until the host has ended.
    pub(crate) async fn ended(&self) -> Result<HostOutcome, HostError> {
        let mut outcome = self.outcome.subscribe();
        let (has_outcome, supervisor_is_gone) = (pin!(outcome.wait_for(Option::is_some)), pin!(self.inbox.closed()));
        tokio::select! {
            biased;
            // `self` holds the sender, so the channel is not closed.
            outcome = Contained(has_outcome) => {
                outcome.ok().and_then(|outcome| outcome.clone()).ok_or(HostError::SupervisorGone)
            }
            () = Contained(supervisor_is_gone) => {
                let outcome = self.outcome.borrow().clone();
                outcome.ok_or(HostError::SupervisorGone)
            }
        }
    }
}
