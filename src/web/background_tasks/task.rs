//! [`BackgroundTask`], one task and its options.

use std::borrow::Cow;
use std::fmt::Display;
use std::pin::Pin;
use std::time::Duration;

use crate::caller_trace::CallerTrace;
use crate::debug::impl_debug;

/// The responses after which a task runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunOn {
    /// The task runs after any response, even if the client has disconnected in the meantime. It also runs after a
    /// handler that continues without its client: behind a guard or a flight layer, or on a pool if the handler takes
    /// [`BackgroundTasks`](super::BackgroundTasks) as an argument.
    #[default]
    Response,
    /// The task runs after a response with a status below 400.
    Success,
    /// The task runs even if the handler panicked, or was dropped because its client disconnected.
    Always,
}

/// What a task may return: nothing, or a `Result` whose error is logged.
pub trait TaskOutput {
    /// Returns the text of the error, if the task failed.
    fn into_error(self) -> Option<String>;
}

impl TaskOutput for () {
    fn into_error(self) -> Option<String> {
        None
    }
}

impl<T, E: Display> TaskOutput for Result<T, E> {
    fn into_error(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// Work that runs after the response to a request.
///
/// A task is a future or a closure that owns everything that it needs: the request is gone by the time it runs. It runs
/// in the `tracing` span of the code that creates it.
#[must_use = "a task does nothing unless it is added to the `BackgroundTasks` of a request"]
pub struct BackgroundTask {
    pub(super) name: Cow<'static, str>,
    pub(super) work: Work,
    pub(super) run_on: RunOn,
    pub(super) timeout: Option<Duration>,
    pub(super) trace: CallerTrace,
}

pub(super) enum Work {
    Async(Pin<Box<dyn Future<Output = Option<String>> + Send>>),
    #[cfg(feature = "offload")]
    Blocking(Box<dyn FnOnce() -> Option<String> + Send>),
}

impl BackgroundTask {
    /// Creates a task from a future. Logs, reports and [`detached::running`](crate::detached::running) show the name.
    ///
    /// If the task blocks its worker, the report of a [`Watch`](crate::watch::Watch) has the name as its label. A name
    /// that is a `String` may come from a request, so its report has the label `background task` instead.
    pub fn new<F>(name: impl Into<Cow<'static, str>>, future: F) -> Self
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        Self::with(name.into(), Work::Async(Box::pin(async move { future.await.into_error() })))
    }

    /// Creates a task from a closure that blocks. It runs on a thread of [`run_blocking`](crate::run_blocking).
    #[cfg(feature = "offload")]
    pub fn blocking<F, T>(name: impl Into<Cow<'static, str>>, work: F) -> Self
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskOutput,
    {
        Self::with(name.into(), Work::Blocking(Box::new(|| work().into_error())))
    }

    fn with(name: Cow<'static, str>, work: Work) -> Self {
        Self { name, work, run_on: RunOn::default(), timeout: None, trace: CallerTrace::capture() }
    }

    /// Sets after which responses the task runs. The default is [`RunOn::Response`].
    pub const fn run_on(mut self, run_on: RunOn) -> Self {
        self.run_on = run_on;
        self
    }

    /// Limits how long the task runs. When the time is up, the task's future is dropped. A closure that blocks
    /// continues unless it [checks](crate::offload::TaskContext::current) whether it is cancelled: the next task does
    /// not wait for the closure, but the host does, under the name of the pool.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl_debug!(BackgroundTask |this| { name: this.name, run_on: this.run_on, timeout: this.timeout, .. });
