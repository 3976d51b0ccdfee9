//! The caller's side of a task: its options, its handle, its future.
//!
//! | file | contents |
//! |---|---|
//! | `task` | a task before it is submitted, with its options |
//! | `future`, `handle` | a submitted task |
//! | `inline` | a task that runs inside another task of the same pool |

mod future;
mod handle;
mod inline;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod task;

pub use self::future::TaskFuture;
pub use self::handle::TaskHandle;
pub use self::task::Task;
