//! [`RunKeyed`] and [`RunKeyedToCompletion`], the futures that run work while holding a permit of one key.

use super::keyed_guard::{KeyedGuard, SharedKeyedGuard};
use super::source::KeyedSource;
use crate::guard::run::{RunFuture, RunToCompletionFuture};

/// Runs a future while holding a permit of one key. Created by [`KeyedGuard::run`].
pub type RunKeyed<'a, K, F> = RunFuture<KeyedSource<K, &'a KeyedGuard<K>>, F>;

/// Runs a future to completion while holding a permit of one key, in its own task if the caller is cancelled. Created
/// by [`KeyedGuard::run_to_completion`].
pub type RunKeyedToCompletion<K, F> = RunToCompletionFuture<KeyedSource<K, SharedKeyedGuard<K>>, F>;
