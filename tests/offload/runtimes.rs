//! The runtimes that the tests run on.

use tokio::runtime::{Builder, Runtime};

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// One runtime of each kind.
pub(crate) fn runtimes() -> [Runtime; 2] {
    [current_thread(), multi_thread()]
}
