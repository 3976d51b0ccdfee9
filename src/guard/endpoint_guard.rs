//! [`EndpointGuard`], the gate a request passes before its handler runs.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::acquire::{Acquire, AcquireOwned};
use super::blocking;
use super::builder::EndpointGuardBuilder;
use super::error::AcquireError;
use super::lane::{Lane, Refused};
use super::permit::{Held, OwnedPermit, Permit};
use super::retry::{HoldTime, RetryEstimate};
use super::run::{Run, RunToCompletion};
use super::shared::SharedGuard;
use super::stats::{Counters, GuardStats};
use super::wait::Limits;
use crate::trace;

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
    pub(super) lane: Lane,
    pub(super) hold_time: HoldTime,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    drained: Notify,
    name: &'static str,
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

    pub(super) const fn from_parts(name: &'static str, lane: Lane, limits: Limits) -> Self {
        Self { lane, hold_time: HoldTime::new(), limits, counters: Counters::new(), drained: Notify::const_new(), name }
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
        self.enter_now()?;
        Ok(Permit(Held::new(self)))
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
        blocking::enter(self).map(|()| Permit(Held::new(self)))
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
        Run::new(self.acquire(), future)
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
            self.drained.notify_waiters();
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
        loop {
            // Registered before the look, so that no announcement falls in between.
            let announced = self.drained.notified();
            if self.lane.is_drained() {
                return;
            }
            match self.limits.grant_timeout {
                None => announced.await,
                // Nobody waits any more, so nobody else watches over a turn that nobody takes.
                Some(limit) => {
                    if timeout(limit, announced).await.is_err() {
                        self.expire_grants(Instant::now());
                    }
                }
            }
        }
    }

    /// What the guard has done so far and does right now. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        let lane = self.lane.snapshot();
        let counters = &self.counters;
        GuardStats {
            name: self.name,
            permits: self.lane.permits(),
            held: lane.held,
            waiting: lane.waiting,
            detached: counters.detached.value().saturating_sub(counters.gone_detached.value()),
            closed: lane.is_closed,
            mean_hold: self.hold_time.mean(),
            granted: lane.granted,
            queued: self.lane.queued.value(),
            refused: counters.refused.value(),
            timed_out: counters.timed_out.value(),
            cancelled: self.lane.cancelled.value(),
            expired: counters.expired.value(),
            panicked: counters.panicked.value(),
            finished_detached: counters.finished_detached.value(),
            cut_off: counters.cut_off.value(),
            overrun: counters.overrun.value(),
        }
    }

    /// The name it was given.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Counts a permit that went on before its response body had ended.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn count_overrun(&self) {
        self.counters.overrun.add(1);
        trace::overrun(self.name);
    }

    #[inline]
    pub(super) fn give_back(&self) {
        if self.lane.exit(|| self.grant_stamp()) {
            self.drained.notify_waiters();
        }
    }

    /// Takes a permit without waiting, also one whose grant has expired.
    #[inline]
    pub(super) fn enter_now(&self) -> Result<(), AcquireError> {
        let Err(refused) = self.lane.try_enter() else { return Ok(()) };
        if self.limits.grant_timeout.is_some() && self.expire_grants_now() && self.lane.try_enter().is_ok() {
            return Ok(());
        }
        Err(self.error(refused))
    }

    #[inline]
    pub(super) fn error(&self, refused: Refused) -> AcquireError {
        match refused {
            Refused::Busy => AcquireError::Busy { retry: self.retry_estimate() },
            Refused::Full => AcquireError::QueueFull { retry: self.retry_estimate() },
            Refused::Closed => AcquireError::Closed,
        }
    }

    /// Counts a caller that is turned away at once.
    pub(super) fn refuse(&self, error: AcquireError) -> AcquireError {
        self.counters.refused.add(1);
        trace::refused(self.name, &error);
        error
    }

    #[inline]
    pub(super) fn retry_estimate(&self) -> RetryEstimate {
        self.hold_time.ask();
        self.hold_time.estimate(self.lane.waiting(), self.lane.permits())
    }

    /// The time of a grant, where grants expire.
    pub(super) fn grant_stamp(&self) -> Option<Instant> {
        self.limits.grant_timeout.map(|_| Instant::now())
    }

    /// Takes back the grants that nobody took in time. Returns whether there were any.
    #[cold]
    pub(super) fn expire_grants_now(&self) -> bool {
        self.limits.grant_timeout.is_some() && self.expire_grants(Instant::now()).0 > 0
    }

    /// Takes back the grants that nobody took in time. Returns how many, and when the oldest that stands was made.
    pub(super) fn expire_grants(&self, now: Instant) -> (usize, Option<Instant>) {
        let Some(limit) = self.limits.grant_timeout.and_then(|timeout| now.checked_sub(timeout)) else {
            return (0, None);
        };
        let (expired, oldest) = self.lane.expire_grants(limit, now);
        if expired > 0 {
            self.counters.expired.add(expired as u64);
            trace::expired(self.name, expired);
            self.announce_if_drained();
        }
        (expired, oldest)
    }

    pub(super) fn announce_if_drained(&self) {
        if self.lane.is_drained() {
            self.drained.notify_waiters();
        }
    }
}

impl fmt::Debug for EndpointGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = self.lane.snapshot();
        f.debug_struct("EndpointGuard")
            .field("name", &self.name)
            .field("permits", &self.lane.permits())
            .field("held", &lane.held)
            .field("waiting", &lane.waiting)
            .field("closed", &lane.is_closed)
            .finish_non_exhaustive()
    }
}
