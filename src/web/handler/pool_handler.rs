//! [`PoolHandler`], a handler that runs on a pool.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::function::{HandlerFn, PoolArguments};
#[cfg(feature = "cpu")]
use super::pools::cpu_handler_pool;
use super::pools::handler_pool;
use super::settings::{AnyPool, HandlerSettings};
use crate::debug::impl_debug;
#[cfg(feature = "cpu")]
use crate::offload::CpuPool;
use crate::offload::{BlockingPool, OffloadError, Priority, TaskHandle};
use crate::web::refusal::RefusalHook;
use crate::web::response_note::ResponseNote;
use crate::web::{Refusal, RequestHead};

/// A handler that runs on a pool, for the routes of axum ([`blocking_handler`](crate::web::axum::blocking_handler),
/// [`cpu_handler`](crate::web::axum::cpu_handler)) and of actix-web
/// ([`blocking_handler`](crate::web::actix::blocking_handler), [`cpu_handler`](crate::web::actix::cpu_handler)).
///
/// The function is called once its extractors have run. Its result also becomes a response on the pool's thread,
/// because serializing JSON takes processor time. A request that the pool refuses gets a response from the [tables of
/// refusals](crate::web#refusals). A request whose function panics gets status 500.
///
/// If the client disconnects while its request waits for a thread, the function never runs. If the client disconnects
/// while the function runs, the function continues and keeps its thread, and
/// [`TaskContext::current`](crate::offload::TaskContext::current) reports it. Servers do not notice
/// [every client that disconnects](crate::web#clients-that-disconnect).
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "axum")]
/// # {
/// use std::time::Duration;
/// use onelane::offload::{BlockingPool, Cancelled, Priority, TaskContext};
/// use onelane::web::axum::blocking_handler;
///
/// fn report() -> Result<String, Cancelled> {
///     let cx = TaskContext::current().expect("a handler on a pool runs in a task");
///     for page in 0..10 {
///         cx.checkpoint()?; // stops if the client has disconnected or the time is over
///         // … write the page …
///     }
///     Ok("the report".to_owned())
/// }
///
/// let reports = BlockingPool::builder("reports").max_running(4).max_queued(32).build();
/// let handler = blocking_handler(report)
///     .on(&reports)
///     .label("report")
///     .priority(Priority::Low)
///     .max_wait(Duration::from_secs(2))
///     .timeout(Duration::from_secs(30));
/// # let _ = handler;
/// # }
/// ```
#[must_use = "a handler does nothing unless it is added to a route"]
pub struct PoolHandler<F, Args, P = BlockingPool> {
    function: Arc<F>,
    settings: Arc<HandlerSettings<AnyPool>>,
    kind: PhantomData<fn(Args) -> P>,
}

impl<F, Args, P> PoolHandler<F, Args, P> {
    fn new(function: F, pool: AnyPool) -> Self {
        Self { function: Arc::new(function), settings: Arc::new(HandlerSettings::new(pool)), kind: PhantomData }
    }

    fn set(mut self, set: impl FnOnce(&mut HandlerSettings<AnyPool>)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Sets the label of the handler's requests in statistics and logs, like
    /// [`Task::label`](crate::offload::Task::label).
    pub fn label(self, label: impl Into<Cow<'static, str>>) -> Self {
        self.set(|settings| settings.label = Some(label.into()))
    }

    /// Sets the priority of the handler's requests among waiting tasks. Default: [`Priority::Normal`].
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|settings| settings.priority = priority)
    }

    /// Limits how long a request may wait for a thread. After that time the request gets status 503, and the function
    /// never runs. A limit of zero refuses every request. Default: the limit of the pool, if it has one.
    pub fn max_wait(self, limit: Duration) -> Self {
        self.set(|settings| settings.max_wait = Some(limit))
    }

    /// Limits how long a request may take once its extractors have run. A limit of zero refuses every request. Default:
    /// no limit.
    ///
    /// If the function has not begun by then, the request gets status 503, and the function never runs. Otherwise the
    /// request gets status 504, while the function continues and its [context](crate::offload::TaskContext) reports
    /// that no caller waits for it.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|settings| settings.timeout = Some(limit))
    }

    /// Runs the function to its end, without cancelling it, even if its client disconnects, as FastAPI does. See
    /// [`Task::shield`](crate::offload::Task::shield).
    pub fn shield(self) -> Self {
        self.set(|settings| settings.is_shielded = true)
    }

    /// Changes the response to requests whose function produced no result, for any [reason](Refusal::reason): see
    /// [`Refusal`].
    pub fn on_refusal(self, change: impl Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_refusal = RefusalHook::new(change))
    }

    /// Starts a task on the pool that calls the function with `args` and `respond` with the function's result.
    pub(crate) fn start<T, R>(
        &self,
        args: Args,
        respond: R,
        status_of: fn(&T) -> u16,
    ) -> Result<TaskHandle<T>, OffloadError>
    where
        F: HandlerFn<Args>,
        Args: PoolArguments,
        R: FnOnce(F::Output) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (function, note) = (Arc::clone(&self.function), ResponseNote::of_arguments(&args));
        self.settings.start(move || {
            let response = respond(function.call(args));
            // The client may have disconnected, and the server does not see the response then.
            note.record(status_of(&response));
            response
        })
    }

    /// Returns `true` if the function is not to be cancelled when its client disconnects.
    #[cfg(feature = "axum")]
    pub(crate) fn is_shielded(&self) -> bool {
        self.settings.is_shielded
    }

    /// Returns the user's function that changes refusals.
    pub(crate) fn on_refusal_hook(&self) -> &RefusalHook {
        &self.settings.on_refusal
    }
}

impl<F, Args> PoolHandler<F, Args, BlockingPool> {
    pub(crate) fn blocking(function: F) -> Self {
        Self::new(function, AnyPool::Blocking(handler_pool().clone()))
    }

    /// Runs the function on this pool instead of the [default pool](super::handler_pool).
    pub fn on(self, pool: &BlockingPool) -> Self {
        self.set(|settings| settings.pool = AnyPool::Blocking(pool.clone()))
    }
}

#[cfg(feature = "cpu")]
impl<F, Args> PoolHandler<F, Args, CpuPool> {
    pub(crate) fn cpu(function: F) -> Self {
        Self::new(function, AnyPool::Cpu(cpu_handler_pool().clone()))
    }

    /// Runs the function on this pool instead of the [default pool](super::cpu_handler_pool).
    pub fn on(self, pool: &CpuPool) -> Self {
        self.set(|settings| settings.pool = AnyPool::Cpu(pool.clone()))
    }
}

impl<F, Args, P> Clone for PoolHandler<F, Args, P> {
    fn clone(&self) -> Self {
        Self { function: Arc::clone(&self.function), settings: Arc::clone(&self.settings), kind: PhantomData }
    }
}

impl_debug!([F, Args, P] PoolHandler<F, Args, P> |this| { settings: this.settings, .. });
