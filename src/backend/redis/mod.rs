//! A store in Redis or Valkey.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`Redis`], the backend |
//! | `keys` | the names of keys and channels |
//! | `scripts` | the Lua scripts, which check owner and token in one step with the change |
//! | `waiters` | the callers of this process that wait for a release |
//! | `server` | connections, what the server must be, and errors that say what to do |

mod keys;
mod scripts;
mod server;
mod store;
mod trace;
mod waiters;

pub use self::store::Redis;
