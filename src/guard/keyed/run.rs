//! [`RunKeyed`] and [`RunKeyedToCompletion`]: work that runs in a turn of one key.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::gate::KeyGate;
use super::keyed_guard::KeyedGuard;
use crate::guard::error::AcquireError;
use crate::guard::run::{Completing, Running};
use crate::guard::shared::SharedKeyedGuard;

pin_project! {
    /// Runs a future in a turn of one key. Made by [`KeyedGuard::run`].
    #[must_use = "futures do nothing unless polled"]
    pub struct RunKeyed<'a, K, F>
    where
        K: Hash,
        K: Eq,
    {
        #[pin]
        running: Running<KeyGate<K, &'a KeyedGuard<K>>, F>,
    }
}

/// Runs a future in a turn of one key to its end, in a task of its own if the caller goes away. Made by
/// [`KeyedGuard::run_to_completion`].
#[must_use = "futures do nothing unless polled"]
pub struct RunKeyedToCompletion<K, F>(Completing<KeyGate<K, SharedKeyedGuard<K>>, F>)
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static;

impl<'a, K: Hash + Eq, F> RunKeyed<'a, K, F> {
    pub(super) fn new(guard: &'a KeyedGuard<K>, key: K, future: F) -> Self {
        Self { running: Running::new(KeyGate::new(guard, key), future) }
    }
}

impl<K: Hash + Eq, F: Future> Future for RunKeyed<'_, K, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().running.poll(cx)
    }
}

impl<K, F> RunKeyedToCompletion<K, F>
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static,
{
    pub(super) fn new(guard: SharedKeyedGuard<K>, key: K, future: F) -> Self {
        Self(Completing::new(KeyGate::new(guard, key), future))
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

// The work has a box of its own, and nothing else is polled in place.
impl<K, F> Unpin for RunKeyedToCompletion<K, F>
where
    K: Hash + Eq + Send + 'static,
    F: Future + Send + 'static,
{
}

impl<K: Hash + Eq, F> fmt::Debug for RunKeyed<'_, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.running.fmt_as("RunKeyed", f)
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
