//! The methods that blocking and CPU pools share.

/// Implements these methods for a pool whose first field is an `Arc<Pool>`.
macro_rules! pool_methods {
    ($pool:ty) => {
        impl $pool {
            /// Runs `work` and waits for its result.
            ///
            /// # Errors
            ///
            /// Returns an [`OffloadError`](super::OffloadError). A panic in the work is
            /// [`Panicked`](super::OffloadErrorKind::Panicked).
            ///
            /// # Cancel safety
            ///
            /// The same as [`TaskFuture`](super::TaskFuture): if the future is dropped before the work has started, the
            /// work never runs.
            pub async fn run<F, T>(&self, work: F) -> Result<T, $crate::offload::OffloadError>
            where
                F: FnOnce() -> T + Send + 'static,
                T: Send + 'static,
            {
                self.task(|_| work()).await
            }

            /// Creates a task with options: a label, time limits, a priority. The closure receives a
            /// [context](super::TaskContext), which reports if the result is still wanted.
            pub fn task<F, T>(&self, work: F) -> $crate::offload::Task<F>
            where
                F: FnOnce(&$crate::offload::TaskContext) -> T + Send + 'static,
                T: Send + 'static,
            {
                $crate::offload::Task::new(::std::sync::Arc::clone(&self.0), work)
            }

            /// Returns the name of the pool.
            #[must_use]
            pub fn name(&self) -> &str {
                self.0.name()
            }

            /// Returns a snapshot of the pool.
            #[must_use]
            pub fn stats(&self) -> $crate::offload::PoolStats {
                self.0.stats()
            }

            /// Closes the pool. Queued and future tasks fail with [`Closed`](super::OffloadErrorKind::Closed); running
            /// ones continue.
            pub fn close(&self) {
                self.0.close();
            }

            /// Returns `true` if the pool was [closed](Self::close).
            #[must_use]
            pub fn is_closed(&self) -> bool {
                self.0.is_closed()
            }

            /// Waits until the pool is [closed](Self::close) and none of its tasks is running.
            ///
            /// # Errors
            ///
            /// Returns [`WouldDeadlock`](super::OffloadErrorKind::WouldDeadlock) inside a task of this pool, which
            /// would wait for its own end.
            ///
            /// # Cancel safety
            ///
            /// Dropping the future changes nothing.
            pub async fn drained(&self) -> Result<(), $crate::offload::OffloadError> {
                self.0.drained().await
            }
        }
    };
}

pub(super) use pool_methods;
