//! [`ProcessTask`], a call of a function with its options, for a process pool.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt::Display;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{self, Message};
use super::conversion::{Conversion, Unconverted};
use super::error::ProcessError;
use super::function::Function;
use super::future::{ProcessFuture, ProcessHandle};
use super::platform::{Call, KillSwitch};
use super::pool::ProcessPool;
use crate::debug::impl_debug;
use crate::offload::job::{CallerContext, Priority, TaskContext};
use crate::offload::task::Task;

/// A task for a [`ProcessPool`] that is not submitted yet. Awaiting the task submits it and waits for the result;
/// [`start`](Self::start) only submits it.
///
/// # Examples
///
/// ```
/// use onelane::{ProcessError, ProcessPool};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool = ProcessPool::new("loops");
/// let forever = |()| loop {
///     std::hint::spin_loop();
/// };
/// let error = pool.task::<(), ()>(forever, ()).label("loop").timeout(Duration::from_millis(50)).await.unwrap_err();
/// assert!(matches!(error, ProcessError::Timeout(_)), "{error}");
/// # }
/// ```
#[must_use = "a task does nothing unless it is awaited or started"]
pub struct ProcessTask<A, R> {
    pool: ProcessPool,
    function: fn(A) -> R,
    arguments: A,
    caller: CallerContext,
    label: Option<Cow<'static, str>>,
    priority: Priority,
    max_wait: Option<Duration>,
    timeout: Option<Duration>,
    cpu_limit: Option<Duration>,
    is_shielded: bool,
}

impl<A, R> ProcessTask<A, R> {
    pub(super) fn new(pool: &ProcessPool, function: fn(A) -> R, arguments: A) -> Self {
        Self::with_caller(pool, function, arguments, CallerContext::capture())
    }

    /// Creates a task that runs in a context that was captured earlier.
    pub(crate) fn with_caller(pool: &ProcessPool, function: fn(A) -> R, arguments: A, caller: CallerContext) -> Self {
        Self {
            function,
            arguments,
            caller,
            label: None,
            priority: Priority::Normal,
            max_wait: None,
            timeout: pool.settings().timeout,
            cpu_limit: pool.settings().cpu_limit,
            is_shielded: false,
            pool: pool.clone(),
        }
    }

    /// Sets a name for the task in [statistics](crate::offload::PoolStats::tasks) and errors. In the worker, the
    /// [`TaskContext`](TaskContext::label) returns it.
    pub fn label(mut self, label: impl Into<Cow<'static, str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the order relative to other queued tasks. Default: [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Limits how long the task waits for a worker. After that time the task fails with
    /// [`NotStarted`](ProcessError::NotStarted). Needs a runtime whose timers are enabled. Default: the limit of the
    /// pool.
    pub fn max_wait(mut self, limit: Duration) -> Self {
        self.max_wait = Some(limit);
        self
    }

    /// Limits how long the task takes, including its time in the queue. A task that has not started by then fails with
    /// [`NotStarted`](ProcessError::NotStarted). If the task is running, its worker is killed with all processes that
    /// the worker has started, and the task fails with [`Timeout`](ProcessError::Timeout) once the worker has ended.
    ///
    /// With a [`kill_grace`](super::ProcessPoolBuilder::kill_grace), the worker is killed that much later, and a task
    /// that returns in the meantime yields its result. Needs a runtime whose timers are enabled. Default: the limit of
    /// the pool.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Limits the processor time of the task: the sum over all threads of its worker, without the processes that the
    /// worker has started. A task that waits uses none. If the task exceeds the limit, its worker is killed with all
    /// processes that the worker has started, and the task fails with [`CpuLimit`](ProcessError::CpuLimit). The limit
    /// is exact to some milliseconds. Default: the limit of the pool.
    pub fn cpu_limit(mut self, limit: Duration) -> Self {
        self.cpu_limit = Some(limit);
        self
    }

    /// Lets the task run to its end without its caller. Once the task is submitted, dropping the future or the handle
    /// neither removes the task from the queue nor kills its worker.
    pub fn shield(mut self) -> Self {
        self.is_shielded = true;
        self
    }
}

impl<A, R> ProcessTask<A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    /// Submits the task immediately, without waiting for the result.
    ///
    /// # Errors
    ///
    /// Returns [`NotStarted`](ProcessError::NotStarted) if the pool is full or closed, or if the task has a time limit
    /// and there is no runtime for its timer.
    pub fn start(self) -> Result<ProcessHandle<R>, ProcessError> {
        self.start_converted::<Unconverted>()
    }
}

impl<A, R> ProcessTask<A, R> {
    /// Submits the task. `C` converts its arguments and its result for sending.
    pub(crate) fn start_converted<C: Conversion<A, R>>(self) -> Result<ProcessHandle<C::Result>, ProcessError> {
        let Self { pool, function, arguments, caller, label, priority, max_wait, timeout, cpu_limit, is_shielded } =
            self;
        let switch = Arc::new(KillSwitch::default());
        let deadline = timeout.and_then(|limit| Instant::now().checked_add(limit));
        let work = {
            let (workers, switch) = (Arc::clone(pool.workers()), Arc::clone(&switch));
            let (function, arguments) = (Function::new::<A, R, C>(function), C::send_arguments(arguments));
            move |cx: &TaskContext| {
                let call = Call { function, label: cx.label().unwrap_or_default(), deadline, cpu_limit };
                let encode = |message: &mut Message| {
                    let encoded = codec::encode_message(&arguments, message);
                    encoded.map_err(|error| failure("encoding the arguments", type_name::<C::Arguments>(), &error))
                };
                let decode = |body: &[u8], attachments| {
                    let decoded = codec::decode_message(body, attachments);
                    decoded.map_err(|error| failure("decoding the result", type_name::<C::Result>(), &error))
                };
                workers.run(&call, encode, decode, &switch)
            }
        };
        let mut task = Task::with_caller(pool.threads().parts(), work, caller).priority(priority);
        let max_wait = max_wait.or(task.max_wait);
        let is_timeout_first = timeout.is_some_and(|timeout| max_wait.is_none_or(|max_wait| timeout < max_wait));
        if let Some(limit) = max_wait.into_iter().chain(timeout).min() {
            task = task.max_wait(limit);
        }
        if let Some(label) = label {
            task = task.label(label);
        }
        if is_shielded {
            task = task.shield();
        }
        let handle = task.start().map_err(ProcessError::NotStarted)?;
        Ok(ProcessHandle::new(handle, switch, is_shielded, is_timeout_first))
    }
}

impl<A, R> IntoFuture for ProcessTask<A, R>
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    type Output = Result<R, ProcessError>;
    type IntoFuture = ProcessFuture<A, R>;

    fn into_future(self) -> ProcessFuture<A, R> {
        ProcessFuture::new(self)
    }
}

/// Returns the text of a conversion that has failed.
fn failure(step: &str, value: &str, error: &dyn Display) -> String {
    format!("{step} `{value}` failed: {error}")
}

impl_debug!([A, R] ProcessTask<A, R> |this| {
    pool: this.pool.name(), label: this.label, priority: this.priority, timeout: this.timeout, ..
});
