//! [`WatchStats`], the blocks that a watch has seen.

use std::time::Duration;

/// The blocks that a [`Watch`](super::Watch) has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WatchStats {
    /// The number of times that a worker was blocked, including the workers that are blocked now.
    pub blocked: u64,
    /// The number of workers that are blocked now.
    pub blocked_now: usize,
    /// The total time for which workers were blocked. A block is included once its worker has recovered.
    #[cfg_attr(feature = "serde", serde(rename = "blocked_for_seconds", serialize_with = "seconds"))]
    pub blocked_for: Duration,
    /// The same for each [label](super::Label), in descending order of the total time. The empty text stands for polls
    /// without a label, and for blocks of several polls.
    pub labels: Vec<LabelStats>,
}

/// The slow polls of one label. A slow poll has been reported, because it blocked its worker for the threshold of the
/// watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LabelStats {
    /// The text of the label.
    pub label: &'static str,
    /// The number of slow polls that have ended.
    pub slow_polls: u64,
    /// The total time of these polls.
    #[cfg_attr(feature = "serde", serde(rename = "total_seconds", serialize_with = "seconds"))]
    pub total: Duration,
    /// The time of the longest of these polls.
    #[cfg_attr(feature = "serde", serde(rename = "longest_seconds", serialize_with = "seconds"))]
    pub longest: Duration,
}

#[cfg(feature = "serde")]
fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
