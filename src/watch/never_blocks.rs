//! [`assert_never_blocks`], which fails a test if a future blocks its thread.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use crate::debug::impl_debug;

pin_project! {
    /// A future that panics if a poll of it takes too long. Created by [`assert_never_blocks`].
    #[derive(Clone)]
    #[must_use = "futures do nothing unless polled"]
    pub struct NeverBlocks<F> {
        bound: Duration,
        asserted_at: &'static Location<'static>,
        #[pin]
        future: F,
    }
}

/// Runs `future`, and panics if one poll of `future` takes longer than `bound`. For tests.
///
/// A poll includes everything that `future` does between two waits. `block_in_place` is included, because it stops the
/// other futures of the same task. The polls of tasks that `future` spawns are not included: wrap their futures, too.
///
/// The poll is measured in real time, even if tokio's clock is paused. Time in which the machine runs other threads
/// counts as well, so choose a bound that a busy machine keeps, such as 50 ms. A test that provokes a block must block
/// for longer than the bound.
///
/// # Panics
///
/// Panics after the first poll that takes longer than `bound`. A poll that never returns does not panic.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use onelane::watch::assert_never_blocks;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let sleep = tokio::time::sleep(Duration::from_millis(100));
/// assert_never_blocks(Duration::from_millis(50), sleep).await;
/// # }
/// ```
///
/// ```should_panic
/// # use std::time::Duration;
/// # use onelane::watch::assert_never_blocks;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let blocks = async { std::thread::sleep(Duration::from_millis(100)) };
/// assert_never_blocks(Duration::from_millis(50), blocks).await;
/// # }
/// ```
#[track_caller]
pub fn assert_never_blocks<F: Future>(bound: Duration, future: F) -> NeverBlocks<F> {
    NeverBlocks { bound, asserted_at: Location::caller(), future }
}

impl<F: Future> Future for NeverBlocks<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let start = Instant::now();
        let output = this.future.poll(cx);
        let took = start.elapsed();
        assert!(
            took <= *this.bound,
            "the future asserted at {} blocked its thread: one poll took {:?}, longer than {:?}; move blocking calls to \
             run_blocking and computations to run_cpu",
            this.asserted_at,
            took,
            this.bound
        );
        output
    }
}

impl_debug!([F] NeverBlocks<F> |this| { bound: this.bound, asserted_at: this.asserted_at, .. });
