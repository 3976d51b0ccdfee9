//! [`EndpointGuard`], which admits a limited number of callers at once.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use super::acquire::{Acquire, AcquireOwned};
use super::blocking;
use super::builder::EndpointGuardBuilder;
use super::core::{GuardCore, HasGuardCore, WaitLimits};
use super::error::AcquireError;
use super::permit::{HeldPermit, OwnedPermit, Permit};
use super::run::{Run, RunToCompletion};
use super::source::{OwnedPermitSource, PermitSource};
use super::stats::GuardStats;
use crate::backend::{LockDomain, LockName};
use crate::debug::impl_debug;
use crate::name::intern;
use crate::panic::FirstPanic;
use crate::scope::{ScopeId, WHOLE_GUARD};
use crate::semaphore::{
    CancelOutcome, EnqueueOutcome, ReleaseOutcome, Semaphore, SemaphoreRefusal, WaitOutcome, WaiterId,
};
use crate::shared::{Shareable, Shared};
use crate::sync::const_unless_loom;

/// Admits one caller at a time, or N callers, in the order of their arrival. A guard works within one process, or, if
/// it is [distributed](super::GuardBuilder::distributed), over all processes of a host or of a cluster.
///
/// A guard is a plain value, like tokio's `Mutex`: put it in a `static`, or share it in an `Arc`. Use one guard for all
/// requests, not one per request. It contains no data; it guards a piece of work, such as a handler.
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
/// By default, callers are served strictly in the order of their arrival ([`Order::Fifo`](super::Order::Fifo)). A
/// released permit goes directly to the caller that has waited longest and is never available in between, so no caller
/// overtakes another. A caller's position is decided by the first poll of its future, not by the call.
///
/// # Panics and cancellation
///
/// Dropping a permit releases it, even during a panic: nothing is poisoned. Dropping the future of a waiting caller
/// cancels the wait: the caller is removed from the queue, and a permit that had just been granted to it goes to the
/// next caller.
///
/// # When not to use it
///
/// To protect data, use `tokio::sync::Mutex`, or `std::sync::Mutex` if nothing is awaited while it is locked. To limit
/// the rate of calls rather than the number of concurrent calls, use a rate limiter.
pub struct EndpointGuard {
    semaphore: Semaphore,
    core: GuardCore,
}

/// An [`EndpointGuard`] that outlives its users.
pub type SharedGuard = Shared<EndpointGuard>;

impl EndpointGuard {
    const_unless_loom! {
        /// Creates a guard for one caller at a time, in order, with an unbounded queue.
        ///
        /// `name` identifies the guard in [`stats`](Self::stats) and in logs. It need not be unique.
        #[must_use]
        pub fn new(name: &'static str) -> Self {
            Self::builder(name).build()
        }
    }

    /// Returns a builder for a guard with other settings.
    pub const fn builder(name: &'static str) -> EndpointGuardBuilder {
        EndpointGuardBuilder::new(name)
    }

    /// Returns a builder with a name that is not known at compile time, such as one from a configuration file.
    ///
    /// Each distinct name is kept until the process exits, so name routes, not users.
    pub fn builder_named(name: impl Into<Cow<'static, str>>) -> EndpointGuardBuilder {
        Self::builder(intern(name.into()))
    }

    const_unless_loom! {
        pub(super) fn from_parts(
            name: &'static str,
            semaphore: Semaphore,
            limits: WaitLimits,
            domain: Option<&'static LockDomain>,
        ) -> Self {
            Self { semaphore, core: GuardCore::new(name, limits, domain) }
        }
    }

    /// Waits in the queue for a permit.
    ///
    /// The future can be polled by hand, moved, and dropped by `select!`. The permit of a guard in a `static` is a
    /// `Permit<'static>`: it can move into a task, or into `spawn_blocking`.
    ///
    /// Bind the permit to a name: `let _ = guard.acquire().await?;` releases it at once, and the compiler does not
    /// warn. Clippy's lint `let_underscore_must_use` detects the mistake.
    ///
    /// A caller that acquires a second permit while it holds the first waits for itself forever. [`run`](Self::run) and
    /// the web layers detect this; between two calls of `acquire` only `max_wait` ends the wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes the caller from the queue. A permit that had already been granted goes to the next
    /// caller: no permit is lost.
    ///
    /// # Errors
    ///
    /// Returns [`QueueFull`](crate::guard::AcquireErrorKind::QueueFull) or
    /// [`Busy`](crate::guard::AcquireErrorKind::Busy) at once if no more callers may wait,
    /// [`Timeout`](crate::guard::AcquireErrorKind::Timeout) after `max_wait`,
    /// [`GrantExpired`](crate::guard::AcquireErrorKind::GrantExpired) if a permit was granted but the future was not
    /// polled, [`WouldDeadlock`](crate::guard::AcquireErrorKind::WouldDeadlock) inside [`run`](Self::run),
    /// [`run_to_completion`](Self::run_to_completion) or a web layer of the same guard if it is full, and
    /// [`Closed`](crate::guard::AcquireErrorKind::Closed) after [`close`](Self::close).
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with a timer if it has to wait and the guard has a `max_wait` or a
    /// `grant_timeout`. Panics if it is polled again after it completed.
    pub fn acquire(&self) -> Acquire<'_> {
        Acquire::new(self)
    }

    /// Waits in the queue for a permit that can move to another task.
    ///
    /// # Cancel safety
    ///
    /// See [`acquire`](Self::acquire), which also describes errors and panics.
    pub fn acquire_owned(self: Arc<Self>) -> AcquireOwned {
        SharedGuard::from(self).acquire_owned()
    }

    /// Acquires a permit if one is available and no caller is waiting.
    ///
    /// # Errors
    ///
    /// Returns [`Busy`](crate::guard::AcquireErrorKind::Busy) or [`Closed`](crate::guard::AcquireErrorKind::Closed), at
    /// once.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, AcquireError> {
        HeldPermit::try_acquire(self)
    }

    /// Acquires a permit that can move to another task, if one is available and no caller is waiting.
    ///
    /// # Errors
    ///
    /// Returns [`Busy`](crate::guard::AcquireErrorKind::Busy) or [`Closed`](crate::guard::AcquireErrorKind::Closed), at
    /// once.
    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedPermit, AcquireError> {
        SharedGuard::from(self).try_acquire_owned()
    }

    /// Waits for a permit on the current thread, in the same queue as the async callers.
    ///
    /// Use it on plain threads and in `spawn_blocking`. In an async handler it is better to wait with
    /// [`acquire`](Self::acquire) and to move the permit into `spawn_blocking`: then a request whose client disconnects
    /// leaves the queue, and a waiting caller occupies no thread.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), and
    /// [`BlockingInAsync`](crate::guard::AcquireErrorKind::BlockingInAsync) on a thread that runs tasks of a tokio
    /// runtime, even if a permit is available. (A task wrapped in tokio's `unconstrained` looks like a blocking thread
    /// and is not refused.)
    pub fn acquire_blocking(&self) -> Result<Permit<'_>, AcquireError> {
        blocking::acquire(self)
    }

    /// Waits on the current thread for a permit that can move to another task or thread.
    ///
    /// # Errors
    ///
    /// See [`acquire_blocking`](Self::acquire_blocking).
    pub fn acquire_owned_blocking(self: Arc<Self>) -> Result<OwnedPermit, AcquireError> {
        SharedGuard::from(self).acquire_owned_blocking()
    }

    /// Waits for a permit, runs `future` while holding it, and releases it.
    ///
    /// Code in `future` that acquires the same guard while it is full is refused with
    /// [`WouldDeadlock`](crate::guard::AcquireErrorKind::WouldDeadlock) instead of waiting forever. Two `run`s joined
    /// in one task simply run one after the other. The same refusal applies to work that this crate moves to another
    /// thread. A task that `future` spawns itself is a separate caller: see [nested use](crate::guard#nested-use).
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops `future` at its current await point, then releases the permit. Use
    /// [`run_to_completion`](Self::run_to_completion) for work that must not be interrupted.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), before `future` has started. The output of `future` is passed
    /// through.
    ///
    /// # Panics
    ///
    /// See [`acquire`](Self::acquire). A panic of `future` is passed through.
    pub fn run<F: Future>(&self, future: F) -> Run<'_, F> {
        Run::new(self, future)
    }

    /// Waits for a permit and runs `future` to completion while holding it, even if the caller is cancelled.
    ///
    /// Works like Python's `asyncio.shield`: if the returned future is dropped while `future` runs, `future` and the
    /// permit move to a task on the runtime, where `future` continues from its current await point, in the tracing span
    /// of its first poll. Otherwise nothing is spawned. A panic in that task is counted but not propagated.
    ///
    /// For a guard in an `Arc`, use [`run_to_completion_owned`](Self::run_to_completion_owned).
    ///
    /// # Cancel safety
    ///
    /// If the returned future is dropped while it waits for a permit, the caller is removed from the queue and `future`
    /// never starts. If it is dropped later, `future` runs to completion as long as its runtime exists; if it is
    /// dropped outside a runtime, `future` is cancelled. [`close`](Self::close) and [`drained`](Self::drained) wait for
    /// such runs at shutdown.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), before `future` has started.
    ///
    /// # Panics
    ///
    /// See [`acquire`](Self::acquire). A panic of `future` is passed through unless the caller was cancelled.
    pub fn run_to_completion<F>(&'static self, future: F) -> RunToCompletion<F>
    where
        F: Future + Send + 'static,
    {
        SharedGuard::from(self).run_to_completion(future)
    }

    /// Waits for a permit and runs `future` to completion while holding it, even if the caller is cancelled.
    ///
    /// Does the same as [`run_to_completion`](Self::run_to_completion), for a guard in an `Arc`.
    ///
    /// # Cancel safety
    ///
    /// See [`run_to_completion`](Self::run_to_completion).
    ///
    /// # Errors
    ///
    /// Returns the errors of [`acquire`](Self::acquire), before `future` has started.
    ///
    /// # Panics
    ///
    /// See [`run_to_completion`](Self::run_to_completion).
    pub fn run_to_completion_owned<F>(self: Arc<Self>, future: F) -> RunToCompletion<F>
    where
        F: Future + Send + 'static,
    {
        SharedGuard::from(self).run_to_completion(future)
    }

    /// Closes the guard: waiting and new callers are refused with [`Closed`](crate::guard::AcquireErrorKind::Closed).
    ///
    /// Holders keep their permits. Closing a closed guard has no effect; a guard cannot be reopened.
    pub fn close(&self) {
        let mut panics = FirstPanic::default();
        panics.run(|| self.semaphore.close());
        if self.semaphore.is_drained() {
            self.core.notify_drained();
        }
        panics.propagate();
    }

    /// Returns `true` if the guard was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.semaphore.is_closed()
    }

    /// Waits until the guard is closed and the last permit has been released, including the permits of runs that
    /// continue without a caller. Does not wait for permits that were [forgotten](super::HeldPermit::forget).
    ///
    /// To shut down, stop accepting connections, then call `close()` and `drained().await`, with a time limit of your
    /// choice, while the runtime of those runs still exists. In actix-web, do so before the server is stopped: see
    /// [`web::actix`](crate::web::actix#shutdown).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with a timer if it has to wait and the guard has a `grant_timeout`.
    pub async fn drained(&self) {
        let expire = |now| {
            let mut source = self;
            source.expire(now);
        };
        self.core.drained(|| self.semaphore.is_drained(), expire).await;
    }

    /// Returns a snapshot of the guard's state and counters. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        self.core.stats(self.semaphore.permits(), self.semaphore.snapshot(), self.semaphore.counters.totals())
    }

    /// Returns the guard's name.
    #[must_use]
    pub const fn name(&self) -> &str {
        self.core.name
    }
}

#[cfg(feature = "background")]
impl EndpointGuard {
    /// Returns the domain over which the guard is distributed.
    pub(crate) fn domain(&self) -> Option<&'static LockDomain> {
        self.core.domain
    }
}

impl Shareable for EndpointGuard {}

impl HasGuardCore for EndpointGuard {
    fn core(&self) -> &GuardCore {
        &self.core
    }
}

/// A reference to the guard is a source of its permits: the guard has one semaphore.
impl<G: Deref<Target = EndpointGuard>> PermitSource for G {
    #[inline]
    fn core(&self) -> &GuardCore {
        &self.core
    }

    #[inline]
    fn permits(&self) -> usize {
        self.semaphore.permits()
    }

    fn waits(&self) -> bool {
        self.semaphore.has_queue()
    }

    #[inline]
    fn waiting(&self) -> usize {
        self.semaphore.waiting()
    }

    #[inline]
    fn try_acquire(&mut self) -> Result<(), SemaphoreRefusal> {
        self.semaphore.try_acquire(())
    }

    fn enqueue(&mut self, waker: &Waker) -> EnqueueOutcome {
        self.semaphore.enqueue((), waker)
    }

    fn poll(&mut self, waiter: &mut Option<WaiterId>, waker: &Waker) -> Option<WaitOutcome> {
        self.semaphore.poll(waiter, waker)
    }

    fn poll_final(&mut self, waiter: WaiterId) -> Option<WaitOutcome> {
        self.semaphore.poll_final(waiter)
    }

    fn cancel(&mut self, waiter: WaiterId) -> CancelOutcome {
        self.semaphore.cancel(waiter, || self.core.grant_time())
    }

    #[inline]
    fn release(&mut self) -> ReleaseOutcome {
        self.semaphore.release(|| self.core.grant_time())
    }

    fn forget(&mut self) -> bool {
        self.semaphore.forget()
    }

    fn expire_grants(&mut self, limit: Instant, now: Instant) -> (usize, Option<Instant>) {
        self.semaphore.expire_grants(limit, now)
    }

    fn is_closed(&self) -> bool {
        self.semaphore.is_closed()
    }

    fn lock_name(&self) -> LockName {
        LockName::new(self.core.name, None)
    }

    fn is_drained(&self) -> bool {
        self.semaphore.is_drained()
    }

    #[inline]
    fn scope(&self) -> Option<ScopeId> {
        let guard: &EndpointGuard = self;
        Some((std::ptr::from_ref(guard).addr(), WHOLE_GUARD))
    }
}

impl OwnedPermitSource for SharedGuard {
    type Guard = Self;

    fn guard(&self) -> Self {
        self.clone()
    }
}

impl_debug!(EndpointGuard |this| {
    name: this.core.name, permits: this.semaphore.permits(), held: this.semaphore.snapshot().held,
    waiting: this.semaphore.snapshot().waiting, closed: this.semaphore.snapshot().is_closed, ..
});
