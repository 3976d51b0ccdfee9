//! [`BlockingService`], a service without `async`, on a thread of its own.

use super::context::{BlockingContext, StartContext, StopContext};
use super::service::ServiceResult;

/// Work that blocks: a synchronous client, callbacks of a C library, a loop over a file.
///
/// It is what [`BackgroundService`](super::BackgroundService) is, with the same promises, but each generation has a thread
/// of its own, named after the service. A thread can't be dropped: one that does not return within
/// [`stop_timeout`](super::Service::stop_timeout) after it was told to is left behind, and reported as
/// [`Leaked`](super::ExitKind::Leaked). Such a service is not started again, because its old thread may still be at work.
///
/// # Panics
///
/// A panic ends here, as a failure of the service.
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
///             // call what blocks
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = ServiceHost::builder().service(Service::blocking(Poller)).build()?;
/// host.start().await?;
/// host.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub trait BlockingService: Send + Sync + 'static {
    /// As [`BackgroundService::name`](super::BackgroundService::name).
    fn name(&self) -> &str;

    /// As [`BackgroundService::start`](super::BackgroundService::start), on the thread of the service.
    ///
    /// # Errors
    ///
    /// An error is a failed start.
    fn start(&self, cx: &StartContext) -> ServiceResult {
        let _ = cx;
        Ok(())
    }

    /// Does the work. It looks at [`BlockingContext::is_stopping`] between two calls that block, and none of these takes
    /// longer than [`stop_timeout`](super::Service::stop_timeout).
    ///
    /// # Errors
    ///
    /// An error is a failure: the service is [restarted](super::Restart), or given up.
    fn run(&self, cx: BlockingContext) -> ServiceResult;

    /// Releases what `start` has acquired: exactly once for each `start` that returned `Ok`. It runs on the thread of the
    /// service, or on another one beside a `run` that does not return.
    ///
    /// # Errors
    ///
    /// An error is reported, and changes nothing else.
    fn stop(&self, cx: &StopContext) -> ServiceResult {
        let _ = cx;
        Ok(())
    }
}
