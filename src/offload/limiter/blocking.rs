//! Waiting for tokens on a thread that may block: the same queue, a parked thread instead of a task.

use std::task::Poll;
use std::thread;

use super::acquire::Acquiring;
use super::capacity_limiter::CapacityLimiter;
use super::error::LimiterError;
use super::permit::Held;
use super::semaphores::Ask;
use crate::park::{current_thread_waker, runs_async_tasks};

/// Waits on this thread until what it asks for is lent.
pub(super) fn acquire(limiter: &CapacityLimiter, ask: Ask) -> Result<Held<&CapacityLimiter>, LimiterError> {
    if runs_async_tasks() {
        return Err(LimiterError::BlockingInAsync);
    }
    let mut acquiring = Acquiring::new(limiter, ask);
    if let Some(loan) = acquiring.try_lend() {
        return acquiring.end(Ok(loan));
    }
    let waker = current_thread_waker();
    loop {
        if let Poll::Ready(result) = acquiring.poll_turn(&waker) {
            return acquiring.end(result);
        }
        thread::park();
    }
}
