//! [`Managed`] for process pools, so that a host closes and drains the pools after its services.

use std::future::{Future, pending};
use std::pin::Pin;

use super::pool::ProcessPool;
use crate::managed::{Managed, ManagedSnapshot};

impl Managed for ProcessPool {
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
        let tasks = self.stats().tasks;
        let snapshot = ManagedSnapshot::new("pool").with_active(tasks.running).with_waiting(tasks.queued);
        snapshot.with_closed(self.is_closed()).serving_services()
    }
}
