//! The job: what a pool queues and runs for a task.
//!
//! | file | contents |
//! |---|---|
//! | `job` | the closure, then its result |
//! | `erased_job` | the operations that the pool and the caller may perform on a job |
//! | `caller_context` | the span, the subscriber, the runtime and the scopes that a job inherits from its caller |
//! | `context` | what a running task can ask about its caller |
//! | `priority` | the order of queued tasks |

mod caller_context;
mod context;
mod erased_job;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod job;
mod priority;

pub(crate) use self::caller_context::CallerContext;
pub use self::context::{Cancelled, TaskContext};
pub(crate) use self::context::{Nesting, TaskOptions, TaskPlace, ThreadTasks};
pub(crate) use self::erased_job::{AwaitableJob, RunnableJob, SharedJob};
pub(crate) use self::job::Job;
pub use self::priority::Priority;
