//! [`BackgroundService`], the trait of async services: `start`, `run`, `stop`.

use std::error::Error;
use std::future::{Future, ready};

use super::context::{RunContext, StartContext, StopContext};

/// Any error of a service. `?` converts any type that implements [`Error`], and `.into()` converts a string.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The result of a service's methods.
pub type ServiceResult = Result<(), BoxError>;

/// Work that runs alongside the requests of a server. It starts before the first request and stops after the last.
///
/// A [`ServiceHost`](super::ServiceHost) calls [`start`](Self::start), then [`run`](Self::run), then
/// [`stop`](Self::stop). One such sequence is a *generation*. When a generation fails, the host begins the next one
/// according to [`Restart`](super::Restart). State that must not survive a failure belongs in `start` or `run`; state
/// that must survive belongs in the fields of the service.
///
/// If a future of the service ignores the request to stop, the host drops it: see
/// [`stop_timeout`](super::Service::stop_timeout).
///
/// # Panics
///
/// A panic in any of the methods is caught and counts as a failure. Its message and location are in the status.
///
/// # Examples
///
/// ```
/// use onelane::background::{BackgroundService, RunContext, ServiceHost, ServiceResult, StartContext, StopContext};
/// use std::time::Duration;
///
/// struct Heartbeat;
///
/// impl BackgroundService for Heartbeat {
///     fn name(&self) -> &str {
///         "heartbeat"
///     }
///
///     async fn start(&self, _cx: &StartContext) -> ServiceResult {
///         Ok(()) // connect, load, check: the server waits for it, and does not start if it fails
///     }
///
///     async fn run(&self, cx: RunContext) -> ServiceResult {
///         while cx.sleep(Duration::from_secs(1)).await {
///             // once a second, until the host stops
///         }
///         Ok(())
///     }
///
///     async fn stop(&self, _cx: &StopContext) -> ServiceResult {
///         Ok(()) // flush, disconnect: also after a panic
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder().service(Heartbeat).build()?;
/// host.start().await?;
/// assert!(host.status().is_ready());
/// let report = host.shutdown().await?;
/// assert!(report.is_clean());
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `BackgroundService`",
    note = "add a `BlockingService` with `Service::blocking(…)`, and a closure with `service_fn(name, …)`"
)]
pub trait BackgroundService: Send + Sync + 'static {
    /// Returns the name of the service, which is unique within its host. It appears in status, probes, logs and errors,
    /// and other services use it to declare a dependency.
    fn name(&self) -> &str;

    /// Acquires what the work needs. Until it returns, the server accepts no requests and dependent services do not
    /// start.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped after [`start_timeout`](super::Service::start_timeout). `stop` is not called in that case.
    /// If the host has to stop during the start, the future has [`stop_timeout`](super::Service::stop_timeout) to end
    /// and is then dropped. A start that may take long selects between its work and [`StartContext::stopping`], so that
    /// the host need not wait for it.
    ///
    /// # Errors
    ///
    /// An error means that the start failed. While the host is starting, a failed start of a
    /// [critical](super::Service::degradable) service makes the host stop all started services, in reverse order.
    /// Otherwise the service is [restarted](super::Restart).
    fn start(&self, cx: &StartContext) -> impl Future<Output = ServiceResult> + Send {
        let _ = cx;
        ready(Ok(()))
    }

    /// Does the work. Returns soon after [`RunContext::stopping`] completes, or when there is nothing left to do.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at the await point where it waits if it does not end within
    /// [`stop_timeout`](super::Service::stop_timeout) after it was asked to stop.
    ///
    /// # Errors
    ///
    /// An error is a failure: the host [restarts](super::Restart) the service, or gives up on it.
    fn run(&self, cx: RunContext) -> impl Future<Output = ServiceResult> + Send;

    /// Releases what `start` acquired. Called exactly once for each `start` that returned `Ok`, however `run` ended:
    /// also after a panic, and after it was dropped.
    ///
    /// If the thread of `run` is blocked, so that `run` cannot be dropped, `stop` is called concurrently, on another
    /// thread, or [skipped](super::CleanUp::Skipped) if no time is left.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped after [`cleanup_timeout`](super::Service::cleanup_timeout), or at the host's deadline.
    ///
    /// # Errors
    ///
    /// An error is reported and has no other effect.
    fn stop(&self, cx: &StopContext) -> impl Future<Output = ServiceResult> + Send {
        let _ = cx;
        ready(Ok(()))
    }
}
