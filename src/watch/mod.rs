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
//! | a test that fails if a future blocks | [`assert_never_blocks`] |
//!
//! [`web::tower::WatchLayer`]: crate::web::tower::WatchLayer
//! [`web::axum::WatchLayer`]: crate::web::axum::WatchLayer
//! [`WatchMiddleware`]: crate::web::actix::WatchMiddleware
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
