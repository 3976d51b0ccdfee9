//! Blocking waits: a check that blocking is allowed, and the waker of the current thread.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Handle;
use tokio::task::coop;

/// Returns a waker that unparks the current thread.
pub(crate) fn current_thread_waker() -> Waker {
    Waker::from(Arc::new(ThreadWaker(thread::current())))
}

struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Returns `true` if blocking the current thread would keep tasks of a tokio runtime from running.
///
/// tokio has no function for this question, only functions that panic. But tokio limits how much a task may do in one
/// poll, and lifts the limit where blocking is allowed: on the threads of `spawn_blocking`, inside `block_in_place` and
/// outside a runtime. If a limit exists, it is exhausted within 255 steps, since it is a `u8`. `unconstrained` lifts
/// the limit too, so a task wrapped in it looks like a thread that may block.
pub(crate) fn runs_async_tasks() -> bool {
    Handle::try_current().is_ok() && has_limited_budget()
}

fn has_limited_budget() -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    // The first step is dropped last, which restores the initial budget.
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
