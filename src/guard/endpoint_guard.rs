//! [`EndpointGuard`], the gate a request passes before its handler runs.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use super::acquire::{Acquire, AcquireOwned};
use super::blocking;
use super::builder::EndpointGuardBuilder;
use super::core::{Core, Gate, HasCore, OwnedGate};
use super::error::AcquireError;
use super::permit::{Held, OwnedPermit, Permit};
use super::run::{Run, RunToCompletion};
use super::scope::ScopeId;
use super::shared::SharedGuard;
use super::stats::GuardStats;
use super::wait::Limits;
use crate::semaphore::{CancelOutcome, EnqueueOutcome, Refused, Semaphore, WaitOutcome, WaiterId};

/// Admits one caller at a time, or N, in the order they asked.
///
/// A plain value, like tokio's `Mutex`: put it in a `static`, or share it in an `Arc`. One guard for all requests, not one
/// made in each. It holds no data; it guards a piece of work, such as a handler.
///
/// ```
/// use onelane::EndpointGuard;
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), onelane::AcquireError> {
/// let permit = REPORT.acquire().await?;
/// assert!(REPORT.try_acquire().is_err(), "one at a time");
/// drop(permit);
///
/// let answer = REPORT.run(async { 6 * 7 }).await?;
/// # assert_eq!(answer, 42);
/// # Ok(())
/// # }
/// ```
///
/// # Order
///
/// Strictly first come, first served ([`Order::Fifo`](super::Order::Fifo)): a permit that comes back goes straight to
/// the caller that waits longest and is never free in between, so nobody overtakes. The turn comes with the first poll
/// of the future, not with the call.
///
/// # Panics and cancellation
///
/// Whoever holds a permit gives it back by dropping it, in a panic too; nothing is poisoned. Whoever waits can leave
/// at any time by dropping the future: the place is given up, a turn that had just come is passed on, and nothing of
/// it remains.
///
/// # When something else fits better
///
/// To protect data, use `tokio::sync::Mutex`, or `std::sync::Mutex` where nothing is awaited under it. To limit how
/// often rather than how many at once, use a rate limiter.
pub struct EndpointGuard {
    lane: Semaphore,
    core: Core,
}

impl EndpointGuard {
    /// A guard for one caller at a time, in order, with an unbounded queue.
    ///
    /// `name` is for you: it appears in [`stats`](Self::stats) and in logs. It needs not be unique.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self::builder(name).build()
    }

    /// Starts a guard with other settings.
    pub const fn builder(name: &'static str) -> EndpointGuardBuilder {
        EndpointGuardBuilder::new(name)
    }

    pub(super) const fn from_parts(name: &'static str, lane: Semaphore, limits: Limits) -> Self {
        Self { lane, core: Core::new(name, limits) }
    }

    /// Waits for a turn, in the queue.
    ///
    /// The future can be polled by hand, moved, and dropped by `select!`. The permit of a guard in a `static` is a
    /// `Permit<'static>`: it can move into a task, or into `spawn_blocking`.
    ///
    /// Acquiring a second time while holding the first permit waits for oneself, for ever. [`run`](Self::run) and the web
    /// layers find that out; between two `acquire`s only `max_wait` ends it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue. A turn that had come already goes to the next caller: none
    /// is lost for the others.
    ///
    /// # Errors
    ///
    /// [`QueueFull`](AcquireError::QueueFull) or [`Busy`](AcquireError::Busy) at once when no more callers may wait,
    /// [`Timeout`](AcquireError::Timeout) after `max_wait`, [`GrantExpired`](AcquireError::GrantExpired) when the turn
    /// came but nobody polled, [`WouldDeadlock`](AcquireError::WouldDeadlock) inside [`run`](Self::run),
    /// [`run_to_completion`](Self::run_to_completion) or a web layer of the same full guard, [`Closed`](AcquireError::Closed) after [`close`](Self::close).
    ///
    /// # Panics
    ///
    /// If it has to wait, and the guard has a `max_wait` or `grant_timeout`, outside of a tokio runtime with a timer. If it
    /// is polled again after it completed.
    pub fn acquire(&self) -> Acquire<'_> {
        Acquire::new(self)
    }

    /// Waits for a turn, in the queue, with a permit that can move to another task.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire); errors and panics too.
    pub fn acquire_owned(self: Arc<Self>) -> AcquireOwned {
        SharedGuard::from(self).acquire_owned()
    }

    /// Takes a turn if one is free and nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`Busy`](AcquireError::Busy) or [`Closed`](AcquireError::Closed), at once.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, AcquireError> {
        let mut gate = self;
        gate.enter_now()?;
        Ok(Permit(Held::new(gate)))
    }

    /// Takes a turn if one is free and nobody waits for it, with a permit that can move to another task.
    ///
    /// # Errors
    ///
    /// [`Busy`](AcquireError::Busy) or [`Closed`](AcquireError::Closed), at once.
    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedPermit, AcquireError> {
        SharedGuard::from(self).try_acquire_owned()
    }

    /// Waits for a turn on this thread, in the same queue as the async callers.
    ///
    /// For plain threads and for `spawn_blocking`. In an async handler it is better to wait with
    /// [`acquire`](Self::acquire) and to move the permit into `spawn_blocking`: a client that leaves then gives up its
    /// place, and a caller that waits takes no thread.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), and [`BlockingInAsync`](AcquireError::BlockingInAsync) on a thread that
    /// runs tasks of a tokio runtime, whether the guard is free or not. (A task wrapped in tokio's `unconstrained` can't be
    /// told from a blocking thread, and is not refused.)
    pub fn acquire_blocking(&self) -> Result<Permit<'_>, AcquireError> {
        let mut gate = self;
        blocking::enter(&mut gate)?;
        Ok(Permit(Held::new(gate)))
    }

    /// Waits for a turn, runs `future` in it, and gives the turn back.
    ///
    /// Code inside `future` that acquires the same guard while it is full is refused with
    /// [`WouldDeadlock`](AcquireError::WouldDeadlock) instead of hanging. Two `run`s joined in one task just take
    /// turns. A task spawned by `future` counts as a caller of its own, but an executor that `future` itself drives, such
    /// as a `LocalSet`, polls its tasks inside.
    ///
    /// # Cancel safety
    ///
    /// Dropping the result drops `future` where it stands, then gives back the turn. Use
    /// [`run_to_completion`](Self::run_to_completion) for work that must not be cut in half.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), before `future` has started. What `future` returns is passed through.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire), and if `future` does.
    pub fn run<F: Future>(&self, future: F) -> Run<'_, F> {
        Run::new(self, future)
    }

    /// Waits for a turn and runs `future` in it to its end, though the caller may go away meanwhile.
    ///
    /// As Python's `asyncio.shield`: dropped while `future` runs, it hands `future` and the permit to a task on the
    /// runtime, where it goes on from where it is. Nothing is spawned otherwise. A panic in that task is counted and
    /// stays there.
    ///
    /// For a guard in an `Arc` there is [`run_to_completion_owned`](Self::run_to_completion_owned).
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, it leaves the queue and `future` never starts. Dropped afterwards, `future`
    /// runs to its end, as long as its runtime does; dropped outside of a runtime, it is cancelled.
    /// [`close`](Self::close) and [`drained`](Self::drained) wait for such runs at shutdown.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), before `future` has started.
    ///
    /// # Panics
    ///
    /// As [`acquire`](Self::acquire), and if `future` does while the caller is there.
    pub fn run_to_completion<F>(&'static self, future: F) -> RunToCompletion<F>
    where
        F: Future + Send + 'static,
    {
        RunToCompletion::new(SharedGuard::from(self), future)
    }

    /// Waits for a turn and runs `future` in it to its end, though the caller may go away meanwhile.
    ///
    /// As [`run_to_completion`](Self::run_to_completion), for a guard in an `Arc`.
    ///
    /// # Cancel safety
    ///
    /// As [`run_to_completion`](Self::run_to_completion).
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire), before `future` has started.
    ///
    /// # Panics
    ///
    /// As [`run_to_completion`](Self::run_to_completion).
    pub fn run_to_completion_owned<F>(self: Arc<Self>, future: F) -> RunToCompletion<F>
    where
        F: Future + Send + 'static,
    {
        RunToCompletion::new(SharedGuard::from(self), future)
    }

    /// Lets nobody in any more: callers that wait or come are refused with [`Closed`](AcquireError::Closed).
    ///
    /// Holders finish. Closing twice is the same as closing once; a guard does not open again.
    pub fn close(&self) {
        if self.lane.close() {
            self.core.drained.notify_waiters();
        }
    }

    /// Waits until the guard is closed and the last permit has come back, also from runs that outlive their callers.
    ///
    /// For shutdown: stop accepting, then `close()` and `drained().await`, under a time limit of your own, while the
    /// runtime of those runs still goes on. In actix-web that is before the server is stopped: see
    /// [`web::actix`](crate::web::actix#shutdown).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    ///
    /// # Panics
    ///
    /// If it has to wait, and the guard has a `grant_timeout`, outside of a tokio runtime with a timer.
    pub async fn drained(&self) {
        let expire = |now| {
            let mut gate = self;
            gate.expire(now);
        };
        self.core.drained(|| self.lane.is_drained(), expire).await;
    }

    /// What the guard has done so far and does right now. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        let tally = &self.lane.tally;
        self.core.stats(self.lane.permits(), self.lane.snapshot(), tally.queued.value(), tally.cancelled.value())
    }

    /// The name it was given.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.core.name
    }
}

impl HasCore for EndpointGuard {
    fn core(&self) -> &Core {
        &self.core
    }
}

/// The guard is its own gate: it has one lane.
impl<G: Deref<Target = EndpointGuard>> Gate for G {
    #[inline]
    fn core(&self) -> &Core {
        &self.core
    }

    #[inline]
    fn permits(&self) -> usize {
        self.lane.permits()
    }

    #[inline]
    fn waiting(&self) -> usize {
        self.lane.waiting()
    }

    #[inline]
    fn try_enter(&mut self) -> Result<(), Refused> {
        self.lane.try_enter()
    }

    fn join(&mut self, waker: &Waker) -> EnqueueOutcome {
        self.lane.join(waker)
    }

    fn ask(&mut self, ticket: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        self.lane.ask(ticket, waker)
    }

    fn give_up(&mut self, ticket: WaiterId) -> Option<WaitOutcome> {
        self.lane.give_up(ticket)
    }

    fn leave(&mut self, ticket: WaiterId) -> CancelOutcome {
        self.lane.leave(ticket, || self.core.grant_stamp())
    }

    #[inline]
    fn exit(&mut self) -> bool {
        self.lane.exit(|| self.core.grant_stamp())
    }

    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        self.lane.expire_grants(limit, now)
    }

    fn is_closed(&self) -> bool {
        self.lane.is_closed()
    }

    fn is_drained(&self) -> bool {
        self.lane.is_drained()
    }

    #[inline]
    fn scope(&self) -> Option<ScopeId> {
        let guard: &EndpointGuard = self;
        Some((std::ptr::from_ref(guard).addr(), 0))
    }
}

impl OwnedGate for SharedGuard {
    type Guard = Self;

    fn guard(&self) -> Self {
        self.clone()
    }
}

impl fmt::Debug for EndpointGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = self.lane.snapshot();
        f.debug_struct("EndpointGuard")
            .field("name", &self.core.name)
            .field("permits", &self.lane.permits())
            .field("held", &lane.held)
            .field("waiting", &lane.waiting)
            .field("closed", &lane.is_closed)
            .finish_non_exhaustive()
    }
}
