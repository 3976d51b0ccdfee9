//! [`BlockingService`], a synchronous service on a dedicated thread.

use super::context::{BlockingContext, StartContext, StopContext};
use super::service::ServiceResult;

/// A service that blocks: a synchronous client, the callbacks of a C library, a loop that reads a file.
///
/// It gives the same guarantees as [`BackgroundService`](super::BackgroundService), but each generation has a dedicated
/// thread, named after the service. A thread cannot be dropped: if it does not return within
/// [`stop_timeout`](super::Service::stop_timeout) after it was asked to stop, the host leaves it running and reports it
/// as [`Leaked`](super::ExitKind::Leaked). The host does not restart such a service, because its old thread may still
/// be working.
///
/// # Panics
///
/// A panic in any of the methods is caught and counts as a failure of the service.
///
/// # Examples
///
/// ```
/// use onelane::background::{BlockingContext, BlockingService, Service, ServiceHost, ServiceResult};
/// use std::time::Duration;
///
/// struct Poller;
///
/// impl BlockingService for Poller {
///     fn name(&self) -> &str {
///         "poller"
///     }
///
///     fn run(&self, cx: BlockingContext) -> ServiceResult {
///         while !cx.wait_stopping(Duration::from_millis(200)) {
///             // call blocking code
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder().service(Service::blocking(Poller)).build()?;
/// host.start().await?;
/// assert!(host.shutdown().await?.is_clean());
/// # Ok(())
/// # }
/// ```
pub trait BlockingService: Send + Sync + 'static {
    /// See [`BackgroundService::name`](super::BackgroundService::name).
    fn name(&self) -> &str;

    /// See [`BackgroundService::start`](super::BackgroundService::start). Runs on the thread of the service.
    ///
    /// # Errors
    ///
    /// An error means that the start failed.
    fn start(&self, cx: &StartContext) -> ServiceResult {
        let _ = cx;
        Ok(())
    }

    /// Does the work.
    ///
    /// An implementation checks [`BlockingContext::is_stopping`] between blocking calls, and no such call takes longer
    /// than [`stop_timeout`](super::Service::stop_timeout).
    ///
    /// # Errors
    ///
    /// An error is a failure: the host [restarts](super::Restart) the service, or gives up on it.
    fn run(&self, cx: BlockingContext) -> ServiceResult;

    /// Releases what `start` acquired. Called exactly once for each `start` that returned `Ok`.
    ///
    /// It runs on the thread of the service or, if `run` does not return, concurrently with `run` on another thread. If
    /// `run` does not return and the stop is forced, or no time is left, it is [skipped](super::CleanUp::Skipped).
    ///
    /// # Errors
    ///
    /// An error is reported and has no other effect.
    fn stop(&self, cx: &StopContext) -> ServiceResult {
        let _ = cx;
        Ok(())
    }
}
