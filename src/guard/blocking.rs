//! Waiting for a turn on a thread that may block: the same queue, a parked thread instead of a task.

use std::thread;

use tokio::time::Instant;

use super::core::Gate;
use super::error::AcquireError;
use super::wait::Wait;
use crate::park::{runs_async_tasks, unparks_this_thread};

/// Waits on this thread until a permit is the caller's.
pub(super) fn enter(gate: &mut impl Gate) -> Result<(), AcquireError> {
    if runs_async_tasks() {
        return Err(gate.core().refuse(AcquireError::BlockingInAsync));
    }
    if gate.try_enter().is_ok() {
        return Ok(());
    }
    let waker = unparks_this_thread();
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
