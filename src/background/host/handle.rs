//! [`HostHandle`], what handlers know of the host.

use std::fmt;
#[cfg(feature = "hyper")]
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::link::{Ending, Link, Message};
use crate::background::error::HostError;
use crate::background::generation::is_inside;
use crate::background::status::{HostEvents, HostStatus, ShutdownReport, Trigger};

/// A host as handlers, probes and services see it. Clones are the same, and keep no service running.
#[derive(Clone)]
pub struct HostHandle {
    link: Arc<Link>,
}

impl HostHandle {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// How the host and its services are: one atomic step, whatever the number of services.
    #[must_use]
    pub fn status(&self) -> Arc<HostStatus> {
        self.link.status()
    }

    /// The address of the [port for probes](super::ServiceHostBuilder::probe_listener), with the port that the system picked
    /// if it was bound to port 0. It is known before the start, too. `None` without one.
    #[cfg(feature = "hyper")]
    #[must_use]
    pub fn probe_address(&self) -> Option<SocketAddr> {
        self.link.probe_address()
    }

    /// The changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> HostEvents {
        self.link.subscribe()
    }

    /// The token that is cancelled in the moment in which the host begins to stop. By then it is no longer ready.
    ///
    /// A server ends on it, and so do endless streams.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        // A child, so that cancelling it here does not tell everybody.
        self.link.draining().child_token()
    }

    /// Tells the host to stop, and waits until it has: see [`ServiceHost::shutdown`](super::ServiceHost::shutdown).
    ///
    /// A request that waits for it is itself waited for by the server's graceful shutdown: from a handler,
    /// [`request_shutdown`](Self::request_shutdown) is what you want.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the stop.
    ///
    /// # Errors
    ///
    /// As [`ServiceHost::shutdown`](super::ServiceHost::shutdown).
    pub async fn shutdown(&self) -> Result<ShutdownReport, HostError> {
        if !self.link.is_started() {
            return Err(HostError::NotStarted);
        }
        self.request_shutdown();
        if is_inside(self.link.address()) {
            return Err(HostError::WouldDeadlock);
        }
        let Ending { report, error } = self.link.ended().await?;
        error.map_or(Ok(report), Err)
    }

    /// Tells the host to stop, and returns at once. Before the start it does nothing. A signal that comes later is the first
    /// one, which does not force the stop.
    pub fn request_shutdown(&self) {
        if self.link.is_started() {
            self.link.send(Message::Shutdown(Trigger::Requested));
        }
    }

    /// Tells the host to stop without waiting for anything, as a second signal does: what awaits is dropped, what blocks is
    /// left behind. `stop` is called only where it does not block, and has a few milliseconds.
    pub fn force_shutdown(&self) {
        if self.link.is_started() {
            self.link.send(Message::Force(Trigger::Requested));
        }
    }

    /// Has a [periodic](crate::background::periodic()) service call its closure now, or as soon as it runs. Its schedule stays
    /// as it is. If a call is going on, one more comes right after it, or beside it with
    /// [`Overlap::Allow`](crate::background::Overlap::Allow). Triggers that come before that one has begun are one.
    ///
    /// # Errors
    ///
    /// A [`TriggerError`] if there is no such service, it is not periodic, or it does not run.
    pub fn trigger_now(&self, service: &str) -> Result<(), TriggerError> {
        let status = self.link.status();
        let service = status.service(service).ok_or(TriggerError::Unknown)?;
        let ticker = service.ticker.as_ref().ok_or(TriggerError::NotPeriodic)?;
        if service.is_ended() {
            return Err(TriggerError::Ended);
        }
        ticker.trigger();
        Ok(())
    }
}

/// Why a service can't be triggered.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TriggerError {
    /// The host has no service of that name.
    #[error("the host has no service of that name")]
    Unknown,
    /// The service is not periodic.
    #[error("the service is not periodic: only what `periodic` made can be triggered")]
    NotPeriodic,
    /// The service has ended.
    #[error("the service has ended and is not called any more")]
    Ended,
}

impl fmt::Debug for HostHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}
