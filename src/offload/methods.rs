//! What can be done with a pool, of whatever kind.

/// Gives a pool whose first field is an `Arc<Pool>` its methods.
macro_rules! pool_methods {
    ($pool:ty) => {
        impl $pool {
            /// Runs `work` and waits for its result.
            ///
            /// # Errors
            ///
            /// See [`OffloadError`](super::OffloadError). A panic of the work is one of them.
            ///
            /// # Cancel safety
            ///
            /// As [`TaskFuture`](super::TaskFuture): dropped before the work has begun, it never runs.
            pub async fn run<F, T>(&self, work: F) -> Result<T, $crate::offload::OffloadError>
            where
                F: FnOnce() -> T + Send + 'static,
                T: Send + 'static,
            {
                self.task(|_| work()).await
            }

            /// Work with a label, limits of time, a priority, and a [context](super::TaskContext) that tells it whether anybody
            /// still waits.
            pub fn task<F, T>(&self, work: F) -> $crate::offload::Task<F>
            where
                F: FnOnce(&$crate::offload::TaskContext) -> T + Send + 'static,
                T: Send + 'static,
            {
                $crate::offload::Task::new(::std::sync::Arc::clone(&self.0), work)
            }

            /// What the pool does at the moment.
            #[must_use]
            pub fn statistics(&self) -> $crate::offload::PoolStatistics {
                self.0.statistics()
            }

            /// Takes no work any more. Tasks that wait fail with [`Closed`](super::OffloadError::Closed); those that run go on.
            pub fn close(&self) {
                self.0.close();
            }

            /// Waits until the pool is [closed](Self::close) and nothing of it runs any more.
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
