//! [`watch()`], which gives a future a label in the reports of watches.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::label::Label;
use crate::debug::impl_debug;

pin_project! {
    /// A future with a [label](Label). Created by [`watch()`].
    #[derive(Clone)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Watched<F> {
        label: Label,
        #[pin]
        future: F,
    }
}

/// Gives `future` a label. If a poll of `future` blocks its worker, the report of a [`Watch`](super::Watch) has the
/// label.
///
/// The label adds a few nanoseconds to each poll. If a watched future polls another one, a report has the label of the
/// inner future. Without a running watch, the label has no effect.
///
/// # Cancel safety
///
/// The same as that of `future`.
///
/// # Examples
///
/// ```
/// use onelane::watch::watch;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let import = watch("import", async {
///     // A report names `import` if this blocks.
///     7
/// });
/// assert_eq!(tokio::spawn(import).await.unwrap(), 7);
/// # }
/// ```
pub fn watch<F: Future>(label: impl Into<Label>, future: F) -> Watched<F> {
    Watched { label: label.into(), future }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _in_poll = this.label.enter();
        this.future.poll(cx)
    }
}

impl_debug!([F] Watched<F> |this| { label: this.label, .. });
