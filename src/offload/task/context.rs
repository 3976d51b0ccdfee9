//! [`TaskContext`], what a task that runs knows of its caller.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use tokio::time::Instant;

use super::job::Work;

thread_local! {
    /// The tasks that run on this thread: inline, one in the other. The last one is the current one.
    static RUNNING: RefCell<Vec<TaskContext>> = const { RefCell::new(Vec::new()) };
}

/// What a task that runs knows of its caller: whether it still waits, and how long it will.
///
/// A thread can't be stopped from outside. So a task that takes long looks here from time to time, and returns early when
/// nobody waits for it any more.
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
pub struct TaskContext(pub(super) Arc<dyn Work>);

/// Nobody waits for the task any more. Return it with `?` from [`TaskContext::checkpoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Error)]
#[error("the task is cancelled: nobody waits for its result any more")]
#[non_exhaustive]
pub struct Cancelled;

/// What is said of a task.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    pub(crate) label: Option<Cow<'static, str>>,
    pub(crate) deadline: Option<Instant>,
    /// Since when it waits, and until when it does.
    pub(crate) begins_by: Option<(Instant, Instant)>,
    /// Whether it goes on without its caller.
    pub(crate) is_shielded: bool,
    /// Whether it goes on with what was let in before. A full queue does not refuse it.
    pub(crate) is_admitted: bool,
}

impl TaskContext {
    /// That of the task that runs on this thread, if one does: for code deep inside of it, or for
    /// [`blocking_handler`](crate::web), whose closure is given the arguments of the request alone.
    #[must_use]
    pub fn current() -> Option<Self> {
        RUNNING.try_with(|running| running.borrow().last().cloned()).ok().flatten()
    }

    /// Whether nobody waits for the result any more: the caller has left and the task is not
    /// [shielded](super::Task::shield), its time is over, or it was cancelled through its handle.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.flags().is_cancelled() || self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns early, with `?`, if the task [is cancelled](Self::is_cancelled).
    ///
    /// Without a deadline it takes one load from memory, with one a look at the clock.
    ///
    /// # Errors
    ///
    /// [`Cancelled`] if it is.
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// When the caller stops to wait, if it said so.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.terms().deadline
    }

    /// The [label](super::Task::label) of the task.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.terms().label.as_deref()
    }

    /// Makes it the current one of this thread while `work` runs.
    pub(super) fn enter<T>(self, work: impl FnOnce() -> T) -> T {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                let left = RUNNING.try_with(|running| running.borrow_mut().pop());
                drop(left);
            }
        }

        let _leave = RUNNING.try_with(|running| running.borrow_mut().push(self)).ok().map(|()| Leave);
        work()
    }

    /// Whether a task that holds a token of that limiter runs on this thread.
    pub(crate) fn is_inside(limiter: usize) -> bool {
        let inside = |running: &RefCell<Vec<Self>>| running.borrow().iter().any(|cx| cx.0.limiter() == limiter);
        RUNNING.try_with(inside).unwrap_or(false)
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("label", &self.label())
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
