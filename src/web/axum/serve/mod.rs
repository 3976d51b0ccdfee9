//! [`serve`], which serves an app together with the services of a host.
//!
//! | file | contents |
//! |---|---|
//! | `server` | the calls that users make, and the drain |
//! | `listener` | the connections of the listener, limited and counted |
//! | `service` | the app of one connection: it counts requests, and asks clients to leave |
//! | `body` | the body of a response, whose request ends with it, and the body of a request |
//! | `extract` | `BackgroundTasks` as an extractor |

mod body;
mod extract;
mod listener;
mod server;
mod service;

pub use self::listener::{ServedListener, WatchedIo};
pub use self::server::{Serve, Server, serve};
