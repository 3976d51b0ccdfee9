//! A store in Redis or Valkey.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`Redis`], the backend |
//! | `keys` | the names of keys and channels |
//! | `scripts` | the Lua scripts, which check owner and token in one step with the change |
//! | `subscription` | how callers wait for messages |
//! | `servers` | sends calls to the server that has the keys of a guard |
//! | `cluster` | which server of a cluster has the keys of a guard |
//! | `server` | connections, what the server must be, and errors that say what to do |

mod cluster;
mod keys;
mod scripts;
mod server;
mod servers;
mod store;
mod subscription;
mod trace;

pub use self::store::Redis;
