//! The threads that run tasks, and the queue in front of them.
//!
//! | file | what it is |
//! |---|---|
//! | `pool` | what stands behind the handles of a pool: its rules, and its crews |
//! | `runtimes` | a crew for each tokio runtime from which a pool is used |
//! | `crew` | the tasks that wait, the workers that are idle, and who is called when |
//! | `next` | what a worker does next |
//! | `state` | what it decides on |
//! | `rules` | what it works by, and where its threads come from |
//! | `worker` | what a thread does |
//! | `queue` | the tasks in the order in which they begin |
//! | `parker` | where an idle worker waits |

mod config;
#[cfg(all(test, loom))]
mod loom_tests;
mod parker;
#[cfg(not(loom))]
mod pool;
mod queue;
#[cfg(not(loom))]
mod runtimes;
mod scheduling;
mod state;
mod worker;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod workers;

#[cfg(feature = "rayon")]
pub(crate) use self::config::Threads;
pub(crate) use self::config::{KeepAlive, WorkersConfig};
#[cfg(not(loom))]
pub(crate) use self::pool::{Pool, Source};
pub(crate) use self::queue::Place;
#[cfg(not(loom))]
pub(crate) use self::runtimes::Runtimes;
#[cfg(feature = "rayon")]
pub(crate) use self::worker::Worker;
pub(crate) use self::workers::Workers;
