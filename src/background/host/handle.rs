//! [`HostHandle`], through which handlers observe and stop a host.

#[cfg(feature = "probe-listener")]
use std::net::SocketAddr;
use std::sync::Arc;

use futures_core::Stream;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::until_draining::UntilDraining;
use crate::background::control::{HostOutcome, HostShared, SupervisorMessage, is_inside_host};
use crate::background::error::HostError;
use crate::background::status::{HostEvents, HostStatus, ShutdownReport, Trigger};
use crate::debug::impl_debug;
use crate::detached;

/// A handle to a host for handlers, probes and services. Clones refer to the same host, and keep no service running.
#[derive(Clone)]
pub struct HostHandle {
    shared: Arc<HostShared>,
}

impl HostHandle {
    pub(super) fn new(shared: Arc<HostShared>) -> Self {
        Self { shared }
    }

    /// Returns the status of the host and its services. The call copies a pointer, regardless of the number of
    /// services.
    #[must_use]
    pub fn status(&self) -> Arc<HostStatus> {
        self.shared.status()
    }

    /// Returns the address of the [probe listener](super::ServiceHostBuilder::probe_listener), or `None` without one.
    /// If the listener was bound to port 0, the address has the port that the system picked. It is available before the
    /// start.
    #[cfg(feature = "probe-listener")]
    #[must_use]
    pub fn probe_address(&self) -> Option<SocketAddr> {
        self.shared.probe_address()
    }

    /// Adds another runtime that serves requests to the host's watch, if the host has one.
    pub(crate) fn watch_runtime(&self, runtime: &Handle) {
        if let Some(watch) = &self.shared.status().watch {
            watch.add(runtime);
        }
    }

    /// Returns a receiver of the host's changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> HostEvents {
        self.shared.subscribe()
    }

    /// Returns a token that is cancelled when the host begins to stop. By then the host is no longer ready.
    ///
    /// Use the token to end the server and endless streams.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        // A child token: cancelling it does not cancel the tokens of others.
        self.shared.draining.child_token()
    }

    /// Returns a token that is cancelled shortly before the server's time is up.
    #[cfg(all(feature = "actix-web", unix))]
    pub(crate) fn refusing(&self) -> CancellationToken {
        self.shared.refusing.child_token()
    }

    /// Returns a stream that ends when the host begins to stop. Use it for endless streams, such as server-sent events.
    /// The client sees that the response ends, and its event source connects to another server.
    ///
    /// ```no_run
    /// # use std::convert::Infallible;
    /// # use axum::response::sse::{Event, Sse};
    /// # use futures::Stream;
    /// # use onelane::background::HostHandle;
    /// async fn events(host: HostHandle) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    ///     let ticks = futures::stream::repeat_with(|| Ok(Event::default().data("tick")));
    ///     Sse::new(host.until_draining(ticks))
    /// }
    /// ```
    pub fn until_draining<S: Stream>(&self, stream: S) -> UntilDraining<S> {
        UntilDraining::new(stream, self.draining())
    }

    /// Stops the host and waits until it has stopped: see [`ServiceHost::shutdown`](super::ServiceHost::shutdown). `Ok`
    /// is returned also after a stop that failed: look at the report.
    ///
    /// Do not wait for the stop in a handler: the server's graceful shutdown waits for the handler's request in turn.
    /// Use [`request_shutdown`](Self::request_shutdown) there.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the host still stops.
    ///
    /// # Errors
    ///
    /// The same as [`ServiceHost::shutdown`](super::ServiceHost::shutdown).
    pub async fn shutdown(&self) -> Result<ShutdownReport, HostError> {
        if !self.shared.is_started() {
            return Err(HostError::NotStarted);
        }
        self.request_shutdown();
        if is_inside_host(self.shared.host_id()) {
            return Err(HostError::WouldDeadlock);
        }
        let HostOutcome { report, error } = self.shared.ended().await?;
        error.map_or(Ok(report), Err)
    }

    /// Asks the host to stop, and returns immediately. Before the start, the call does nothing. A signal that arrives
    /// later counts as the first one, which does not force the stop.
    pub fn request_shutdown(&self) {
        if self.shared.is_started() {
            self.shared.send(SupervisorMessage::Shutdown(Trigger::Requested));
        }
    }

    /// Stops the host without waiting for anything, as a second signal does. Futures are dropped, and blocked threads
    /// are left behind. `stop` is called only on services that do not block, and has a few milliseconds to end.
    pub fn force_shutdown(&self) {
        if self.shared.is_started() {
            self.shared.send(SupervisorMessage::ForceShutdown(Trigger::Requested));
        }
    }

    /// Waits until the host is draining and no work of the process [continues without its caller](crate::detached).
    ///
    /// For a server that ends its threads together with the work on them, such as actix-web: pass this future to
    /// `HttpServer::shutdown_signal`. Until the future completes, the server accepts requests while `/readyz` fails.
    /// The [report](ShutdownReport::unfinished) names handlers whose clients disconnect later. Other servers need only
    /// [`draining`](Self::draining), since the host itself waits for such work.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn server_may_end(&self) -> impl Future<Output = ()> + Send + 'static {
        let draining = self.draining();
        async move {
            draining.cancelled().await;
            detached::drained().await;
        }
    }

    /// Makes a [periodic](crate::background::periodic()) service call its closure now, or as soon as the service runs.
    /// The schedule does not change.
    ///
    /// During a call, one more call follows right after it, or runs concurrently with
    /// [`Overlap::Allow`](crate::background::Overlap::Allow). Triggers that arrive before that call has begun count as
    /// one.
    ///
    /// # Errors
    ///
    /// Returns a [`TriggerError`] if no service has that name, or if the service is not periodic or has ended.
    pub fn trigger_now(&self, service: &str) -> Result<(), TriggerError> {
        let status = self.shared.status();
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
    /// The host has no service with that name.
    #[error("the host has no service with that name")]
    Unknown,
    /// The service is not periodic.
    #[error("the service is not periodic: only a service made by `periodic` or `periodic_blocking` can be triggered")]
    NotPeriodic,
    /// The service has ended.
    #[error("the service has ended and makes no more calls")]
    Ended,
}

impl_debug!(HostHandle |this| { status: this.status(), .. });
