//! [`OwnRuntime`], the runtime of a thread of ours, which may be dropped anywhere.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};

/// A current-thread runtime that waits for nothing when it is dropped.
///
/// A plain [`Runtime`] waits for its blocking tasks then, and panics where it may not wait: on a thread that polls futures,
/// which is where it ends if the thread that it was made for can't be had.
#[derive(Debug)]
pub(crate) struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Some(Builder::new_current_thread().enable_all().build()?)))
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.as_ref().expect("it is taken only when it is dropped").block_on(future)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_on_a_thread_that_polls_it_does_not_panic() {
        drop(OwnRuntime::new());
    }
}
