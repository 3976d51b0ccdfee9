//! [`OwnRuntime`], the runtime of a thread that this crate spawns. It can be dropped anywhere.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A current-thread runtime that waits for nothing when it is dropped.
///
/// A plain [`Runtime`] waits for its blocking tasks in `drop`, and panics on a thread that polls futures, where waiting
/// is not allowed. It is dropped on such a thread if the thread that it was built for can't be spawned.
#[derive(Debug)]
pub(crate) struct OwnRuntime {
    handle: Handle,
    /// Taken in `drop`.
    runtime: Option<Runtime>,
}

impl OwnRuntime {
    /// Builds a runtime with all drivers.
    pub(crate) fn build(builder: &mut Builder) -> io::Result<Self> {
        let runtime = builder.enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs the runtime on this thread until `future` completes.
    pub(crate) fn block_on(&self, future: impl Future<Output = ()>) {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_it_on_a_thread_that_polls_futures_does_not_panic() {
        drop(OwnRuntime::build(&mut Builder::new_current_thread()));
    }
}
