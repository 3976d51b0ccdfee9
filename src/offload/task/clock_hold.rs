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

/// How often the end of a task without its handle is checked.
const CHECK: Duration = Duration::from_millis(1);

/// Holds the paused clock of a runtime for a task on a thread that the runtime does not know.
///
/// A runtime whose clock is paused advances the clock when it has nothing to do. It knows the threads of
/// `spawn_blocking` and waits for them. So one of these waits for the task.
#[derive(Debug, Default)]
pub(super) struct ClockHold {
    /// The clock is held, or need not be.
    pub(super) is_decided: bool,
    /// Dropping it ends the hold. A message ends the hold with the task.
    held: Option<Sender<()>>,
}

impl ClockHold {
    /// Holds the clock of the current runtime until this value is dropped or the task has ended, if that clock is
    /// paused.
    ///
    /// A task that waits for a token while no other runs may wait for the clock, and does not hold it: then this is to
    /// be called again.
    pub(super) fn hold(&mut self, workers: &Workers, job: SharedJob) {
        let runtime = Handle::try_current().ok();
        // Only a runtime of one thread can have a paused clock.
        let Some(runtime) = runtime.filter(|runtime| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread) else {
            return self.is_decided = true;
        };
        if job.is_finished() || !is_clock_paused() {
            return self.is_decided = true;
        }
        if workers.is_stalled() {
            return;
        }
        self.is_decided = true;
        let (held, released) = channel();
        let wait = move || {
            // A runtime that is dropped waits for this thread, even if the task's handle is kept.
            while !job.is_finished() {
                match released.recv_timeout(GRACE) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(()) => break,
                }
            }
            while !job.is_finished() {
                thread::sleep(CHECK);
            }
        };
        // tokio panics if it has no thread: then the clock is not held.
        if catch(|| runtime.spawn_blocking(wait)).is_ok() {
            self.held = Some(held);
        }
    }

    /// Holds the clock until the task has ended, with or without this value.
    pub(super) fn hold_to_the_end(&mut self) {
        if let Some(held) = self.held.take() {
            // Sending fails if the task has ended.
            let _ = held.send(());
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
