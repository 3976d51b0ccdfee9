//! [`WatchBuilder`], which starts a watch.

use std::time::Duration;

use tokio::runtime::Handle;

use super::error::WatchError;
use super::report::Report;
use super::shared::{Callback, Settings};
use super::watchdog::Watch;
use crate::debug::impl_debug;

/// Starts a [`Watch`]. Created by [`Watch::builder`].
#[must_use = "a builder does nothing until `start` or `build` is called"]
pub struct WatchBuilder {
    threshold: Duration,
    callbacks: Vec<Callback>,
}

impl WatchBuilder {
    pub(super) fn new() -> Self {
        Self { threshold: Duration::from_millis(100), callbacks: Vec::new() }
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

    /// Starts the watch without a runtime. [`Watch::add`] adds runtimes.
    ///
    /// # Errors
    ///
    /// A setting is out of range, or the system has no thread for the watch: see [`WatchError`].
    pub fn build(self) -> Result<Watch, WatchError> {
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.threshold) {
            return Err(WatchError::Threshold(self.threshold));
        }
        Watch::start(Settings { threshold: self.threshold, callbacks: self.callbacks, capture: None })
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
