//! [`Workers`], the worker threads of a server.

use std::sync::{Arc, Mutex};

use actix_web::rt;
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;

use crate::background::HostHandle;
use crate::debug::impl_debug;
use crate::sync::lock;
use crate::web::serve::Connections;

/// The worker threads of a server.
///
/// An accepted connection waits in the channel of a worker, and is dropped if the server stops before the worker takes
/// it. The drain therefore lets each worker take a turn before it stops the server.
pub(super) struct Workers {
    host: HostHandle,
    round: watch::Sender<u64>,
    /// The last round that each worker has seen.
    seen: Mutex<Slab<u64>>,
}

/// The place of a worker. It is dropped when the worker ends.
struct Worker {
    workers: Arc<Workers>,
    id: usize,
}

impl Workers {
    pub(super) fn new(host: HostHandle) -> Arc<Self> {
        Arc::new(Self { host, round: watch::Sender::new(0), seen: Mutex::default() })
    }

    /// Adds the worker of this thread.
    pub(super) fn add(self: &Arc<Self>) {
        self.host.watch_runtime(&Handle::current());
        let mut rounds = self.round.subscribe();
        let id = lock(&self.seen).insert(*rounds.borrow_and_update());
        let worker = Worker { workers: Arc::clone(self), id };
        rt::spawn(async move {
            while rounds.changed().await.is_ok() {
                // The task that takes connections from the channel may have been woken after this one.
                yield_now().await;
                yield_now().await;
                let round = *rounds.borrow_and_update();
                lock(&worker.workers.seen)[worker.id] = round;
            }
        });
    }

    /// Waits until each worker has polled its tasks.
    pub(super) async fn take_turn(&self, connections: &Connections) {
        self.round.send_modify(|round| *round += 1);
        let round = *self.round.borrow();
        connections.until(|_| lock(&self.seen).iter().all(|(_, seen)| *seen >= round)).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.workers.seen).remove(self.id);
    }
}

impl_debug!(Workers |this| { workers: lock(&this.seen).len(), .. });
