//! [`serve`], which serves an app together with the services of a host.
//!
//! | file | contents |
//! |---|---|
//! | `server` | the calls that users make |
//! | `drain` | [`Drain`], which creates HTTP servers that track their connections, and the order of the drain |
//! | `workers` | the worker threads, and whether they have taken the connections that were accepted |
//! | `service` | the app of one worker: it counts requests, and asks clients to leave |
//! | `body` | the body of a response, whose request ends with it |
//! | `extract` | `BackgroundTasks` as an extractor |

mod body;
mod drain;
mod extract;
mod server;
mod service;
mod trace;
mod workers;

pub use self::body::ServedBody;
#[cfg(feature = "actix-ws")]
pub(crate) use self::drain::ServedConnection;
pub use self::drain::{Drain, ServedHttpServer};
pub use self::server::{Serve, Server, serve};
pub use self::service::{ServedApp, ServedFactory, ServedFuture};
