//! [`GuardedWork`], work that runs inside a guard and can continue without its caller.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Sleep, sleep};

use super::core::{GuardCore, HasGuardCore};
use super::key_map::Hash64;
use super::lease_loss::LeaseLoss;
use super::permit::HeldPermit;
use super::source::{OwnedPermitSource, PermitSource};
use super::trace;
use crate::backend::Lease;
use crate::caller_trace::CallerTrace;
use crate::detached::DetachedEntry;
use crate::panic::{catch, discard};
use crate::scope::CallerScopes;

/// Why work without its caller was dropped, other than by `max_run`.
const DROPPED: &str = "its runtime ended, or its caller was dropped outside of a runtime: \
                       close the guard and wait for drained() before the runtime ends";

/// Polls work that holds `permit`, in the scope of its guard.
///
/// If the work panics, the permit is released at once: a caller may catch the panic and never drop the work.
pub(super) fn poll_with_permit<F: Future + ?Sized, S: PermitSource>(
    permit: &mut Option<HeldPermit<S>>,
    work: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    struct ReleaseOnPanic<'a, P> {
        permit: &'a mut Option<P>,
        has_returned: bool,
    }
    impl<P> Drop for ReleaseOnPanic<'_, P> {
        fn drop(&mut self) {
            if !self.has_returned {
                *self.permit = None;
            }
        }
    }

    let mut release = ReleaseOnPanic { permit, has_returned: false };
    let permit = release.permit.as_mut().expect("work is not polled after it panicked");
    let current = permit.lease().and_then(Lease::enter);
    let scope = permit.enter_scope();
    let poll = work.poll(cx);
    drop(scope);
    drop(current);
    release.has_returned = true;
    poll
}

/// Work and the permit that it holds.
pub(crate) struct GuardedWork<F, S: PermitSource> {
    // Dropped before the permit, so that no other caller runs inside the guard while the work is being dropped.
    work: Pin<Box<F>>,
    /// `None` once the work has panicked.
    permit: Option<HeldPermit<S>>,
    /// The span and the subscriber of the first poll, in which the work continues without its caller. `None` until the
    /// first poll has returned `Pending`. They can't be read later, because a layer need not enter its span when it
    /// drops the work.
    trace: Option<CallerTrace>,
    /// The scopes of the guards that the caller is inside, which are in effect while the caller waits for the work.
    /// `None` until the first poll.
    outer: Option<CallerScopes>,
    /// `None` if the loss of a lease does not end the work.
    lost: Option<LeaseLoss>,
}

impl<F: Future, S: PermitSource> GuardedWork<F, S> {
    pub(crate) fn new(work: Pin<Box<F>>, permit: HeldPermit<S>) -> Self {
        Self { work, permit: Some(permit), trace: None, outer: None, lost: None }
    }

    /// Creates the work of a web layer, which ends if the lease of a distributed guard is lost.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn of_layer(work: Pin<Box<F>>, permit: HeldPermit<S>) -> Self {
        Self { lost: LeaseLoss::of(&permit), ..Self::new(work, permit) }
    }

    /// Polls the work. Returns `None` if it ended because its lease was lost.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn poll_unless_lost(&mut self, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        if self.poll_lost(cx).is_ready() {
            return Poll::Ready(None);
        }
        self.poll(cx).map(Some)
    }

    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.lost.as_mut().map_or(Poll::Pending, |lost| lost.poll(cx))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _outer = self.outer.get_or_insert_with(CallerScopes::capture).enter();
        let poll = poll_with_permit(&mut self.permit, self.work.as_mut(), cx);
        if poll.is_pending() && self.trace.is_none() {
            self.trace = Some(CallerTrace::capture());
        }
        poll
    }

    /// Takes the permit. Called once the work has completed. The caller drops the work before the permit.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn take_permit(&mut self) -> Option<HeldPermit<S>> {
        self.permit.take()
    }

    /// Lets the work continue without its caller, for at most `max_run`.
    pub(crate) fn detach(self, max_run: Option<Duration>) -> Option<DetachedWork<F, S>>
    where
        S: OwnedPermitSource,
    {
        let permit = self.permit.as_ref()?;
        let guard = permit.source().guard();
        let core = guard.core();
        let caller = self.trace.clone().unwrap_or_default();
        // Work is also detached while its caller unwinds, and subscribers are user code.
        let key_hash = catch(|| caller.enter(|| trace::detached(permit.source()))).ok().flatten();
        if let Some(outer) = &self.outer {
            outer.release();
        }
        core.counters.detached.add(1);
        let entry = DetachedEntry::new(core.name);
        Some(DetachedWork { work: Some(self), guard, key_hash, caller, entry, max_run, deadline: None })
    }
}

/// Work that continues without its caller. It releases its permit when it completes, when its time limit cuts it off,
/// or when it is dropped: with its runtime, or at once where no runtime is.
pub(crate) struct DetachedWork<F: Future, S: OwnedPermitSource> {
    /// `None` once the work has ended.
    work: Option<GuardedWork<F, S>>,
    guard: S::Guard,
    /// The hash of the key for events. `None` without a key, or if the events are disabled.
    key_hash: Option<Hash64>,
    caller: CallerTrace,
    // Dropped after the work and its span, so that `detached::drained` completes only when both are gone.
    entry: DetachedEntry,
    max_run: Option<Duration>,
    /// Created at the first poll, because it needs the runtime's timer and the work may be detached in a destructor.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<F: Future, S: OwnedPermitSource> Future for DetachedWork<F, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let caller = self.caller.clone();
        caller.enter(|| self.poll_work(cx))
    }
}

impl<F: Future, S: OwnedPermitSource> DetachedWork<F, S> {
    fn core(&self) -> &GuardCore {
        self.guard.core()
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.work else { return Poll::Ready(()) };
        if work.poll_lost(cx).is_ready() {
            self.cut_off("the lease of its distributed guard was lost");
            return Poll::Ready(());
        }
        if let Poll::Ready(output) = work.poll(cx) {
            self.core().counters.finished_detached.add(1);
            self.entry.finish();
            // Dropped before the permit. The destructors are user code, and the work has finished whatever they do.
            discard(output);
            self.work = None;
            return Poll::Ready(());
        }
        let Some(max_run) = self.max_run else { return Poll::Pending };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(max_run)));
        // The deadline is polled even if the work has used up the task's budget.
        ready!(Pin::new(&mut coop::unconstrained(deadline.as_mut())).poll(cx));
        self.cut_off("it ran longer than max_run without its caller");
        Poll::Ready(())
    }

    fn cut_off(&mut self, reason: &str) {
        // Work that panicked no longer has a permit: the work has ended and is not counted.
        if self.work.as_ref().is_some_and(|work| work.permit.is_none()) {
            self.entry.finish();
            trace::panicked(self.core(), self.key_hash);
        }
        if self.work.take().is_some_and(|work| work.permit.is_some()) {
            self.core().counters.cut_off.add(1);
            trace::cut_off(self.core(), self.key_hash, reason);
        }
    }
}

// The work is boxed, and nothing else is structurally pinned.
impl<F: Future, S: OwnedPermitSource> Unpin for DetachedWork<F, S> {}

impl<F: Future, S: OwnedPermitSource> Drop for DetachedWork<F, S> {
    fn drop(&mut self) {
        // First, since the destructor of the work may panic.
        self.core().counters.ended_detached.add(1);
        let (caller, reason) = (self.caller.clone(), DROPPED);
        let _ = catch(|| caller.enter(|| self.cut_off(reason)));
        // Has an effect only if the subscriber panicked on entering the span.
        self.cut_off(reason);
    }
}
