//! [`ServiceHost`], what a server has its services in.

#[cfg(feature = "hyper")]
use std::net::TcpListener;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::{fmt, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::builder::{ServiceHostBuilder, Supervision};
use super::handle::HostHandle;
use super::link::{Ending, Link, Message, Starting};
use crate::background::error::HostError;
use crate::background::own_runtime::OwnRuntime;
#[cfg(feature = "hyper")]
use crate::background::probe_server::ProbeServer;
use crate::background::service::BoxError;
use crate::background::signals::Signals;
use crate::background::status::{HostEvents, HostStatus, ShutdownReport, Trigger};
use crate::background::supervisor::{Shell, supervise};
use crate::sync::lock;

/// How many tasks of the supervisor's thread have their turn before the supervisor has its own, and signals and sockets are
/// looked at. The tasks are probes. With tokio's default of 61, clients that ask without end make a stop five times as slow.
const TASKS_IN_A_ROW: u32 = 4;

/// The services of a server: it starts them before the first request, watches over them, and stops them after the last.
///
/// [`run_until`](Self::run_until) is for a server that is a future. Where the server is started and stopped in another way,
/// [`start`](Self::start) and [`shutdown`](Self::shutdown) are called by hand.
///
/// # Drop
///
/// Dropping the host tells its services to stop, and waits for nothing: [`shutdown`](Self::shutdown) before is better.
/// A supervisor with a thread of its own sees it through, as long as the process lives.
///
/// # Panics
///
/// A panic of a service ends in the service, and one of the server in its runtime.
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
    link: Arc<Link>,
    /// Until it is started.
    shell: Mutex<Option<Box<Shell>>>,
    supervision: Supervision,
    signals: Signals,
    /// Until it is started.
    #[cfg(feature = "hyper")]
    probes: Mutex<Option<TcpListener>>,
}

impl ServiceHost {
    /// Begins with a host without services.
    pub fn builder() -> ServiceHostBuilder {
        ServiceHostBuilder::new()
    }

    pub(super) fn new(link: Arc<Link>, shell: Shell, supervision: Supervision, signals: Signals) -> Self {
        Self {
            link,
            shell: Mutex::new(Some(Box::new(shell))),
            supervision,
            signals,
            #[cfg(feature = "hyper")]
            probes: Mutex::default(),
        }
    }

    #[cfg(feature = "hyper")]
    pub(super) fn with_probes(mut self, probes: Option<TcpListener>) -> Self {
        self.probes = Mutex::new(probes);
        self
    }

    /// Starts the services, in the order of their dependencies, and waits until the first `start` of each has returned.
    ///
    /// Signals are left alone: call [`shutdown`](Self::shutdown) when the server has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the start: `shutdown` does.
    ///
    /// # Errors
    ///
    /// If a critical service fails to start, all are stopped again, in reverse order, and the error names the service:
    /// [`StartFailed`](HostError::StartFailed), [`StartTimedOut`](HostError::StartTimedOut). If the host is told to stop
    /// meanwhile: [`StoppedWhileStarting`](HostError::StoppedWhileStarting), or the error of the service that told it so.
    /// [`AlreadyStarted`](HostError::AlreadyStarted) the second time, [`NoRuntime`](HostError::NoRuntime) outside of a tokio
    /// runtime, [`Thread`](HostError::Thread) when there is no thread to be had,
    /// [`ProbeListener`](HostError::ProbeListener) when the port for probes is of no use.
    pub async fn start(&self) -> Result<(), HostError> {
        self.launch(false, Signals::Ignore)?.await.unwrap_or(Err(HostError::SupervisorGone))
    }

    /// Tells the services to stop, in reverse order of their dependencies, and waits until they have.
    ///
    /// It returns at the [`shutdown_timeout`](ServiceHostBuilder::shutdown_timeout) at the latest. Called again, or at the
    /// same time, it returns the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the stop.
    ///
    /// # Errors
    ///
    /// [`GaveUp`](HostError::GaveUp), or another error that has ended the host before. [`NotStarted`](HostError::NotStarted)
    /// without a start, [`WouldDeadlock`](HostError::WouldDeadlock) within a service of the host, which is told to stop all
    /// the same.
    pub async fn shutdown(&self) -> Result<ShutdownReport, HostError> {
        self.handle().shutdown().await
    }

    /// Starts the services, runs `server` until it ends or the host has to stop, and stops the services.
    ///
    /// The host has to stop on SIGTERM and SIGINT (Ctrl-C), when [`shutdown`](HostHandle::shutdown) is called, and when a
    /// critical service is given up. Then [`HostHandle::draining`] fires, on which the server ends: give it to the graceful
    /// shutdown of the framework. It has [`drain_timeout`](ServiceHostBuilder::drain_timeout) for that. A second signal
    /// forces the stop: nothing is waited for. A first one never does, also where it finds the host stopping for another
    /// reason. A further one, once this has returned, ends the process at once.
    ///
    /// `server` is not polled before the services have started, so it may bind its port in it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server and the host.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start), but for [`StoppedWhileStarting`](HostError::StoppedWhileStarting), which is its
    /// report here, [`GaveUp`](HostError::GaveUp) when a critical service was given up, and
    /// [`Server`](HostError::Server) when the server ended with an error. `main` can return any of them as it is.
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
            // It is dropped at the end of this block: before the services stop, or as soon as they do.
            let server = pin!(server.into_future());
            tokio::select! {
                biased;
                result = server => Some(result),
                () = self.link.stopping().cancelled() => None,
                _ = self.link.ended() => None,
            }
        };
        self.link.send(Message::ServerEnded);
        let Ending { report, error } = self.link.ended().await?;
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
        let shell = lock(&self.shell).take().ok_or(HostError::AlreadyStarted)?;
        self.link.set_server(server.clone());
        let (answer, answered) = oneshot::channel();
        let starting = Starting { answer, has_server };
        match self.supervision {
            Supervision::ServerRuntime => {
                self.serve_probes(&server)?;
                server.spawn(supervise(*shell, starting, signals, None));
            }
            Supervision::OwnThread => {
                let no_thread = |error| HostError::Thread { source: Arc::new(error) };
                let runtime = OwnRuntime::build(Builder::new_current_thread().event_interval(TASKS_IN_A_ROW))
                    .map_err(no_thread)?;
                self.serve_probes(runtime.handle())?;
                let run = move || runtime.block_on(supervise(*shell, starting, signals, Some(server)));
                thread::Builder::new().name("onelane-host".into()).spawn(run).map_err(no_thread)?;
            }
        }
        Ok(answered)
    }

    /// Has the probes answered on their own port, if there is one, by the runtime of the supervisor.
    #[cfg(feature = "hyper")]
    fn serve_probes(&self, runtime: &Handle) -> Result<(), HostError> {
        let Some(listener) = lock(&self.probes).take() else { return Ok(()) };
        let _context = runtime.enter();
        let server =
            ProbeServer::new(listener).map_err(|error| HostError::ProbeListener { source: Arc::new(error) })?;
        runtime.spawn(server.serve(Arc::clone(&self.link)));
        Ok(())
    }

    #[cfg(not(feature = "hyper"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "with the feature hyper there is a port")]
    fn serve_probes(&self, _: &Handle) -> Result<(), HostError> {
        Ok(())
    }

    /// A handle for handlers, probes and whoever else has to know how the services are.
    #[must_use]
    pub fn handle(&self) -> HostHandle {
        HostHandle::new(Arc::clone(&self.link))
    }

    /// How the host and its services are.
    #[must_use]
    pub fn status(&self) -> Arc<HostStatus> {
        self.link.status()
    }

    /// The changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> HostEvents {
        self.link.subscribe()
    }
}

impl Drop for ServiceHost {
    fn drop(&mut self) {
        self.link.send(Message::Shutdown(Trigger::Dropped));
    }
}

impl fmt::Debug for ServiceHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHost").field("status", &self.status()).finish_non_exhaustive()
    }
}
