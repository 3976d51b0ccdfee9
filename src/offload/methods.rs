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
            /// [`Panicked`](super::OffloadError::Panicked).
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

            /// Returns a snapshot of the pool.
            #[must_use]
            pub fn statistics(&self) -> $crate::offload::PoolStatistics {
                self.0.statistics()
            }

            /// Closes the pool. Queued and future tasks fail with [`Closed`](super::OffloadError::Closed); running ones
            /// continue.
            pub fn close(&self) {
                self.0.close();
            }

            /// Waits until the pool is [closed](Self::close) and none of its tasks is running.
            ///
            /// # Cancel safety
            ///
            /// Dropping the future changes nothing.
            pub async fn drained(&self) {
                self.0.drained().await;
            }
        }
    };
}

pub(super) use pool_methods;
