//! The capacity limiter, rule by rule.

mod drained;
mod rules;
mod settings;
