//! [`block_on`] and [`check_cancelled`]: what a task on a thread needs from async code.

use tokio::runtime::Handle;

use super::error::FromThreadError;
use super::executor::ThreadExecutor;
use crate::offload::job::{Cancelled, TaskContext};
use crate::park::runs_async_tasks;

/// Runs async code from a thread that may block, and waits for its result. The function corresponds to
/// `anyio.from_thread.run`.
///
/// The future is polled on this thread, so it may borrow local values and need not be `Send`. The tasks that it spawns,
/// its timers and its sockets belong to the runtime of the task's caller. A nested task of the same pool, awaited with
/// `run_blocking(..).await`, runs on this thread too, at any depth, and may call `block_on` again.
///
/// The future does not end when the task's caller stops waiting. Combine a future that may wait for a long time with
/// something that ends the wait, such as [`tokio::time::timeout`]. (The future runs without tokio's cooperative budget:
/// a timeout around a future that is always ready is never polled.)
///
/// A panic in the future unwinds into the caller.
///
/// # Errors
///
/// Returns [`FromThreadError::BlockingInAsync`] on a thread that runs async tasks, because the call would keep those
/// tasks from running. Returns [`FromThreadError::NoRuntime`] if there is no tokio runtime. In both cases the future is
/// not polled.
///
/// # Examples
///
/// ```
/// use onelane::offload::from_thread;
/// use std::time::Duration;
/// use tokio::time::sleep;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rows = onelane::run_blocking(|| {
///     let mut rows = vec![1, 2];
///     from_thread::block_on(async {
///         sleep(Duration::from_millis(1)).await;
///         rows.push(3);
///     })?;
///     Ok::<_, from_thread::FromThreadError>(rows)
/// });
/// assert_eq!(rows.await??, [1, 2, 3]);
///
/// assert_eq!(from_thread::block_on(async {}), Err(from_thread::FromThreadError::BlockingInAsync));
/// # Ok(())
/// # }
/// ```
pub fn block_on<F: Future>(future: F) -> Result<F::Output, FromThreadError> {
    if runs_async_tasks() {
        return Err(FromThreadError::BlockingInAsync);
    }
    Handle::try_current().map_err(|_| FromThreadError::NoRuntime)?;
    Ok(ThreadExecutor::current().block_on(future))
}

/// Returns an error if the result of the task that runs on this thread is no longer wanted, so that the task can return
/// early with `?`. The function corresponds to `anyio.from_thread.check_cancelled`.
///
/// This is [`TaskContext::checkpoint`] for code anywhere inside a task. Outside of a task it always returns `Ok`.
///
/// # Errors
///
/// Returns [`Cancelled`] if the task [is cancelled](TaskContext::is_cancelled).
///
/// # Examples
///
/// ```
/// use onelane::offload::{Cancelled, from_thread};
///
/// fn sum(numbers: &[u64]) -> Result<u64, Cancelled> {
///     let mut sum = 0;
///     for chunk in numbers.chunks(1_000) {
///         from_thread::check_cancelled()?;
///         sum += chunk.iter().sum::<u64>();
///     }
///     Ok(sum)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let numbers: Vec<u64> = (0..10_000).collect();
/// assert_eq!(onelane::run_blocking(move || sum(&numbers)).await??, 49_995_000);
/// # Ok(())
/// # }
/// ```
pub fn check_cancelled() -> Result<(), Cancelled> {
    TaskContext::current().map_or(Ok(()), |task| task.checkpoint())
}
