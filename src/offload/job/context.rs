//! [`TaskContext`], which lets a running task ask about its caller.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use thiserror::Error;
use tokio::runtime::Id;
use tokio::time::Instant;

use super::erased_job::SharedJob;
use crate::debug::impl_debug;
use crate::panic::discard;

thread_local! {
    /// The tasks that run on this thread, each inline in the one before it. The last one is the current one.
    static CURRENT: RefCell<Vec<TaskContext>> = const { RefCell::new(Vec::new()) };
    /// The task whose token this thread keeps after the task has ended.
    static HELD: Cell<Option<TaskPlace>> = const { Cell::new(None) };
}

/// Lets a running task ask if its caller is still waiting, and until when the caller waits.
///
/// A thread can't be stopped from outside. So a task that takes a long time checks its context from time to time, and
/// returns early when its result is no longer wanted.
///
/// # Examples
///
/// ```
/// use onelane::offload::{BlockingPool, Cancelled, TaskContext};
///
/// fn sum(numbers: &[u64], cx: &TaskContext) -> Result<u64, Cancelled> {
///     let mut sum = 0;
///     for chunk in numbers.chunks(1_000) {
///         cx.checkpoint()?;
///         sum += chunk.iter().sum::<u64>();
///     }
///     Ok(sum)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = BlockingPool::new("sums");
/// let numbers: Vec<u64> = (0..10_000).collect();
/// assert_eq!(pool.task(move |cx| sum(&numbers, cx)).await??, 49_995_000);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TaskContext(pub(super) SharedJob);

/// The error of [`TaskContext::checkpoint`]: the result of the task is no longer wanted. The task returns the error
/// with `?`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Error)]
#[error("the task is cancelled: its result is no longer wanted, so return early")]
#[non_exhaustive]
pub struct Cancelled;

/// Where a task comes from: what it could share with a task that it waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TaskPlace {
    pub(crate) pool_id: usize,
    /// Identifies the limiter whose token the task holds while it runs.
    pub(crate) limiter_id: usize,
    /// The runtime of the task's caller, if there is one.
    pub(crate) runtime: Option<Id>,
}

/// How a new task relates to the tasks that run on the thread that submits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nesting {
    /// None of these tasks holds a token that the new one needs.
    Outside,
    /// One of these tasks holds a token of the same limiter, and one of them may occupy a thread of the same runtime.
    /// If it waited for the new task, the new task could wait for it.
    SameRuntime,
    /// One of these tasks holds a token of the same limiter, and has built or entered another runtime. The new task
    /// could wait for the token, but not for a thread that one of these tasks occupies.
    OtherRuntime,
}

/// The options that the caller has set for one task.
#[derive(Debug, Default)]
pub(crate) struct TaskOptions {
    pub(crate) label: Option<Cow<'static, str>>,
    pub(crate) deadline: Option<Instant>,
    /// By when the task must have started.
    pub(crate) start_by: Option<Instant>,
    /// When the task was submitted. Set for a task with a time limit, or if the events of tasks are enabled.
    pub(crate) submitted_at: Option<Instant>,
    /// The task continues after its caller has dropped it.
    pub(crate) is_shielded: bool,
    /// A full queue does not refuse the task, since the task continues work that was admitted before.
    pub(crate) ignores_queue_bound: bool,
}

impl TaskContext {
    /// Returns the context of the task that runs on this thread. Use it in code deep inside a task, or in a
    /// [`blocking_handler`](crate::web), whose closure receives only the arguments of the request.
    ///
    /// Other threads have no context, whatever started them: `None` in a part of a `par_iter`, which is code of a
    /// thread of rayon. A part takes the context from the closure of its task.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|running| running.borrow().last().cloned()).ok().flatten()
    }

    /// Returns `true` if the result is no longer wanted: the caller has dropped the task and it is not
    /// [shielded](crate::offload::Task::shield), its deadline has passed, or it was cancelled through its handle.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.flags().is_cancelled() || self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns an error if the task [is cancelled](Self::is_cancelled), so that the task can return early with `?`.
    ///
    /// The check takes one load from memory, and reads the clock if the task has a deadline.
    ///
    /// # Errors
    ///
    /// Returns [`Cancelled`] if the task is cancelled.
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Returns the time at which the caller stops waiting, if the caller has set a time limit.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.options().deadline
    }

    /// Returns the [label](crate::offload::Task::label) of the task.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.options().label.as_deref()
    }

    /// Makes this the current context of the thread while `work` runs.
    pub(super) fn enter<T>(self, work: impl FnOnce() -> T) -> T {
        struct PopOnDrop;
        impl Drop for PopOnDrop {
            fn drop(&mut self) {
                let popped = CURRENT.try_with(|running| running.borrow_mut().pop());
                drop(popped);
            }
        }

        let _pop = CURRENT.try_with(|running| running.borrow_mut().push(self)).ok().map(|()| PopOnDrop);
        work()
    }

    /// Returns `true` if the current thread holds a token of this limiter: it runs a task, or user code between two
    /// tasks.
    pub(crate) fn holds_token_of(limiter_id: usize) -> bool {
        Self::any_held(|held| held.limiter_id == limiter_id)
    }

    /// Returns `true` if a task of this pool runs on the current thread, or user code between two of them.
    pub(crate) fn is_inside_pool(pool_id: usize) -> bool {
        Self::any_held(|held| held.pool_id == pool_id)
    }

    /// Returns how a task relates to the tasks that run on the current thread.
    pub(crate) fn nesting(of: TaskPlace) -> Nesting {
        if !Self::holds_token_of(of.limiter_id) {
            Nesting::Outside
        } else if Self::any_held(|held| held.runtime == of.runtime) {
            Nesting::SameRuntime
        } else {
            Nesting::OtherRuntime
        }
    }

    fn any_held(is_searched: impl Fn(TaskPlace) -> bool) -> bool {
        let any_running = |running: &RefCell<Vec<Self>>| running.borrow().iter().any(|cx| is_searched(cx.0.place()));
        CURRENT.try_with(any_running).unwrap_or(false)
            || HELD.try_with(Cell::get).ok().flatten().is_some_and(&is_searched)
    }

    /// Runs user code around a task, on a thread that keeps the token of the task.
    pub(crate) fn hold_token(place: TaskPlace, run: impl FnOnce()) {
        let before = HELD.try_with(|held| held.replace(Some(place))).ok().flatten();
        run();
        let _ = HELD.try_with(|held| held.set(before));
    }
}

/// The tasks that run on a thread, for another thread that works for them.
pub(crate) struct ThreadTasks {
    running: Vec<TaskContext>,
    held: Option<TaskPlace>,
}

impl ThreadTasks {
    /// Returns the tasks of the current thread.
    pub(crate) fn current() -> Self {
        let running = CURRENT.try_with(|running| running.borrow().clone()).unwrap_or_default();
        Self { running, held: HELD.try_with(Cell::get).ok().flatten() }
    }

    /// Runs code for these tasks on a new thread, as if it ran on their thread.
    pub(crate) fn enter(self, run: impl FnOnce()) {
        CURRENT.set(self.running);
        HELD.set(self.held);
        run();
        CURRENT.take().into_iter().for_each(discard);
    }
}

impl_debug!(TaskContext |this| { label: this.label(), cancelled: this.is_cancelled(), .. });
