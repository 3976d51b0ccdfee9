//! Work that runs inside a guard, and goes on without its caller if it must.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Sleep, sleep};

use super::core::{Core, Gate, HasCore, OwnedGate};
use super::permit::Held;
use crate::guard::trace;

/// Polls work that holds `permit`, in the scope of its lane.
///
/// If it panics, the permit is given back at once: the panic may be caught further out, and the work never dropped.
pub(crate) fn poll_inside<F: Future + ?Sized, G: Gate>(
    permit: &mut Option<Held<G>>,
    work: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    struct ReleaseOnPanic<'a, P> {
        permit: &'a mut Option<P>,
        returned: bool,
    }
    impl<P> Drop for ReleaseOnPanic<'_, P> {
        fn drop(&mut self) {
            if !self.returned {
                *self.permit = None;
            }
        }
    }

    let scope = permit.as_ref().expect("work is not polled after it panicked").enter_scope();
    let mut release = ReleaseOnPanic { permit, returned: false };
    let poll = work.poll(cx);
    drop(scope);
    release.returned = true;
    poll
}

/// Work and the permit that it holds.
pub(crate) struct Inside<F, G: Gate> {
    // Before the permit: what is left of the work is dropped while nobody else is inside.
    work: Pin<Box<F>>,
    /// `None` once the work has panicked.
    permit: Option<Held<G>>,
}

impl<F: Future, G: Gate> Inside<F, G> {
    pub(crate) fn new(work: Pin<Box<F>>, permit: Held<G>) -> Self {
        Self { work, permit: Some(permit) }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        poll_inside(&mut self.permit, self.work.as_mut(), cx)
    }

    /// The permit, once the work has returned.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    pub(crate) fn into_permit(self) -> Option<Held<G>> {
        self.permit
    }

    /// Goes on without the caller, for `max_run` at most.
    pub(crate) fn detach(self, max_run: Option<Duration>) -> Option<Detached<F, G>>
    where
        G: OwnedGate,
    {
        let guard = self.permit.as_ref()?.gate().guard();
        let core = guard.core();
        trace::detached(core.name);
        core.counters.detached.add(1);
        Some(Detached { inside: Some(self), guard, max_run, deadline: None })
    }
}

/// Work whose caller has left. The permit is given back when it ends, is cut off by its limit, or is dropped with its
/// runtime.
pub(crate) struct Detached<F: Future, G: OwnedGate> {
    /// `None` once it has ended.
    inside: Option<Inside<F, G>>,
    guard: G::Guard,
    max_run: Option<Duration>,
    /// Set at the first poll: it needs the runtime's timer, and the caller may leave in a destructor.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<F: Future, G: OwnedGate> Future for Detached<F, G> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(inside) = &mut this.inside else { return Poll::Ready(()) };
        // The output is dropped here, before the permit.
        if inside.poll(cx).map(drop).is_ready() {
            this.core().counters.finished_detached.add(1);
            this.inside = None;
            return Poll::Ready(());
        }
        let Some(max_run) = this.max_run else { return Poll::Pending };
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(max_run)));
        // Whatever the work left of the task's budget.
        ready!(Pin::new(&mut coop::unconstrained(deadline.as_mut())).poll(cx));
        this.cut_off("it ran longer than max_run after its caller had left");
        Poll::Ready(())
    }
}

impl<F: Future, G: OwnedGate> Detached<F, G> {
    fn core(&self) -> &Core {
        self.guard.core()
    }

    fn cut_off(&mut self, reason: &str) {
        // None of a panic's: what is left of that work has no permit any more.
        if self.inside.take().is_some_and(|inside| inside.permit.is_some()) {
            self.core().counters.cut_off.add(1);
            trace::cut_off(self.core().name, reason);
        }
    }
}

// The work has a box of its own, and nothing else is polled in place.
impl<F: Future, G: OwnedGate> Unpin for Detached<F, G> {}

impl<F: Future, G: OwnedGate> Drop for Detached<F, G> {
    fn drop(&mut self) {
        self.cut_off("its runtime ended: close the guard and wait for drained() before that");
        self.core().counters.gone_detached.add(1);
    }
}
