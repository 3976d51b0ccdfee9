//! A task on its way from its caller to a thread and back.
//!
//! | file | what it is |
//! |---|---|
//! | `task` | the task before it is handed over, with what is said of it |
//! | `future`, `handle` | the caller's side of it |
//! | `inline` | a task within a task of the same pool |
//! | `job` | the task itself: the closure, then its result, and who has the say over it |
//! | `around` | the span and the runtime that go with it |
//! | `context` | what it knows of its caller while it runs |
//! | `priority` | whether it goes before others |

mod caller_context;
mod context;
#[cfg(not(loom))]
mod future;
#[cfg(not(loom))]
mod handle;
#[cfg(not(loom))]
mod inline;
mod job;
mod priority;
#[cfg(not(loom))]
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod task;

#[cfg(all(test, loom))]
pub(crate) use self::caller_context::CallerContext;
#[cfg(all(test, loom))]
pub(crate) use self::context::Terms;
pub use self::context::{Cancelled, TaskContext};
#[cfg(not(loom))]
pub use self::future::TaskFuture;
#[cfg(not(loom))]
pub use self::handle::TaskHandle;
#[cfg(all(test, loom))]
pub(crate) use self::job::{Job, Outcome};
pub(crate) use self::job::{Work, wake};
pub use self::priority::Priority;
#[cfg(not(loom))]
pub use self::task::Task;
