//! The target of every `tracing` event that the crate emits. Each folder has the events of its own in its `trace.rs`.

pub(crate) const TARGET: &str = "onelane";
