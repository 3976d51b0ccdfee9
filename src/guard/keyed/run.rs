//! [`RunKeyed`] and [`RunKeyedToCompletion`], the futures that run work while holding a permit of one key.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::source::KeyedSource;
use crate::guard::error::AcquireError;
use crate::guard::run::{RunFuture, RunToCompletionFuture};

pin_project! {
    /// Runs a future while holding a permit of one key. Created by [`KeyedGuard::run`].
    #[must_use = "futures do nothing unless polled"]
    pub struct RunKeyed<'a, K, F>
    where
        K: Hash,
        K: Eq,
    {
        #[pin]
        inner: RunFuture<KeyedSource<K, &'a KeyedGuard<K>>, F>,
    }
}

/// Runs a future to completion while holding a permit of one key, in its own task if the caller is cancelled. Created
/// by [`KeyedGuard::run_to_completion`].
#[must_use = "futures do nothing unless polled"]
pub struct RunKeyedToCompletion<K, F>(RunToCompletionFuture<KeyedSource<K, SharedKeyedGuard<K>>, F>)
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static;

impl<'a, K: Hash + Eq, F> RunKeyed<'a, K, F> {
    pub(super) fn new(guard: &'a KeyedGuard<K>, key: K, future: F) -> Self {
        Self { inner: RunFuture::new(KeyedSource::new(guard, key), future) }
    }
}

impl<K: Hash + Eq, F: Future> Future for RunKeyed<'_, K, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<K, F> RunKeyedToCompletion<K, F>
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static,
{
    pub(super) fn new(guard: SharedKeyedGuard<K>, key: K, future: F) -> Self {
        Self(RunToCompletionFuture::new(KeyedSource::new(guard, key), future))
    }
}

impl<K, F> Future for RunKeyedToCompletion<K, F>
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static,
{
    type Output = Result<F::Output, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

// The work is boxed, and nothing else is structurally pinned.
impl<K, F> Unpin for RunKeyedToCompletion<K, F>
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static,
{
}

impl<K: Hash + Eq, F> fmt::Debug for RunKeyed<'_, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as("RunKeyed", f)
    }
}

impl<K, F> fmt::Debug for RunKeyedToCompletion<K, F>
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("RunKeyedToCompletion", f)
    }
}
