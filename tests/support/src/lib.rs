//! Helpers that the tests of onelane share: servers and clients on real sockets, gates, processes, a counting
//! allocator.

pub mod actix;
pub mod client;
#[cfg(target_os = "linux")]
pub mod clock;
pub mod counting;
pub mod events;
pub mod gate;
pub mod http;
pub mod inbox;
pub mod polling;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod runtimes;
pub mod spans;
pub mod waiting;

/// Leaks a value, so that it lives as long as one in a `static`.
pub fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}
