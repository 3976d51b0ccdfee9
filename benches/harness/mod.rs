//! Helpers that several benchmarks share.

#![allow(dead_code, reason = "each benchmark uses some of them")]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// A counter that loses additions if two callers overlap, because it reads and writes in two steps.
#[derive(Debug, Default)]
pub(crate) struct RacyCounter(AtomicU64);

impl RacyCounter {
    /// Adds one and returns the new value.
    #[inline]
    pub(crate) fn add_one(&self) -> u64 {
        let value = self.get() + 1;
        self.0.store(value, Ordering::Relaxed);
        value
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Asserts that no addition was lost.
    #[track_caller]
    pub(crate) fn assert_total(&self, total: u64) {
        assert_eq!(self.get(), total, "callers overlapped, or calls were lost");
    }
}

/// Returns `true` in a measurement, and `false` in a test run of the benchmark or under a profiler.
pub(crate) fn is_measured() -> bool {
    let has = |name: &str| std::env::args().any(|argument| argument == name);
    has("--bench") && !has("--profile-time")
}

/// Returns `true` if the command line selects `group`: it has no filter, or one that is a part of the group's name or
/// names one of its variants.
pub(crate) fn is_selected(group: &str) -> bool {
    let mut arguments = std::env::args().skip(1);
    let mut has_filter = false;
    while let Some(argument) = arguments.next() {
        if argument.ends_with("-time") || argument == "--sample-size" {
            arguments.next();
        } else if argument == "--list" {
            return false;
        } else if !argument.starts_with('-') {
            has_filter = true;
            if group.contains(&argument) || argument.starts_with(&format!("{group}/")) {
                return true;
            }
        }
    }
    !has_filter
}

/// Returns the CPU time that all threads of this process have used.
pub(crate) fn cpu_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("the CPU time is measured on Linux");
    let nanos = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let statistics = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(nanos).sum())
}

/// Leaks a value, so that it lives as long as one in a `static`.
pub(crate) fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Returns a runtime that runs on the calling thread.
pub(crate) fn one_thread() -> Runtime {
    Builder::new_current_thread().build().expect("the runtime is built")
}
