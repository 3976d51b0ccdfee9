//! Guards over several processes.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod postgres;
mod redis;
mod stores;
