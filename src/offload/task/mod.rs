//! The caller's side of a task: its options, its handle, its future.
//!
//! | file | contents |
//! |---|---|
//! | `task` | a task before it is submitted, with its options |
//! | `future`, `handle` | a submitted task |
//! | `nested` | a task that is submitted by another task of the same limiter |
//! | `clock_hold` | keeps a paused clock from advancing while a task runs |

mod clock_hold;
mod future;
mod handle;
mod nested;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod task;

pub use self::future::TaskFuture;
pub use self::handle::TaskHandle;
pub use self::task::Task;
