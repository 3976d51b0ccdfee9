//! [`WatchBuilder`], which starts a watch.

use std::time::Duration;

use tokio::runtime::Handle;

use super::error::WatchError;
use super::report::Report;
use super::shared::{Callback, Settings};
use super::stack::Capture;
use super::watchdog::Watch;
use crate::debug::impl_debug;

/// Starts a [`Watch`]. Created by [`Watch::builder`].
#[must_use = "a builder does nothing until `start` or `build` is called"]
pub struct WatchBuilder {
    threshold: Duration,
    callbacks: Vec<Callback>,
    captures_stacks: bool,
}

impl WatchBuilder {
    pub(super) fn new() -> Self {
        Self { threshold: Duration::from_millis(100), callbacks: Vec::new(), captures_stacks: false }
    }

    /// Sets how long a worker may go without returning to its scheduler, from 1 ms to 1 h. The default is 100 ms, which
    /// is also the default of asyncio's `slow_callback_duration`.
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.threshold = threshold;
        self
    }

    /// Adds a callback that receives each report.
    ///
    /// The thread of the watch calls the callback, and takes no sample until the callback returns. A slow callback
    /// makes durations imprecise, and hides short blocks. If the callback panics, the watch emits an event and
    /// continues. The callback must not own a clone of its own [`Watch`], because that watch would never end.
    pub fn on_report(mut self, callback: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// Adds the stack of the blocked thread to each report, if the watch knows the thread: see
    /// [`register_thread`](super::register_thread). [`Stack::culprit`](super::Stack::culprit) returns the function to
    /// fix, and [`Hint`](super::Hint) says how to fix the function.
    ///
    /// The watch sends `SIGURG` to the thread. The signal's handler records the addresses of the innermost 128
    /// functions. The thread of the watch then looks up the names of these functions, which takes a few milliseconds.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use onelane::watch::Watch;
    ///
    /// let watch = Watch::builder().capture_stacks().on_report(|report| println!("{report}")).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # What it costs
    ///
    /// A poll costs no more than without stacks. A report interrupts the blocked thread for 3 µs (8 frames) to 15 µs
    /// (128 frames). When the first watch that captures stacks is built, a thread reads the debug information of the
    /// program. That takes up to half a second in a debug build, and the information stays in memory. Reports have no
    /// stack until the thread has finished.
    ///
    /// # What the program needs
    ///
    /// - Linux with glibc 2.35 or newer, linked dynamically, and the libgcc of GCC 12 or newer, on x86-64 or 64-bit
    ///   ARM. Older versions unwind under a lock that the interrupted thread may hold.
    /// - Symbols, for the names of functions: do not set `strip = true`.
    /// - Debug information, for files and lines: set `debug = "limited"` in the profile.
    ///
    /// # Limits
    ///
    /// - The handler stays installed as long as the process runs. It ignores any `SIGURG` that no watch has sent. A
    ///   handler that is installed later must call the previous handler, as the handlers of `tokio::signal` and
    ///   `signal-hook` do. Otherwise reports have no stack.
    /// - The system restarts most system calls that the signal interrupts. Some calls are never restarted, such as
    ///   `nanosleep`, `poll` and `epoll_wait`: they fail with `EINTR`. The standard library and tokio repeat these
    ///   calls, and C code must repeat them, too.
    /// - The report has no stack if the thread blocks `SIGURG`, or waits in the kernel where no signal interrupts the
    ///   thread, such as for a disk. The watch gives up after 50 ms.
    /// - The handler needs a few KiB of the thread's stack. Do not capture stacks in a program that polls tasks on tiny
    ///   stacks, such as those of some coroutines.
    /// - The report has no stack if the thread is inside libgcc, which unwinds the stack of a panic, because the
    ///   thread's registers do not match the unwind tables at that moment. If the signal interrupts other code whose
    ///   tables are wrong, the program can crash. An example is assembly that moves the stack pointer without
    ///   describing the move.
    /// - A program that registers unwind tables while it runs (`__register_frame`), as JIT compilers do, must not
    ///   capture stacks: libgcc before GCC 13 looks up these tables under a lock, and later versions wait while a table
    ///   is added.
    ///
    /// On other systems, and if the program has another handler for `SIGURG`, [`build`](Self::build) returns
    /// [`WatchError::StacksUnavailable`].
    #[cfg(feature = "backtrace")]
    pub fn capture_stacks(mut self) -> Self {
        self.captures_stacks = true;
        self
    }

    /// Starts the watch without a runtime. [`Watch::add`] adds runtimes.
    ///
    /// The watch ends when the returned value and its clones are dropped. Bind the watch to a name such as `_watch`, and
    /// not to `_`.
    ///
    /// # Errors
    ///
    /// Returns a [`WatchError`] if the threshold is out of range, if stacks can't be captured, or if the system has no
    /// thread for the watch.
    pub fn build(self) -> Result<Watch, WatchError> {
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.threshold) {
            return Err(WatchError::Threshold(self.threshold));
        }
        let capture = self.captures_stacks.then(Capture::install).transpose()?;
        Watch::start(Settings { threshold: self.threshold, callbacks: self.callbacks, capture })
    }

    /// Starts the watch, and adds a runtime.
    ///
    /// # Errors
    ///
    /// The same as for [`build`](Self::build).
    pub fn start(self, runtime: &Handle) -> Result<Watch, WatchError> {
        let watch = self.build()?;
        watch.add(runtime);
        Ok(watch)
    }
}

impl_debug!(WatchBuilder |this| { threshold: this.threshold, .. });
