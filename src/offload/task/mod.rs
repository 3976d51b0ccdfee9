//! A task on its way from its caller to a thread and back.
//!
//! | file | what it holds |
//! |---|---|
//! | `task` | a task before it is submitted, with its options |
//! | `future`, `handle` | the caller's side of a task |
//! | `inline` | a task inside a task of the same pool |
//! | `erased_job` | what the pool and the caller may do with a job |
//! | `job` | the job itself: the closure, then its result |
//! | `caller_context` | the span and the runtime that a task takes from its caller |
//! | `context` | what a running task can ask about its caller |
//! | `priority` | the order of queued tasks |

mod caller_context;
mod context;
mod erased_job;
mod future;
mod handle;
mod inline;
mod job;
mod priority;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod task;

#[cfg(all(test, loom))]
pub(crate) use self::caller_context::CallerContext;
#[cfg(all(test, loom))]
pub(crate) use self::context::TaskOptions;
pub use self::context::{Cancelled, TaskContext};
#[cfg(all(test, loom))]
pub(crate) use self::erased_job::{AwaitableJob, RunnableJob};
pub(crate) use self::erased_job::{SharedJob, wake};
pub use self::future::TaskFuture;
pub use self::handle::TaskHandle;
#[cfg(all(test, loom))]
pub(crate) use self::job::Job;
pub use self::priority::Priority;
pub use self::task::Task;
