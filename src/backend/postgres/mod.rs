//! A store in PostgreSQL.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`Postgres`], the backend |
//! | `statements` | the statements, each of which is its own transaction |
//! | `session` | a connection with the statements that it has prepared |
//! | `server` | connections, what the server must be, and errors that say what to do |

mod server;
mod session;
mod statements;
mod store;

pub use self::store::Postgres;
