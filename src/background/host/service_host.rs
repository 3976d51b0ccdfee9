//! [`ServiceHost`], which runs the background services of a server.

#[cfg(feature = "probe-listener")]
use std::net::TcpListener;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::builder::{ServiceHostBuilder, Supervision};
use super::handle::HostHandle;
use crate::background::control::{HostOutcome, HostShared, SupervisorMessage};
use crate::background::error::HostError;
#[cfg(feature = "probe-listener")]
use crate::background::probe_server::ProbeServer;
use crate::background::service::BoxError;
use crate::background::signals::Signals;
use crate::background::status::{HostEvents, HostStatus, ShutdownReport, Trigger};
use crate::background::supervisor::{StartRequest, SupervisorTask};
use crate::debug::impl_debug;
use crate::own_runtime::OwnRuntime;
use crate::sync::lock;

/// How many tasks the supervisor's thread polls before it checks for signals and I/O. The tasks answer probes. With
/// tokio's default of 61, clients that send probes without a pause make a stop five times as slow.
const EVENT_INTERVAL: u32 = 4;

/// Runs the background services of a server: it starts them before the first request, supervises them, and stops them
/// after the last.
///
/// [`run_until`](Self::run_until) is for a server that is a future. If the server is started and stopped in another
/// way, call [`start`](Self::start) and [`shutdown`](Self::shutdown) yourself.
///
/// # Drop
///
/// Dropping the host stops its services without waiting for them. Prefer to call [`shutdown`](Self::shutdown) first. A
/// supervisor with a thread of its own completes the stop, as long as the process lives.
///
/// # Panics
///
/// A panic in a service is a failure of that service. A panic in the server propagates to its runtime.
///
/// # Examples
///
/// ```
/// use onelane::background::{ServiceHost, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder()
///     .service(service_fn("refresher", |cx| async move { Ok(cx.stopping().await) }))
///     .build()?;
/// let handle = host.handle();
/// let server = async move {
///     assert!(handle.status().is_ready());
///     // serve, until `handle.draining()`
///     Ok::<(), std::io::Error>(())
/// };
/// let report = host.run_until(server).await?;
/// assert_eq!(report.exit_code(), 0);
/// # Ok(())
/// # }
/// ```
pub struct ServiceHost {
    pub(super) shared: Arc<HostShared>,
    /// Taken when the host is started.
    pub(super) task: Mutex<Option<SupervisorTask>>,
    pub(super) supervision: Supervision,
    pub(super) signals: Signals,
    /// Taken when the host is started.
    #[cfg(feature = "probe-listener")]
    pub(super) probes: Mutex<Option<TcpListener>>,
}

impl ServiceHost {
    /// Returns a builder without services.
    pub fn builder() -> ServiceHostBuilder {
        ServiceHostBuilder::new()
    }

    /// Starts the services, in the order of their dependencies, and waits until the first `start` of each has returned.
    ///
    /// This does not handle signals: call [`shutdown`](Self::shutdown) when the server has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the start continues. Call `shutdown` to stop it.
    ///
    /// # Errors
    ///
    /// - [`StartFailed`](HostError::StartFailed) or [`StartTimedOut`](HostError::StartTimedOut) if a critical service
    ///   fails to start. All services are stopped again, in reverse order. The error names the service.
    /// - [`StoppedWhileStarting`](HostError::StoppedWhileStarting) if the host has to stop in the meantime, or the
    ///   error of the service that made it stop.
    /// - [`AlreadyStarted`](HostError::AlreadyStarted) if the host was started before.
    /// - [`NoRuntime`](HostError::NoRuntime) outside a tokio runtime.
    /// - [`Thread`](HostError::Thread) if the supervisor's thread can't be spawned.
    /// - [`ProbeListener`](HostError::ProbeListener) if the probe listener can't be used.
    pub async fn start(&self) -> Result<(), HostError> {
        self.launch(false, Signals::Ignore)?.await.unwrap_or(Err(HostError::SupervisorGone))
    }

    /// Stops the services, in reverse order of their dependencies, and waits until they have stopped.
    ///
    /// The method returns after the [`shutdown_timeout`](ServiceHostBuilder::shutdown_timeout) at the latest. Repeated
    /// and concurrent calls return the same result.
    ///
    /// `Ok` is returned also after a stop that failed: return the report from `main`, so that the process exits with
    /// its [exit code](ShutdownReport::exit_code).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the host still stops.
    ///
    /// # Errors
    ///
    /// - [`GaveUp`](HostError::GaveUp), or another error that ended the host earlier.
    /// - [`NotStarted`](HostError::NotStarted) if the host was never started.
    /// - [`WouldDeadlock`](HostError::WouldDeadlock) inside a service of the host. The host stops nevertheless.
    pub async fn shutdown(&self) -> Result<ShutdownReport, HostError> {
        self.handle().shutdown().await
    }

    /// Starts the services, runs `server` until it ends or the host has to stop, and stops the services.
    ///
    /// The host has to stop on SIGTERM and SIGINT (Ctrl-C), when [`shutdown`](HostHandle::shutdown) is called, and when
    /// it gives up on a critical service. Then [`HostHandle::draining`] is cancelled, and the server has to end: pass
    /// the token to the graceful shutdown of the framework. The server has
    /// [`drain_timeout`](ServiceHostBuilder::drain_timeout) to end, or [less](crate::background#stopping) where
    /// [`shutdown_timeout`](ServiceHostBuilder::shutdown_timeout) is short.
    ///
    /// `Ok` is returned also after a stop that failed: return the report from `main`, so that the process exits with
    /// its [exit code](ShutdownReport::exit_code).
    ///
    /// A second signal forces the stop: the host no longer waits for anything. A first signal never forces the stop,
    /// even if the host is already stopping for another reason. A further signal, after this method has returned, ends
    /// the process immediately.
    ///
    /// `server` is not polled before the services have started, so it can bind its port when it is first polled.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server and the host are dropped.
    ///
    /// # Errors
    ///
    /// - The errors of [`start`](Self::start), except [`StoppedWhileStarting`](HostError::StoppedWhileStarting), for
    ///   which this method returns the report.
    /// - [`GaveUp`](HostError::GaveUp) if the host gave up on a critical service.
    /// - [`Server`](HostError::Server) if the server ended with an error.
    ///
    /// `main` can return any of them.
    pub async fn run_until<F, E>(self, server: F) -> Result<ShutdownReport, HostError>
    where
        F: IntoFuture<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        match self.launch(true, self.signals)?.await.unwrap_or(Err(HostError::SupervisorGone)) {
            Ok(()) => {}
            Err(HostError::StoppedWhileStarting { report }) => return Ok(*report),
            Err(error) => return Err(error),
        }
        let ended = {
            // The server is dropped at the end of this block: before the services stop, or as soon as they begin to
            // stop.
            let server = pin!(server.into_future());
            tokio::select! {
                biased;
                result = server => Some(result),
                () = self.shared.stopping.cancelled() => None,
                _ = self.shared.ended() => None,
            }
        };
        self.shared.send(SupervisorMessage::ServerEnded);
        let HostOutcome { report, error } = self.shared.ended().await?;
        match (error, ended) {
            (Some(error), _) => Err(error),
            (None, Some(Err(source))) => {
                Err(HostError::Server { source: source.into().into(), report: Box::new(report) })
            }
            (None, _) => Ok(report),
        }
    }

    fn launch(
        &self,
        has_server: bool,
        signals: Signals,
    ) -> Result<oneshot::Receiver<Result<(), HostError>>, HostError> {
        let server = Handle::try_current().map_err(|_| HostError::NoRuntime)?;
        let task = lock(&self.task).take().ok_or(HostError::AlreadyStarted)?;
        self.shared.set_server(server.clone(), self.supervision == Supervision::ServerRuntime);
        let (reply, started) = oneshot::channel();
        let request = StartRequest { reply, has_server };
        match self.supervision {
            Supervision::ServerRuntime => {
                let probes = self.serve_probes(&server)?;
                server.spawn(task.run(request, signals, false, probes));
            }
            Supervision::OwnThread => {
                let no_thread = |error| HostError::Thread { source: Arc::new(error) };
                let runtime = OwnRuntime::build(Builder::new_current_thread().event_interval(EVENT_INTERVAL))
                    .map_err(no_thread)?;
                let probes = self.serve_probes(runtime.handle())?;
                let run = move || runtime.block_on(task.run(request, signals, true, probes));
                thread::Builder::new().name("onelane-host".into()).spawn(run).map_err(no_thread)?;
            }
        }
        Ok(started)
    }

    /// Answers probes on their own port, if there is one, on the runtime of the supervisor.
    #[cfg(feature = "probe-listener")]
    fn serve_probes(&self, runtime: &Handle) -> Result<Option<AbortOnDropHandle<()>>, HostError> {
        let Some(listener) = lock(&self.probes).take() else { return Ok(None) };
        let _context = runtime.enter();
        let server =
            ProbeServer::new(listener).map_err(|error| HostError::ProbeListener { source: Arc::new(error) })?;
        Ok(Some(AbortOnDropHandle::new(runtime.spawn(server.serve(Arc::clone(&self.shared))))))
    }

    #[cfg(not(feature = "probe-listener"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "with the feature hyper it serves a port")]
    fn serve_probes(&self, _: &Handle) -> Result<Option<AbortOnDropHandle<()>>, HostError> {
        Ok(None)
    }

    /// Returns a handle for handlers, probes and other parts of the program that need the status of the services.
    #[must_use]
    pub fn handle(&self) -> HostHandle {
        HostHandle::new(Arc::clone(&self.shared))
    }

    /// Returns the status of the host and its services.
    #[must_use]
    pub fn status(&self) -> Arc<HostStatus> {
        self.shared.status()
    }

    /// Returns a receiver of the host's changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> HostEvents {
        self.shared.subscribe()
    }
}

/// A host without services, for a server that only needs to [drain](crate::web::axum::serve()).
impl Default for ServiceHost {
    fn default() -> Self {
        Self::builder().build().expect("a host without services has nothing that could be wrong")
    }
}

impl Drop for ServiceHost {
    fn drop(&mut self) {
        self.shared.send(SupervisorMessage::Shutdown(Trigger::Dropped));
    }
}

impl_debug!(ServiceHost |this| { status: this.status(), .. });
