//! The capacity limiter, rule by rule.

mod drained;
mod panicking_wakers;
mod permits;
mod rules;
mod settings;
