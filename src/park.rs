//! Blocking waits: a check that blocking is allowed, and the waker of the current thread.

#[cfg(feature = "offload")]
use std::future::{Future, poll_fn};
#[cfg(feature = "offload")]
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Handle;
use tokio::task::coop;
#[cfg(feature = "offload")]
use tokio::task::coop::unconstrained;

#[cfg(feature = "offload")]
use crate::panic::{catch, with_hook_muted};

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

/// Runs `work` as on a thread that may block, inside `block_on` of a runtime. Returns `false`, and does not run `work`,
/// where tokio can't do that: inside `block_on` of a `current_thread` [`Runtime`](tokio::runtime::Runtime), whose tasks
/// would not run meanwhile, and inside a `LocalSet`.
#[cfg(feature = "offload")]
pub(crate) fn block_in_place(work: impl FnOnce()) -> bool {
    // tokio refuses with a panic, and has no other way to ask.
    if cfg!(panic = "abort") {
        return false;
    }
    let mut work = Some(work);
    let mut run = || {
        tokio::task::block_in_place(|| {
            if let Some(work) = work.take() {
                with_hook_muted(false, work);
            }
        });
        Poll::Ready(())
    };
    // Outside of a thread of the scheduler, `block_in_place` lifts the limit of the task's budget for good, and not
    // only for `work`. `unconstrained` restores it.
    let mut future = pin!(unconstrained(poll_fn(|_| run())));
    let poll = || future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    with_hook_muted(true, || catch(poll)).is_ok()
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
