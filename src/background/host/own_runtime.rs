//! [`OwnRuntime`], the runtime of a supervisor that has a thread of its own.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// How many tasks have their turn before the supervisor has its own, and signals and sockets are looked at. The tasks are
/// probes. With tokio's default of 61, clients that ask without end make a stop five times as slow.
const TASKS_IN_A_ROW: u32 = 4;

/// A current-thread runtime that may be dropped anywhere. A `Runtime` panics where it is dropped in a future, and a host whose
/// thread can't be made does that.
#[derive(Debug)]
pub(super) struct OwnRuntime {
    handle: Handle,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().event_interval(TASKS_IN_A_ROW).build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
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
