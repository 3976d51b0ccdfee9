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
    /// The thread of the watch calls it, so a slow callback delays the next report. A panic in it is reported as an
    /// event, and the watch continues.
    pub fn on_report(mut self, callback: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// Adds the stack of the blocked thread to each report: [`Blocked::stack`](super::Blocked::stack).
    ///
    /// TODO
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
