//! The results of the operations of a [`FlightShard`](super::shard::FlightShard).

use std::task::Waker;

use super::run_entry::{RunEntry, RunWaiterId};
use crate::guard::key_map::{DeferredEntry, Hash64};

/// The outcome of joining a run.
#[derive(Debug)]
pub(crate) enum JoinOutcome {
    /// The caller started a run and is its leader. It polls the work next.
    Started { index: u32, id: RunWaiterId },
    /// The caller waits for a run that another caller started.
    ///
    /// If `spawn_task` is `true`, the caller must spawn the run's driver task. If `needs_driver` is `true`, every
    /// waiter that could drive the run was woken, but may never be polled: the caller polls the run at once, because it
    /// may have to drive the run.
    Joined { index: u32, id: RunWaiterId, spawn_task: bool, needs_driver: bool },
    /// The key has a run. Retry with a clone of the waker.
    NeedsWaker,
    /// The run has as many waiters as are allowed.
    Full,
    /// The flight is closed.
    Closed,
    /// The caller is the run's own work.
    WouldDeadlock,
}

/// The state of a run when one of its waiters is polled.
#[derive(Debug)]
pub(crate) enum RunPoll<W, O> {
    /// The waiter's waker is registered.
    Pending,
    /// Retry with a clone of the waker.
    NeedsWaker,
    /// The waiter drives the run: it polls the work, then calls [`put_back`](super::shard::FlightShard::put_back) or
    /// [`complete`](super::shard::FlightShard::complete).
    Drive(W),
    /// The run is complete. The waiter has left it.
    Completed(O),
    /// The run ended without an outcome. The caller has left it, and joins or starts another.
    Rejoin,
}

/// The state of a run when its driver task is polled.
#[derive(Debug)]
pub(crate) enum DriverTaskPoll<W> {
    /// The task's waker is registered.
    Pending,
    /// Retry with a clone of the waker.
    NeedsWaker,
    /// The task drives the run: it polls the work.
    Drive(W),
    /// The run needs no driver any more. The task has left it.
    Finished,
}

/// The actions that an operation defers until the mutex is unlocked: wake-ups, a spawn, and drops of user values.
#[derive(Debug)]
#[must_use]
pub(crate) struct FlightDeferred<K, W, O> {
    /// The wakers to wake.
    pub(crate) wakers: Vec<Waker>,
    /// The work of a cancelled run. Drop it, then call [`finish_cancel`](super::shard::FlightShard::finish_cancel).
    pub(crate) cancelled_work: Option<W>,
    /// The hash of the key if the operation has cancelled the run.
    pub(crate) cancelled: Option<Hash64>,
    /// `true` if the driver task must be spawned: the run relies on it.
    pub(crate) spawn_task: bool,
    /// The outcome of the run that a waiter left, if the run was complete.
    pub(crate) outcome: Option<O>,
    pub(super) stale_waker: Option<Waker>,
    pub(super) removed: Option<DeferredEntry<K, RunEntry<W, O>>>,
}

impl<K, W, O> FlightDeferred<K, W, O> {
    pub(super) fn new() -> Self {
        Self {
            wakers: Vec::new(),
            cancelled_work: None,
            cancelled: None,
            spawn_task: false,
            outcome: None,
            stale_waker: None,
            removed: None,
        }
    }
}

/// The result of a completed run, returned to its driver.
#[derive(Debug)]
pub(crate) enum Completion<R, O> {
    /// No other waiter wants the result.
    Unshared(R),
    /// Other waiters get the same outcome.
    Shared(O),
}
