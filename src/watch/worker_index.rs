//! [`current`], the index of the worker that runs on this thread.

/// Returns the index, in its runtime, of the worker that runs on the current thread. Returns `None` on other threads,
/// and with tokio before 1.54, which does not expose the index.
///
/// In a block, a glob import takes precedence over the items of the module, so the name resolves to tokio's function if
/// tokio has one, and to the function below otherwise.
#[allow(clippy::wildcard_imports, unused_imports, reason = "tokio before 1.54 has no `worker_index`")]
#[inline]
pub(super) fn current() -> Option<usize> {
    use tokio::runtime::*;
    worker_index()
}

#[allow(dead_code, reason = "used with tokio before 1.54")]
fn worker_index() -> Option<usize> {
    None
}
