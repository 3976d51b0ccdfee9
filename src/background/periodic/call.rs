//! [`call`], one call of the closure: its panic, its timeout, and its place in the status.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use tokio::time::timeout;

use super::ticker::Running;
use crate::background::service::ServiceResult;
use crate::background::status::{ExitKind, TimeLimit};
use crate::background::trace;
use crate::panic::{catch, discard};

/// Calls `tick` once. A call that is dropped before its end counts as aborted.
pub(super) async fn call<F, W>(tick: Arc<F>, service: Arc<str>, running: Running) -> ExitKind
where
    F: Fn() -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send + 'static,
{
    // In a block, so that a panic before the first await is in the poll, too.
    let mut work = Box::pin(async move { tick().await });
    let caught = poll_fn(|cx| match catch(|| work.as_mut().poll(cx)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(()))) => Poll::Ready(ExitKind::Completed),
        Ok(Poll::Ready(Err(error))) => Poll::Ready(ExitKind::Failed(error.into())),
        Err(panic) => Poll::Ready(ExitKind::Panicked(panic)),
    });
    let exit = match running.limit() {
        None => caught.await,
        Some(limit) => {
            let in_time = timeout(limit, caught).await;
            in_time.unwrap_or(ExitKind::TimedOut(TimeLimit::Tick(limit)))
        }
    };
    // Before the end is told: what it held is released by then.
    discard(work);
    if exit.is_failure() {
        trace::tick_failed(&service, &exit);
    }
    running.end(exit.clone());
    exit
}
