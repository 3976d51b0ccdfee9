//! The threads that run tasks, and the queue in front of them.
//!
//! | file | contents |
//! |---|---|
//! | `pool` | what the handles of a pool share: its configuration and its workers |
//! | `runtimes`, `registry` | the workers of each tokio runtime from which a pool is used |
//! | `workers` | submitting, removing and refusing tasks, and starting workers |
//! | `nested_tasks` | tasks whose callers hold a token already |
//! | `nested_queue` | those of them that run beside the thread of their callers |
//! | `tokens` | the limiter's tokens: acquiring them, waiting for them, releasing them |
//! | `scheduling` | what a worker does next |
//! | `state` | the state that all of these decisions are based on |
//! | `config` | the configuration of a pool, and whether it is closed |
//! | `threads` | where threads come from |
//! | `thread_request` | a worker that waits for a thread of tokio |
//! | `watch` | checks of workers that wait for a thread |
//! | `cpu_threads` | the threads of a CPU pool |
//! | `worker` | what a thread does |
//! | `queue` | the queued tasks, in the order in which they start |
//! | `parker` | where an idle worker waits |

mod config;
#[cfg(feature = "cpu")]
mod cpu_threads;
#[cfg(all(test, loom))]
mod loom_tests;
mod nested_queue;
mod nested_tasks;
mod parker;
mod pool;
mod queue;
mod registry;
mod runtimes;
mod scheduling;
mod state;
mod thread_request;
mod threads;
mod tokens;
mod watch;
mod worker;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod workers;

pub(crate) use self::config::{KeepAlive, WorkersConfig};
#[cfg(feature = "cpu")]
pub(crate) use self::cpu_threads::CpuThreads;
pub(crate) use self::nested_queue::NestedQueue;
pub(crate) use self::pool::{CurrentWorkers, Pool, WorkerSource};
pub(crate) use self::queue::QueuePosition;
pub(crate) use self::runtimes::Runtimes;
pub(crate) use self::workers::Workers;
