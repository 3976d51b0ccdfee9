//! The service host, its probes and periodic services from outside.

mod host;
mod periodic;
mod probes;
