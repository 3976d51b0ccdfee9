//! The runtimes that tests build by hand.

use tokio::runtime::{Builder, Runtime};

/// Returns a runtime that runs on the calling thread.
#[must_use]
pub fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("the runtime is built")
}

/// Returns a runtime that runs on the calling thread and whose time is paused.
#[must_use]
pub fn paused() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("the runtime is built")
}

/// Returns a runtime with the given number of worker threads.
#[must_use]
pub fn multi_thread(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("the runtime is built")
}
