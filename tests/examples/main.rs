//! The examples, run as a user runs them.

mod background;
mod limit;
mod offload;
mod per_user;
mod single_flight;
mod streaming;
