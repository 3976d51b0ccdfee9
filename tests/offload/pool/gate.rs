//! The runtimes from which pools are used.

use tokio::runtime::{Builder, Runtime};

/// One of each kind.
pub(crate) fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    ]
}
