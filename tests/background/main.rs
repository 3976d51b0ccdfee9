//! Tests of the service host, its probes and periodic services through the public API.

mod host;
mod periodic;
mod probes;
