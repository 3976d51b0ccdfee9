//! [`PoolHandler`], a handler that runs on a pool.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::function::HandlerFn;
#[cfg(feature = "rayon")]
use super::pools::cpu_handler_pool;
use super::pools::handler_pool;
use super::settings::{AnyPool, Settings};
#[cfg(feature = "rayon")]
use crate::offload::CpuPool;
use crate::offload::{BlockingPool, OffloadError, Priority, TaskHandle};
use crate::web::Refusal;

/// A handler that runs on a pool, for the routes of axum ([`blocking_handler`](crate::web::axum::blocking_handler),
/// [`cpu_handler`](crate::web::axum::cpu_handler)) and of actix-web
/// ([`blocking_handler`](crate::web::actix::blocking_handler), [`cpu_handler`](crate::web::actix::cpu_handler)).
///
/// It is called like any other, once its extractors have run. What it returns becomes a response on the pool's thread, too:
/// writing JSON computes. A request that the pool does not take is answered as the
/// [table of refusals](crate::web#refusals) says; one whose function panics, with 500.
///
/// A client that leaves while its request waits for a thread: the function never runs. One that leaves while it runs: it
/// runs on, holding its thread, and [`TaskContext::current`](crate::offload::TaskContext::current) tells it so. Which
/// clients are noticed, [this table](crate::web#clients-that-leave) says.
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
///     let cx = TaskContext::current().expect("a handler on a pool is a task of it");
///     for page in 0..10 {
///         cx.checkpoint()?; // its client may have left, and its time may be over
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
///     .queue_timeout(Duration::from_secs(2))
///     .timeout(Duration::from_secs(30));
/// # let _ = handler;
/// # }
/// ```
#[must_use = "a handler answers only on a route"]
pub struct PoolHandler<F, Args, P = BlockingPool> {
    function: Arc<F>,
    settings: Arc<Settings>,
    kind: PhantomData<fn(Args) -> P>,
}

impl<F, Args, P> PoolHandler<F, Args, P> {
    fn new(function: F, pool: AnyPool) -> Self {
        Self { function: Arc::new(function), settings: Arc::new(Settings::new(pool)), kind: PhantomData }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// A name for its requests in statistics and logs, as [`Task::label`](crate::offload::Task::label).
    pub fn label(self, label: impl Into<Cow<'static, str>>) -> Self {
        self.set(|settings| settings.label = Some(label.into()))
    }

    /// Whether its requests go before or after others that wait. Default: [`Priority::Normal`].
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|settings| settings.priority = priority)
    }

    /// How long a request may wait for a thread. Then it is answered with 503, and the function never runs. Default: that
    /// of the pool, which is for ever if it was not told.
    pub fn queue_timeout(self, limit: Duration) -> Self {
        self.set(|settings| settings.queue_timeout = Some(limit))
    }

    /// How long a request may take, from when its extractors have run. Then it is answered: with 503 if the function has not
    /// begun, which then never runs, and otherwise with 504, while the function runs on and its
    /// [context](crate::offload::TaskContext) tells it that nobody waits. Default: for ever.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(|settings| settings.timeout = Some(limit))
    }

    /// Has the function run, and run on uncancelled, though its client leaves, as FastAPI does. As
    /// [`Task::shield`](crate::offload::Task::shield).
    pub fn shield(self) -> Self {
        self.set(|settings| settings.is_shielded = true)
    }

    /// Changes the answer to requests whose function came to no result, for whatever [reason](Refusal::reason): see
    /// [`Refusal`].
    pub fn on_refusal(self, change: impl Fn(Refusal) -> Refusal + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.on_refusal = Some(Arc::new(change)))
    }

    /// Has the pool call the function with these arguments, and `respond` make a response of what it returns.
    pub(crate) fn start<T, R>(&self, args: Args, respond: R) -> Result<TaskHandle<T>, OffloadError>
    where
        F: HandlerFn<Args>,
        Args: Send + 'static,
        R: FnOnce(F::Output) -> T + Send + 'static,
        T: Send + 'static,
    {
        let function = Arc::clone(&self.function);
        self.settings.start(move || respond(function.call(args)))
    }

    /// Whether it goes on undisturbed without its client.
    #[cfg(feature = "axum")]
    pub(crate) fn is_shielded(&self) -> bool {
        self.settings.is_shielded
    }

    /// The answer to a request whose function came to no result.
    pub(crate) fn refuse(&self, error: OffloadError) -> Refusal {
        self.settings.refuse(error)
    }
}

impl<F, Args> PoolHandler<F, Args, BlockingPool> {
    pub(crate) fn blocking(function: F) -> Self {
        Self::new(function, AnyPool::Blocking(handler_pool().clone()))
    }

    /// Runs it on this pool instead of the [default one](super::handler_pool).
    pub fn on(self, pool: &BlockingPool) -> Self {
        self.set(|settings| settings.pool = AnyPool::Blocking(pool.clone()))
    }
}

#[cfg(feature = "rayon")]
impl<F, Args> PoolHandler<F, Args, CpuPool> {
    pub(crate) fn cpu(function: F) -> Self {
        Self::new(function, AnyPool::Cpu(cpu_handler_pool().clone()))
    }

    /// Runs it on this pool instead of the [default one](super::cpu_handler_pool).
    pub fn on(self, pool: &CpuPool) -> Self {
        self.set(|settings| settings.pool = AnyPool::Cpu(pool.clone()))
    }
}

impl<F, Args, P> Clone for PoolHandler<F, Args, P> {
    fn clone(&self) -> Self {
        Self { function: Arc::clone(&self.function), settings: Arc::clone(&self.settings), kind: PhantomData }
    }
}

impl<F, Args, P> fmt::Debug for PoolHandler<F, Args, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolHandler").field("settings", &self.settings).finish_non_exhaustive()
    }
}
