//! Waiting for a turn on a thread that may block: the same queue, a parked thread instead of a task.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Handle;
use tokio::task::coop;
use tokio::time::Instant;

use super::core::Gate;
use super::error::AcquireError;
use super::wait::Wait;

/// Waits on this thread until a permit is the caller's.
pub(super) fn enter(gate: &mut impl Gate) -> Result<(), AcquireError> {
    if runs_async_tasks() {
        return Err(gate.core().refuse(AcquireError::BlockingInAsync));
    }
    if gate.try_enter().is_ok() {
        return Ok(());
    }
    let waker = Waker::from(Arc::new(Parked(thread::current())));
    let mut place = Place { gate, wait: Wait::default() };
    let mut result = place.wait.line_up(place.gate, &waker);
    loop {
        if let Some(result) = result {
            return result;
        }
        park_until(place.wait.next_look());
        // Last the question whether the turn has come: it leaves no wake-up unseen.
        result = place.wait.look_up(place.gate, Instant::now()).or_else(|| place.wait.ask(place.gate, &waker));
    }
}

/// Gives the place in the queue up if a panic ends the wait: taking back a grant wakes its next owner, in foreign code.
struct Place<'a, G: Gate> {
    gate: &'a mut G,
    wait: Wait,
}

impl<G: Gate> Drop for Place<'_, G> {
    fn drop(&mut self) {
        self.wait.abandon(self.gate);
    }
}

fn park_until(at: Option<Instant>) {
    match at {
        None => thread::park(),
        Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
    }
}

/// Wakes a parked thread.
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Whether blocking here would keep tasks of a tokio runtime from running.
///
/// tokio offers no such question, only calls that panic. But it limits how much a task may do in one poll, and lifts
/// the limit where blocking is allowed: on the threads of `spawn_blocking`, inside `block_in_place`, outside of a
/// runtime. A limit that runs out within 255 steps (it is a `u8`) is there. `unconstrained` lifts it too, so a task
/// wrapped in it is taken for a thread that may block.
fn runs_async_tasks() -> bool {
    Handle::try_current().is_ok() && has_limited_budget()
}

fn has_limited_budget() -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    // The first step restores the budget as it was when it is dropped, after all others.
    let Poll::Ready(_restore) = coop::poll_proceed(&mut cx) else { return true };
    for _ in 0..u8::MAX {
        if !coop::has_budget_remaining() {
            return true;
        }
        if let Poll::Ready(step) = coop::poll_proceed(&mut cx) {
            step.made_progress();
        }
    }
    false
}
