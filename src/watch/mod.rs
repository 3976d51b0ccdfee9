//! Reports which worker of a tokio runtime is blocked, and by which route or task, while it is blocked.
//!
//! A worker that calls `std::thread::sleep`, a blocking client or a long computation polls no other task until the call
//! returns. All requests on that worker wait, and nothing says why.
//!
//! | I want | use |
//! |---|---|
//! | to know which worker is blocked | [`Watch`] |
//! | the report to name the route | the layers [`web::tower::WatchLayer`], [`web::axum::WatchLayer`], [`WatchMiddleware`] |
//! | the report to name a task | [`watch()`] |
//! | the report to name the function and the line | [`WatchBuilder::capture_stacks`] |
//! | a test that fails if a future blocks | [`assert_never_blocks`] |
//!
//! [`web::tower::WatchLayer`]: crate::web::tower::WatchLayer
//! [`web::axum::WatchLayer`]: crate::web::axum::WatchLayer
//! [`WatchMiddleware`]: crate::web::actix::WatchMiddleware
//!
//! # What a report means
//!
//! A worker is *blocked* if it has not returned to its scheduler for the [threshold](WatchBuilder::threshold). Usually one
//! poll takes that long. Without labels, the polls of up to 61 turns (tokio's `event_interval`) that take that long
//! together look the same, and have the same effect: sockets and timers of the worker are not served in that time. A
//! thread that the operating system does not run, because the machine has too few processors, looks the same, too.
//!
//! The label and the stack are those of the moment of the report. If the poll has done several things, they may name the
//! last one, and not the longest.
//!
//! | what happens | reported | why |
//! |---|---|---|
//! | a task blocks or computes in a poll | yes | its worker polls no other task |
//! | a task waits for a guard, a flight, a pool or a timer | no | nothing is being polled |
//! | a task calls `block_in_place` | no | tokio hands its worker to another thread, which polls the other tasks |
//! | code blocks in `run_blocking`, `run_cpu` or `spawn_blocking` | no | these threads are no workers |
//! | a service blocks its [own thread](crate::background::Placement::Thread) | no | it has a runtime of its own |
//! | `block_on` on a thread outside of a multi-thread runtime, such as that of `main` | no | the thread is no worker |
//! | `block_in_place` while tokio has no thread left for the worker | yes | the worker does not run |
//! | a current-thread runtime between two calls of `block_on` | yes | nothing polls its tasks |
//! | a worker blocks for less than the threshold before its runtime shuts down | no | its tasks are gone |
//!
//! A task that calls `block_in_place` within the same interval in which another task blocks the worker may be named in
//! place of that task, if only the first has a label.
//!
//! A blocked worker also delays others if it was the one that waited for I/O: [`Watch::lag`] shows what a task feels.
//!
//! The counters are public and stable in tokio, but tokio does not document when they change. The tests of this crate fail
//! if that moment changes. Names of threads and labels need tokio 1.54. With an older version, workers are reported by
//! their index alone.
//!
//! # When not to use it
//!
//! A watch finds what blocks for milliseconds. For a profile of many short polls, use
//! [tokio-metrics](https://docs.rs/tokio-metrics) or a profiler.
//!
//! # In this folder
//!
//! `builder` → `watchdog`, the thread of a watch, which samples each `runtime`: `worker_state` decides from two counters
//! of tokio if a worker is blocked, `worker_threads` finds its thread, and `lag_probe` measures how long a task waits. A
//! poll of a labelled `future` publishes its `label` in the `slot` of its thread, where the watch finds it. `stack` has
//! the stack of a blocked thread.

mod builder;
mod error;
mod future;
mod label;
mod lag_probe;
mod never_blocks;
mod report;
mod runtime;
mod shared;
mod slot;
mod stack;
mod stats;
mod trace;
mod watchdog;
mod worker_index;
mod worker_state;
mod worker_threads;

pub use self::builder::WatchBuilder;
pub use self::error::WatchError;
pub use self::future::{Watched, watch};
pub use self::label::Label;
pub use self::never_blocks::{NeverBlocks, assert_never_blocks};
pub use self::report::{Blocked, Recovered, Report};
pub use self::slot::register_thread;
pub use self::stack::{Frame, Hint, Stack};
pub use self::stats::{LabelStats, WatchStats};
pub use self::watchdog::Watch;
pub(crate) use self::watchdog::WatchView;
