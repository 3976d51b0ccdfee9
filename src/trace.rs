//! The target of every `tracing` event that the crate emits. Each folder defines its events in its own `trace.rs`.

pub(crate) const TARGET: &str = "onelane";
