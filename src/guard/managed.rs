//! [`Managed`] for guards and flights, so that a host closes and drains them.

use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;

use super::endpoint_guard::EndpointGuard;
use super::flight::SingleFlight;
use super::keyed::KeyedGuard;
use super::stats::GuardStats;
use crate::managed::{Managed, ManagedSnapshot};
use crate::shared::{Shareable, Shared};

impl Managed for EndpointGuard {
    fn name(&self) -> &str {
        self.name()
    }

    fn close(&self) {
        self.close();
    }

    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.drained())
    }

    fn snapshot(&self) -> ManagedSnapshot {
        snapshot(&self.stats())
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Managed for KeyedGuard<K> {
    fn name(&self) -> &str {
        self.name()
    }

    fn close(&self) {
        self.close();
    }

    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.drained())
    }

    fn snapshot(&self) -> ManagedSnapshot {
        snapshot(&self.stats())
    }
}

impl<K, T, E> Managed for SingleFlight<K, T, E>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    fn name(&self) -> &str {
        self.name()
    }

    fn close(&self) {
        self.close();
    }

    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.drained())
    }

    fn snapshot(&self) -> ManagedSnapshot {
        let stats = self.stats();
        ManagedSnapshot::new("flight")
            .with_active(stats.running)
            .with_waiting(stats.waiting)
            .with_closed(self.is_closed())
    }
}

impl<T: Managed + Shareable> Managed for Shared<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn close(&self) {
        (**self).close();
    }

    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        (**self).drained()
    }

    fn snapshot(&self) -> ManagedSnapshot {
        (**self).snapshot()
    }
}

fn snapshot(stats: &GuardStats) -> ManagedSnapshot {
    // A drain does not wait for permits that were forgotten.
    let active = stats.held.saturating_sub(stats.forgotten as usize);
    ManagedSnapshot::new("guard").with_active(active).with_waiting(stats.waiting).with_closed(stats.closed)
}
