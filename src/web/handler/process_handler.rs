//! [`ProcessHandler`], a handler that runs in a worker process.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::settings::HandlerSettings;
use crate::debug::impl_debug;
use crate::offload::Priority;
use crate::offload::process::{Conversion, ProcessError, ProcessHandle, ProcessPool};
use crate::web::refusal::RefusalHook;
use crate::web::{Refusal, RequestHead};

/// A handler that runs in a worker process, for the routes of axum
/// ([`process_handler`](crate::web::axum::process_handler)) and of actix-web
/// ([`process_handler`](crate::web::actix::process_handler)).
///
/// The extractors run in the server. Their values are sent to a worker of the [`ProcessPool`], which calls the function
/// and converts the result to a response. The response is sent back. If the function crashes, loops past the
/// [`timeout`](Self::timeout), or exceeds the
/// [`memory_limit`](crate::offload::process::ProcessPoolBuilder::memory_limit) of the pool, one request gets status 500
/// or 504, and the server continues. The [tables of refusals](crate::web#refusals) list all responses. See
/// [`offload::process`](crate::offload::process) for what a function may do in a worker.
///
/// If a client disconnects while its request waits for a worker, the function never runs. If the client disconnects
/// while the function runs, the worker is killed, and the next request gets a new worker. Neither holds for a handler
/// that is [shielded](Self::shield). Servers don't notice [every client that
/// disconnects](crate::web#clients-that-disconnect).
///
/// The function is not `async`, and has one argument: several extractors are one tuple, and no extractor is `()`. The
/// argument implements both `Serialize` and `Deserialize`, or is `Bytes`, which are sent without a copy.
///
/// # Examples
///
/// ```
/// # #[cfg(all(feature = "axum", target_os = "linux"))]
/// # {
/// use std::sync::LazyLock;
/// use std::time::Duration;
/// use axum::body::Bytes;
/// use axum::extract::Path;
/// use axum::{Json, Router, routing::post};
/// use onelane::ProcessPool;
/// use onelane::web::axum::process_handler;
///
/// static THUMBNAILS: LazyLock<ProcessPool> = LazyLock::new(|| {
///     let pool = ProcessPool::builder("thumbnails").workers(2).max_queued(64);
///     pool.timeout(Duration::from_secs(10)).memory_limit(1 << 30).build()
/// });
///
/// fn thumbnail((Path(width), picture): (Path<u32>, Bytes)) -> Json<usize> {
///     // … a C library that some pictures crash …
///     Json(picture.len() * width as usize)
/// }
///
/// let handler = process_handler(&THUMBNAILS, thumbnail).label("thumbnail").max_wait(Duration::from_secs(2));
/// let app: Router = Router::new().route("/thumbnails/{width}", post(handler));
/// # }
/// ```
#[must_use = "a handler does nothing unless it is added to a route"]
pub struct ProcessHandler<A, R> {
    function: fn(A) -> R,
    settings: Arc<HandlerSettings<ProcessPool>>,
}

impl<A, R> ProcessHandler<A, R> {
    pub(crate) fn new(pool: &ProcessPool, function: fn(A) -> R) -> Self {
        Self { function, settings: Arc::new(HandlerSettings::new(pool.clone())) }
    }

    fn set(mut self, set: impl FnOnce(&mut HandlerSettings<ProcessPool>)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Sets the label of the handler's requests in statistics and logs, like
    /// [`ProcessTask::label`](crate::offload::process::ProcessTask::label).
    pub fn label(self, label: impl Into<Cow<'static, str>>) -> Self {
        self.set(|settings| settings.label = Some(label.into()))
    }

    /// Sets the priority of the handler's requests among waiting tasks. Default: [`Priority::Normal`].
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|settings| settings.priority = priority)
    }

    /// Limits how long a request may wait for a worker. After that time the request gets status 503, and the function
    /// never runs. A limit of zero refuses every request. Default: the limit of the pool, if it has one.
    pub fn max_wait(self, limit: Duration) -> Self {
        self.set(|settings| settings.max_wait = Some(limit))
    }

    /// Limits how long a request may take after its extractors have run. A limit of zero refuses every request.
    /// Default: the limit of the pool, if it has one.
    ///
    /// If the function has not begun by then, the request gets status 503, and the function never runs. Otherwise its
    /// worker is killed, and the request gets status 504.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|settings| settings.timeout = Some(limit))
    }

    /// Runs the function to its end even if its client disconnects. See
    /// [`ProcessTask::shield`](crate::offload::process::ProcessTask::shield).
    pub fn shield(self) -> Self {
        self.set(|settings| settings.is_shielded = true)
    }

    /// Changes the response to requests whose function produced no result, for any [reason](Refusal::reason): see
    /// [`Refusal`]. The reason contains the [`ProcessError`], and with it the end of what the worker wrote.
    pub fn on_refusal(self, change: impl Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_refusal = RefusalHook::new(change))
    }

    /// Starts a task that calls the function with `argument`.
    pub(crate) fn start<C: Conversion<A, R>>(&self, argument: A) -> Result<ProcessHandle<C::Result>, ProcessError> {
        self.settings.start::<A, R, C>(self.function, argument)
    }

    /// Returns `true` if the function continues without its client.
    #[cfg(feature = "axum")]
    pub(crate) fn is_shielded(&self) -> bool {
        self.settings.is_shielded
    }

    /// Returns the user's function that changes refusals.
    pub(crate) fn on_refusal_hook(&self) -> &RefusalHook {
        &self.settings.on_refusal
    }
}

impl<A, R> Clone for ProcessHandler<A, R> {
    fn clone(&self) -> Self {
        Self { function: self.function, settings: Arc::clone(&self.settings) }
    }
}

impl_debug!([A, R] ProcessHandler<A, R> |this| { settings: this.settings, .. });
