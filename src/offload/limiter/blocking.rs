//! Waiting for tokens on a thread that may block: the same queue as for tasks, with the thread parked.

use std::ops::Deref;
use std::task::Poll;
use std::thread;

use super::acquire::TokenAcquisition;
use super::capacity_limiter::CapacityLimiter;
use super::error::LimiterError;
use super::permit::HeldTokens;
use super::semaphores::TokenRequest;
use crate::park::{current_thread_waker, runs_async_tasks};

/// Parks this thread until the requested tokens are acquired.
pub(super) fn acquire<L: Deref<Target = CapacityLimiter>>(
    limiter: L,
    request: TokenRequest,
) -> Result<HeldTokens<L>, LimiterError> {
    if runs_async_tasks() {
        return Err(LimiterError::BlockingInAsync);
    }
    let mut acquisition = TokenAcquisition::new(limiter, request);
    if let Some(tokens) = acquisition.try_acquire() {
        return acquisition.complete(Ok(tokens));
    }
    let waker = current_thread_waker();
    loop {
        if let Poll::Ready(result) = acquisition.poll_queue(&waker) {
            return acquisition.complete(result);
        }
        thread::park();
    }
}
