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

    /// Sets how long a worker may be in one poll, from 1 ms to 1 h. The default is 100 ms, that of asyncio's
    /// `slow_callback_duration`.
    pub fn threshold(mut self, threshold: Duration) -> Self {
        self.threshold = threshold;
        self
    }

    /// Adds a callback that receives each report.
    ///
    /// The thread of the watch calls it, and takes no samples meanwhile: a callback that takes long makes durations
    /// imprecise, and hides short blocks. A panic in it is reported as an event, and the watch continues. Let it own no
    /// [`Watch`]: that watch would never end.
    pub fn on_report(mut self, callback: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// Adds the stack of the blocked thread to each report, if the thread is known: see
    /// [`register_thread`](super::register_thread). [`Stack::culprit`](super::Stack::culprit) is the function to mend, and
    /// [`Hint`](super::Hint) says what to do about it.
    ///
    /// The watch sends the thread a `SIGURG`, whose handler writes down the addresses of the innermost 128 functions. The
    /// thread of the watch finds out their names, which takes a few milliseconds.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use onelane::watch::Watch;
    ///
    /// let watch = Watch::builder().capture_stacks().on_report(|report| println!("{report:?}")).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # What it costs
    ///
    /// Requests pay nothing. A report interrupts the blocked thread for 3 µs (8 frames) to 15 µs (128 frames). When the first watch is built, a
    /// thread reads the debug information of the program, which takes up to half a second in a debug build and stays in
    /// memory: until then, reports have no stack.
    ///
    /// # What the program needs
    ///
    /// - Linux with glibc 2.35 or newer, linked dynamically, and the libgcc of GCC 12 or newer, on x86-64 or 64-bit ARM.
    ///   With older ones, unwinding takes a lock that the interrupted thread may hold.
    /// - Symbols for the names of functions: not `strip = true`. Debug information for files and lines:
    ///   `debug = "limited"` in the profile.
    ///
    /// # Limits
    ///
    /// - The handler stays installed as long as the process runs. It ignores any `SIGURG` that no watch has sent. A handler
    ///   that is installed later has to call the previous one, as those of `tokio::signal` and `signal-hook` do: otherwise
    ///   reports have no stack.
    /// - The system restarts most calls that the signal interrupts. Those that it never restarts, such as `nanosleep`,
    ///   `poll` and `epoll_wait`, fail with `EINTR`: the standard library and tokio repeat them, and C code has to.
    /// - A thread that blocks `SIGURG`, or that is in a wait of the kernel that nothing interrupts, such as for a disk, is
    ///   reported without its stack. The watch waits 50 ms for it.
    /// - The handler needs a few KiB on the stack of the thread, so it is not for threads with tiny stacks, such as those
    ///   of some coroutines.
    /// - A thread that is inside libgcc, which unwinds the stack of a panic, is reported without its stack: its registers do
    ///   not match the tables at that moment. Other code whose tables are wrong, such as assembly that moves the stack
    ///   pointer without describing that, can crash the program if the signal interrupts it there.
    /// - A program that registers unwind tables while it runs (`__register_frame`), as JIT compilers do, must not capture
    ///   stacks: libgcc before GCC 13 takes a lock to look these tables up, and later ones wait while a table is added.
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
    /// # Errors
    ///
    /// A setting is out of range, or the system has no thread for the watch: see [`WatchError`].
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
    /// The same as of [`build`](Self::build).
    pub fn start(self, runtime: &Handle) -> Result<Watch, WatchError> {
        let watch = self.build()?;
        watch.add(runtime);
        Ok(watch)
    }
}

impl_debug!(WatchBuilder |this| { threshold: this.threshold, .. });
