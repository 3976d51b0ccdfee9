//! [`Link`], what a host, its handles, its supervisor and its services share.

#[cfg(feature = "hyper")]
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::background::error::HostError;
use crate::background::generation::News;
use crate::background::status::{HostEvent, HostEvents, HostStatus, Lag, ShutdownReport, Trigger};

/// What all who have to do with one host share.
#[derive(Debug)]
pub(crate) struct Link {
    inbox: UnboundedSender<Message>,
    status: ArcSwap<HostStatus>,
    lag: Arc<Lag>,
    /// Those of the supervisor, who drops it at the end.
    events: broadcast::WeakSender<HostEvent>,
    /// Cancelled when the stop begins.
    draining: CancellationToken,
    /// Cancelled when the services begin to stop.
    stopping: CancellationToken,
    /// The runtime on which the host was started.
    server: OnceLock<Handle>,
    ending: watch::Sender<Option<Ending>>,
    #[cfg(feature = "hyper")]
    probe_address: Option<SocketAddr>,
}

/// What a supervisor is told.
#[derive(Debug)]
pub(crate) enum Message {
    News { id: u32, generation: u64, news: News },
    Shutdown(Trigger),
    Force(Trigger),
    ServerEnded,
}

/// Who waits for the start.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) answer: oneshot::Sender<Result<(), HostError>>,
    /// Whether there is a server that ends before the services stop.
    pub(crate) has_server: bool,
}

/// How a host has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) report: ShutdownReport,
    pub(crate) error: Option<HostError>,
}

impl Link {
    pub(crate) fn new(
        inbox: UnboundedSender<Message>,
        status: HostStatus,
        events: broadcast::WeakSender<HostEvent>,
    ) -> Self {
        Self {
            inbox,
            lag: Arc::clone(&status.lag),
            status: ArcSwap::from_pointee(status),
            events,
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            server: OnceLock::new(),
            ending: watch::Sender::new(None),
            #[cfg(feature = "hyper")]
            probe_address: None,
        }
    }

    #[cfg(feature = "hyper")]
    pub(super) fn with_probe_address(mut self, address: Option<SocketAddr>) -> Self {
        self.probe_address = address;
        self
    }

    /// Tells the supervisor. After its end there is nobody to be told.
    pub(crate) fn send(&self, message: Message) {
        let _ = self.inbox.send(message);
    }

    pub(crate) fn status(&self) -> Arc<HostStatus> {
        self.status.load_full()
    }

    /// Publishes a status. The one that was there before.
    pub(crate) fn publish(&self, status: Arc<HostStatus>) -> Arc<HostStatus> {
        self.status.swap(status)
    }

    pub(crate) fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }

    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub(crate) fn subscribe(&self) -> HostEvents {
        let events = self.events.upgrade().map(|events| events.subscribe());
        // Of a sender that is gone at once: there will be no more events.
        HostEvents(events.unwrap_or_else(|| broadcast::channel(1).1))
    }

    /// Whether this is the first start.
    pub(super) fn set_server(&self, server: Handle) -> bool {
        self.server.set(server).is_ok()
    }

    pub(super) fn is_started(&self) -> bool {
        self.server.get().is_some()
    }

    pub(crate) fn server(&self) -> &Handle {
        self.server.get().expect("generations begin after the host was started, which sets it")
    }

    pub(crate) fn end(&self, ending: Ending) {
        self.ending.send_replace(Some(ending));
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> Result<Ending, HostError> {
        let mut ending = self.ending.subscribe();
        let supervisor_is_gone = self.inbox.closed();
        tokio::select! {
            biased;
            // The sender is here, so it is not closed.
            ending = ending.wait_for(Option::is_some) => {
                ending.ok().and_then(|ending| ending.clone()).ok_or(HostError::SupervisorGone)
            }
            () = supervisor_is_gone => {
                let ending = self.ending.borrow().clone();
                ending.ok_or(HostError::SupervisorGone)
            }
        }
    }

    #[cfg(feature = "hyper")]
    pub(super) fn probe_address(&self) -> Option<SocketAddr> {
        self.probe_address
    }

    /// What tells hosts apart.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
