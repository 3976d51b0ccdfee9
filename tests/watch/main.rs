//! Watches: the reports of blocked workers.

#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]

mod canary;
mod inbox;
mod labels;
mod never_blocks;
mod reports;
mod silence;
mod slow_polls;
#[cfg(target_os = "linux")]
mod stacks;
mod together;
