//! What a server does for its host with every framework: it tracks its connections, limits them, and drains them
//! without losing a request.
//!
//! | file | contents |
//! |---|---|
//! | `config` | the options of a server |
//! | `connections` | all open connections, and the phases of the drain |
//! | `connection` | one connection: the state that its I/O and its requests share |
//! | `connection_io` | what the I/O of a connection reports, and how long the I/O may wait |
//! | `stream` | the I/O of a connection |
//! | `unwatched` | the drain of a server whose I/O can't be watched |
//! | `trace` | the events |

mod config;
mod connection;
#[cfg(feature = "axum")]
mod connection_io;
mod connections;
#[cfg(feature = "axum")]
mod stream;
mod trace;
#[cfg(feature = "actix-web")]
mod unwatched;

pub use self::config::ServeConfig;
#[cfg(feature = "axum")]
pub(crate) use self::connection::UploadGuard;
pub(crate) use self::connection::{Connection, RequestGuard};
#[cfg(feature = "actix-web")]
pub(crate) use self::connections::OpenConnection;
pub(crate) use self::connections::{Connections, CutOnDrop};
#[cfg(feature = "axum")]
pub use self::stream::ServedStream;
#[cfg(feature = "actix-web")]
pub(crate) use self::unwatched::UnwrittenPart;
