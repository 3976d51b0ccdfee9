//! [`HandlerSettings`]: where and how the requests of one handler run.

use std::borrow::Cow;
use std::time::Duration;

use crate::debug::impl_debug;
#[cfg(feature = "cpu")]
use crate::offload::CpuPool;
#[cfg(feature = "process")]
use crate::offload::process::{Conversion, ProcessError, ProcessHandle, ProcessPool};
use crate::offload::{BlockingPool, OffloadError, Priority, Task, TaskContext, TaskHandle};
use crate::web::refusal::RefusalHook;

#[derive(Clone)]
pub(super) struct HandlerSettings<P> {
    pub(super) pool: P,
    pub(super) label: Option<Cow<'static, str>>,
    pub(super) priority: Priority,
    pub(super) max_wait: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) is_shielded: bool,
    pub(super) on_refusal: RefusalHook,
}

/// A pool of threads.
#[derive(Clone, Debug)]
pub(super) enum AnyPool {
    Blocking(BlockingPool),
    #[cfg(feature = "cpu")]
    Cpu(CpuPool),
}

impl<P> HandlerSettings<P> {
    pub(super) fn new(pool: P) -> Self {
        Self {
            pool,
            label: None,
            priority: Priority::Normal,
            max_wait: None,
            timeout: None,
            is_shielded: false,
            on_refusal: RefusalHook::default(),
        }
    }
}

impl HandlerSettings<AnyPool> {
    /// Starts the work of one request on the pool.
    pub(super) fn start<W, T>(&self, work: W) -> Result<TaskHandle<T>, OffloadError>
    where
        W: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let work = |_: &TaskContext| work();
        let mut task: Task<_> = match &self.pool {
            AnyPool::Blocking(pool) => pool.task(work),
            #[cfg(feature = "cpu")]
            AnyPool::Cpu(pool) => pool.task(work),
        };
        task = task.priority(self.priority);
        if let Some(label) = &self.label {
            task = task.label(label.clone());
        }
        if let Some(limit) = self.max_wait {
            task = task.max_wait(limit);
        }
        if let Some(limit) = self.timeout {
            task = task.timeout(limit);
        }
        if self.is_shielded {
            task = task.shield();
        }
        task.start()
    }
}

#[cfg(feature = "process")]
impl HandlerSettings<ProcessPool> {
    /// Starts a task that calls `function` for one request in a worker of the pool.
    pub(super) fn start<A, R, C: Conversion<A, R>>(
        &self,
        function: fn(A) -> R,
        argument: A,
    ) -> Result<ProcessHandle<C::Result>, ProcessError> {
        let mut task = self.pool.task(function, argument).priority(self.priority);
        if let Some(label) = &self.label {
            task = task.label(label.clone());
        }
        if let Some(limit) = self.max_wait {
            task = task.max_wait(limit);
        }
        if let Some(limit) = self.timeout {
            task = task.timeout(limit);
        }
        if self.is_shielded {
            task = task.shield();
        }
        task.start_converted::<C>()
    }
}

impl_debug!([P: std::fmt::Debug] HandlerSettings<P> |this| {
    pool: this.pool, label: this.label, priority: this.priority, max_wait: this.max_wait,
    timeout: this.timeout, shielded: this.is_shielded, ..
});
