//! Watches: which worker is blocked, and by what.

#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]

mod canary;
mod inbox;
mod labels;
mod reports;
mod silence;
mod slow_polls;
#[cfg(target_os = "linux")]
mod stacks;
mod tests_of_users;
mod together;
