//! Waiting for a permit on a thread that may block: the same queue, with a parked thread instead of a task.

use std::thread;

use tokio::time::Instant;

use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::permit::HeldPermit;
use super::remote::RemoteWait;
use super::source::PermitSource;
use super::wait::PermitWait;
use crate::park::{current_thread_waker, runs_async_tasks};

/// Waits on the current thread until the caller holds a permit.
pub(super) fn acquire<S: PermitSource>(mut source: S) -> Result<HeldPermit<S>, AcquireError> {
    if runs_async_tasks() {
        return Err(PermitWait::default().refuse_as(&source, AcquireErrorKind::BlockingInAsync));
    }
    let began = if source.try_acquire().is_err() { wait(&mut source)? } else { None };
    match source.core().domain {
        None => Ok(HeldPermit::new(source)),
        Some(domain) => RemoteWait::new(HeldPermit::new(source), domain, began)?.block(),
    }
}

/// Returns when the caller began to wait, if the guard has a time limit.
fn wait(source: &mut impl PermitSource) -> Result<Option<Instant>, AcquireError> {
    let waker = current_thread_waker();
    let mut waiter = CancelOnDrop { source, wait: PermitWait::default() };
    let mut result = waiter.wait.enqueue(waiter.source, &waker);
    loop {
        if let Some(result) = result {
            return result.map(|()| waiter.wait.began());
        }
        park_until(waiter.wait.next_deadline());
        // The waiter is polled after its deadlines, so that no wake-up is missed.
        result = waiter
            .wait
            .poll_deadlines(waiter.source, Instant::now())
            .or_else(|| waiter.wait.poll(waiter.source, &waker));
    }
}

/// Cancels the waiter if a panic ends the wait. Revoking a grant wakes the next waiter, and its waker is user code.
struct CancelOnDrop<'a, S: PermitSource> {
    source: &'a mut S,
    wait: PermitWait,
}

impl<S: PermitSource> Drop for CancelOnDrop<'_, S> {
    fn drop(&mut self) {
        self.wait.leave(self.source);
    }
}

fn park_until(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
    }
}
