//! What a server does for its host, the same for every framework: it knows its connections, limits them, and drains them
//! without losing a request.
//!
//! | file | contents |
//! |---|---|
//! | `config` | the options of a server |
//! | `connections` | all open connections, and the phases of the drain |
//! | `connection` | one connection: what its I/O and its requests know of each other |
//! | `stream` | the I/O of a connection |
//! | `trace` | the events |

mod config;
mod connection;
mod connections;
mod stream;
mod trace;

pub use self::config::ServeConfig;
pub(crate) use self::connection::{Connection, RequestGuard};
pub(crate) use self::connections::{Connections, CutOnDrop};
pub use self::stream::ServedStream;
