//! [`WatchStats`], what a watch has seen.

use std::time::Duration;

/// What a [`Watch`](super::Watch) has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WatchStats {
    /// The number of times that a worker was blocked, including the workers that are blocked now.
    pub blocked: u64,
    /// The number of workers that are blocked now.
    pub blocked_now: usize,
    /// The time for which workers were blocked. A worker that is blocked now counts once it has recovered.
    pub blocked_for: Duration,
    /// The same for each [label](super::Label), with the labels that were blocked for longest first. The empty label
    /// stands for polls without one.
    pub labels: Vec<LabelStats>,
}

/// The slow polls of one label: those that have blocked a worker for the threshold of the watch or longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LabelStats {
    /// The text of the label.
    pub label: &'static str,
    /// The number of slow polls that have ended.
    pub slow_polls: u64,
    /// The time that these polls took.
    pub total: Duration,
    /// The time that the longest of them took.
    pub longest: Duration,
}
