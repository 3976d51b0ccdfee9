//! A store in PostgreSQL.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`Postgres`], the backend |
//! | `statements` | the statements, each of which is a transaction of its own |
//! | `server` | connections, what the server must be, and errors that say what to do |

mod server;
mod statements;
mod store;

pub use self::store::Postgres;
