//! [`BackgroundService`], what a service is: how it starts, what it does, how it stops.

use std::error::Error;
use std::future::{Future, ready};

use super::context::{RunContext, StartContext, StopContext};

/// Any error of a service. `?` makes one of whatever implements [`Error`], and `.into()` of a string.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What the methods of a service return.
pub type ServiceResult = Result<(), BoxError>;

/// Work that runs beside the requests of a server: it starts before the first of them and stops after the last.
///
/// A [`ServiceHost`](super::ServiceHost) calls [`start`](Self::start), then [`run`](Self::run), then [`stop`](Self::stop).
/// One such round is a *generation*. When it fails, the host begins the next one, as [`Restart`](super::Restart) says, so
/// what must not outlive a failure belongs into `start` or `run`, and what must, into the fields of the service.
///
/// All futures of a service are dropped, not only cancelled, when they ignore that the host stops: see
/// [`stop_timeout`](super::Service::stop_timeout).
///
/// # Panics
///
/// A panic in any of the methods ends here: it is a failure, with message and place in the status.
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
///         Ok(()) // flush, say goodbye: also after a panic
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
    note = "a `BlockingService` is added as `Service::blocking(…)`, and a closure as `service_fn(name, …)`"
)]
pub trait BackgroundService: Send + Sync + 'static {
    /// The name under which it is seen in status, probes, logs and errors, and which others name as their dependency. No
    /// two services of a host share one.
    fn name(&self) -> &str;

    /// Acquires what the work needs. The server takes no request before it has returned, and dependents do not start.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped after [`start_timeout`](super::Service::start_timeout), and `stop` is not called then. When the
    /// host has to stop meanwhile, it has [`stop_timeout`](super::Service::stop_timeout) to end, and is dropped after that: a
    /// start that may take long selects over [`StartContext::stopping`] and what it does, so that nobody waits for it.
    ///
    /// # Errors
    ///
    /// An error is a failed start: of a [critical](super::Service::degradable) service it makes the whole host stop what it has
    /// started, in reverse order. Where the host had started before, the service is [restarted](super::Restart).
    fn start(&self, cx: &StartContext) -> impl Future<Output = ServiceResult> + Send {
        let _ = cx;
        ready(Ok(()))
    }

    /// Does the work. It returns soon after [`RunContext::stopping`], or when there is nothing left to do.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped where it waits if it does not end within [`stop_timeout`](super::Service::stop_timeout) after
    /// it was told to.
    ///
    /// # Errors
    ///
    /// An error is a failure: the service is [restarted](super::Restart), or given up.
    fn run(&self, cx: RunContext) -> impl Future<Output = ServiceResult> + Send;

    /// Releases what `start` has acquired. It is called exactly once for each `start` that returned `Ok`, however `run`
    /// ended: also after a panic, and after it was dropped.
    ///
    /// If `run` blocks its thread and so can't be dropped, `stop` is called beside it, on a thread of its own.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped after [`cleanup_timeout`](super::Service::cleanup_timeout), or at the host's deadline.
    ///
    /// # Errors
    ///
    /// An error is reported, and changes nothing else.
    fn stop(&self, cx: &StopContext) -> impl Future<Output = ServiceResult> + Send {
        let _ = cx;
        ready(Ok(()))
    }
}
