//! [`BackgroundTasks`], the work of a request that runs after its response.
//!
//! | file | contents |
//! |---|---|
//! | `task` | one task and its options |
//! | `tasks` | the tasks of one request, as its handler adds them |
//! | `config` | the limits of a server |
//! | `queue` | the tasks of a server: which run, which wait, which are refused |
//! | `runner` | the execution of the tasks of one response, in order |
//! | `trace` | the events |

mod config;
mod queue;
mod runner;
mod task;
mod tasks;
mod trace;

pub use self::config::{BackgroundTasksConfig, TaskStart, WhenFull};
pub(crate) use self::queue::{TaskList, TaskQueue};
pub use self::task::{BackgroundTask, RunOn, TaskOutput};
pub(crate) use self::tasks::OpenTasks;
pub use self::tasks::{BackgroundTasks, BackgroundTasksFull};
