//! A store in Redis or Valkey.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`Redis`], the backend |
//! | `keys` | the names of keys and channels |
//! | `scripts` | the Lua scripts, which check owner and token in one step with the change |
//! | `server` | connections, what the server must be, and errors that say what to do |

mod keys;
mod scripts;
mod server;
mod store;
mod trace;

pub use self::store::Redis;
