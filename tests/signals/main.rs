//! Signals and the end of the process. Each scenario runs in its own process: this binary, started again for one test.

mod forced_stop;
mod lost_work;
mod readme;
mod released;
mod started_by;
mod stuck_process;
mod threads;
mod together;

use std::process::Child;

/// A child process that is killed when the test ends.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
