//! [`Managed`] for pools, so that a host closes and drains them after its services.

use std::future::{Future, pending};
use std::pin::Pin;

use super::blocking::BlockingPool;
#[cfg(feature = "cpu")]
use super::cpu::CpuPool;
#[cfg(feature = "process")]
use super::process::ProcessPool;
use super::stats::PoolStats;
use crate::managed::{Managed, ManagedSnapshot};

/// Implements [`Managed`] for a pool. A pool whose statistics contain those of its tasks names their field.
macro_rules! impl_managed_for_pool {
    ($pool:ty $(, $tasks:ident)?) => {
        impl Managed for $pool {
            fn name(&self) -> &str {
                self.name()
            }

            fn close(&self) {
                self.close();
            }

            fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
                Box::pin(async {
                    if self.drained().await.is_err() {
                        // The host runs inside a task of this pool. Its own time limits end the wait.
                        pending::<()>().await;
                    }
                })
            }

            fn snapshot(&self) -> ManagedSnapshot {
                snapshot(&self.stats()$(.$tasks)?, self.is_closed())
            }
        }
    };
}

impl_managed_for_pool!(BlockingPool);
#[cfg(feature = "cpu")]
impl_managed_for_pool!(CpuPool);
#[cfg(feature = "process")]
impl_managed_for_pool!(ProcessPool, tasks);

fn snapshot(stats: &PoolStats, is_closed: bool) -> ManagedSnapshot {
    let snapshot = ManagedSnapshot::new("pool").with_active(stats.running).with_waiting(stats.queued);
    snapshot.with_closed(is_closed).serving_services()
}
