//! What the tests of onelane share: servers and clients on real sockets, gates, processes, an allocator that counts.

pub mod actix;
pub mod client;
pub mod counting;
pub mod gate;
pub mod http;
pub mod process;
pub mod redis;
pub mod waiting;
