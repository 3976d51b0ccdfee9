//! [`OwnRuntime`], the runtime of a supervisor that has a thread of its own.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};

/// A current-thread runtime that may be dropped anywhere. A `Runtime` panics where it is dropped in a future, and a host whose
/// thread can't be made does that.
#[derive(Debug)]
pub(super) struct OwnRuntime {
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    pub(super) fn block_on(self, future: impl Future<Output = ()>) {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(future);
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
