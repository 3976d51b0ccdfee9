//! [`block_on`] and [`check_cancelled`]: what a task on a thread asks of its caller's side.

use tokio::runtime::Handle;

use super::error::FromThreadError;
use super::waiter::Waiter;
use crate::offload::task::{Cancelled, TaskContext};
use crate::park::runs_async_tasks;

/// Runs async code from a thread that may block, and waits for its result: `anyio.from_thread.run`.
///
/// The future is polled on this very thread, so it may borrow what is here and need not be `Send`. What it spawns, its timers
/// and its sockets are of the runtime that the task's caller is in. Unlike in `Handle::block_on`, a task that it has run in
/// its own pool with `run_blocking(..).await` may call `block_on` again: such a task runs on this thread, too, as deep as you
/// like.
///
/// A caller that leaves does not end it. A future that may wait for long is put beside something that ends it, such as
/// [`tokio::time::timeout`]. (It has the thread for itself, without tokio's cooperative budget: a future that is always
/// ready does not let a timeout around it have its turn.)
///
/// A panic of the future goes on here.
///
/// # Errors
///
/// [`FromThreadError::BlockingInAsync`] on a thread that runs async tasks, where the future could not be polled without
/// stopping them. [`FromThreadError::NoRuntime`] where there is no tokio runtime. The future was not polled in both cases.
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
    Ok(Waiter::here().wait(future))
}

/// Returns early, with `?`, if nobody waits for the task that runs on this thread: `anyio.from_thread.check_cancelled`.
///
/// It is [`TaskContext::checkpoint`] from anywhere inside of a task. Outside of one it is always `Ok`.
///
/// # Errors
///
/// [`Cancelled`] if the task [is](TaskContext::is_cancelled).
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
