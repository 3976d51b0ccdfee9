//! Waiting on a thread that may block: whether it may, and what wakes it.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Handle;
use tokio::task::coop;

/// Wakes this thread, which parks itself while it waits.
pub(crate) fn unparks_this_thread() -> Waker {
    Waker::from(Arc::new(Parked(thread::current())))
}

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
pub(crate) fn runs_async_tasks() -> bool {
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
