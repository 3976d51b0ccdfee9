//! Reports blocked workers of tokio runtimes while they are blocked, with the route or task that blocks each worker.
//!
//! A worker that runs `std::thread::sleep`, a blocking client or a long computation polls no other task until that call
//! returns. The other requests of the worker wait, and no log says why.
//!
//! | I want | use |
//! |---|---|
//! | to know which worker is blocked | [`Watch`] |
//! | reports that name the route | [`web::axum::WatchLayer`], [`WatchMiddleware`], or [`web::tower::WatchLayer`] |
//! | reports that name the task | [`watch()`] |
//! | reports that name the function and the line | [`WatchBuilder::capture_stacks`] |
//! | a test that fails if a future blocks | [`assert_never_blocks`] |
//!
//! [`web::tower::WatchLayer`]: crate::web::tower::WatchLayer
//! [`web::axum::WatchLayer`]: crate::web::axum::WatchLayer
//! [`WatchMiddleware`]: crate::web::actix::WatchMiddleware
//!
//! # What a report means
//!
//! A worker is *blocked* if it has not returned to its scheduler for the [threshold](WatchBuilder::threshold). Usually
//! one poll takes that long. The polls of up to 61 turns of the scheduler (tokio's `event_interval`) are reported, too,
//! if they take that long together, unless labels show that they are polls of several tasks. They have the same effect:
//! the worker serves no sockets and no timers in that time. A worker whose thread gets no processor, because the machine
//! runs too many threads, also looks blocked.
//!
//! The watch reads the label and the stack when it makes the report. If one poll does several things in turn, the
//! report may name the latest one instead of the longest one.
//!
//! | what happens | reported | why |
//! |---|---|---|
//! | a task blocks or computes in a poll | yes | its worker polls no other task |
//! | a task waits for a guard, a flight, a pool or a timer | no | nothing is being polled |
//! | a task calls `block_in_place` | no | tokio hands its worker to another thread, which polls the other tasks |
//! | code blocks in `run_blocking`, `run_cpu` or `spawn_blocking` | no | these threads are not workers |
//! | a service blocks its [own thread](crate::background::Placement::Thread) | no | that thread has its own runtime |
//! | `block_on` outside of a multi-thread runtime, such as on the thread of `main` | no | the thread is not a worker |
//! | `block_in_place` while tokio has no thread left for the worker | yes | the worker does not run |
//! | a current-thread runtime between two calls of `block_on` | yes | nothing polls its tasks |
//! | a worker blocks for less than the threshold before its runtime shuts down | no | its tasks are gone |
//!
//! Suppose that a task with a label calls `block_in_place`, and that a task without a label blocks the same worker
//! within one interval. The report may then name the first task instead of the second.
//!
//! A blocked worker also delays the other workers if it was the worker that waited for I/O. [`Watch::lag`] returns how
//! long a task waits for its poll.
//!
//! The watch reads counters that are public and stable in tokio, but tokio does not document when it updates them. The
//! tests of this crate fail if a release of tokio updates the counters at another moment. Reports contain the label and
//! the name of the thread with tokio 1.54 or newer. With an older version, a report contains only the worker's index.
//!
//! # When not to use it
//!
//! A watch finds code that blocks a worker for milliseconds. For a profile of many short polls, use
//! [tokio-metrics](https://docs.rs/tokio-metrics) or a profiler.
//!
//! # In this folder
//!
//! `builder` starts `watchdog`, the thread of a watch, which samples each `runtime`. `worker_state` decides from two
//! counters of tokio whether a worker is blocked, `worker_threads` finds the worker's thread, and `lag_probe` measures
//! how long a task waits for its poll. A poll of a labelled `future` publishes the `label` in the `slot` of its thread,
//! where the watch finds it. `stack` captures the stack of a blocked thread.

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
