//! The examples, run like a user runs them.

mod background;
#[cfg(target_os = "linux")]
mod crash;
mod hello;
mod limit;
mod offload;
mod per_user;
mod processes;
mod serve;
mod single_flight;
mod streaming;
mod watch;
