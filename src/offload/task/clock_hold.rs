//! [`ClockHold`], which keeps the paused clock of a test from advancing while a thread works.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::offload::job::SharedJob;
use crate::offload::workers::Workers;
use crate::panic::catch;

/// How long the clock may be held after the task has ended, if its result is not taken.
const GRACE: Duration = Duration::from_millis(10);
/// How often the end of a task without a handle is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Holds the paused clock of a runtime for a task on a thread that the runtime does not know.
///
/// A runtime whose clock is paused advances the clock when it has nothing to do. It knows the threads of
/// `spawn_blocking` and waits for them. So one of these waits for the task, whether or not its handle is polled.
#[derive(Debug, Default)]
pub(super) struct ClockHold {
    /// The clock is held, or need not be.
    pub(super) is_decided: bool,
    /// Dropping it ends the hold.
    held: Option<Sender<WithoutHandle>>,
}

/// The task goes on without its handle, and the clock is held until it has ended.
#[derive(Debug, PartialEq, Eq)]
struct WithoutHandle;

impl ClockHold {
    /// Holds the clock of the current runtime until this value is dropped, if that clock is paused.
    ///
    /// A task that waits for a token while no other runs may wait for the clock, and does not hold it yet.
    pub(super) fn hold(&mut self, workers: &Workers, job: SharedJob) {
        self.is_decided = true;
        let runtime = Handle::try_current().ok();
        // Only a runtime of one thread can have a paused clock.
        let Some(runtime) = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread) else {
            return;
        };
        if !is_clock_paused() {
            return;
        }
        if workers.is_stalled() {
            self.is_decided = false;
            return;
        }
        let (held, released) = channel();
        let wait = move || {
            // A runtime that is dropped waits for this thread, even if the task's handle is kept.
            let mut outcome = released.recv_timeout(GRACE);
            while outcome == Err(RecvTimeoutError::Timeout) && !job.is_finished() {
                outcome = released.recv_timeout(GRACE);
            }
            while outcome == Ok(WithoutHandle) && !job.is_finished() {
                thread::sleep(CHECK_INTERVAL);
            }
        };
        // tokio panics if it has no thread: then the clock is not held.
        if catch(|| runtime.spawn_blocking(wait)).is_ok() {
            self.held = Some(held);
        }
    }

    /// Lets the next [`hold`](Self::hold) decide again, in another runtime perhaps, unless a clock is held.
    pub(super) fn reconsider(&mut self) {
        self.is_decided = self.held.is_some();
    }

    /// Holds the clock until the task has ended, although its handle is dropped.
    pub(super) fn keep(&mut self) {
        if let Some(held) = self.held.take() {
            // If the thread has ended, so has the task.
            let _ = held.send(WithoutHandle);
        }
    }
}

/// Returns `true` if the clock of the current runtime is not the system's.
fn is_clock_paused() -> bool {
    let before = std::time::Instant::now();
    let now = tokio::time::Instant::now().into_std();
    let after = std::time::Instant::now();
    now < before || now > after
}
