//! A store in PostgreSQL.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`Postgres`], the backend |
//! | `statements` | the statements, each of which is its own transaction |
//! | `server` | connections, what the server must be, and errors that say what to do |

mod server;
mod statements;
mod store;

pub use self::store::Postgres;
