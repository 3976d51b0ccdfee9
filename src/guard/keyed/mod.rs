//! One caller at a time for each key: a user, a tenant, a document.
//!
//! A call passes the files of this folder in this order: `keyed_guard` → `acquire` → `source`, which finds the key's
//! entry in a `shard` → `permit`.

mod acquire;
mod acquire_all;
mod key_entry;
mod keyed_guard;
#[cfg(all(test, loom))]
mod loom_tests;
mod permit;
#[cfg(all(test, not(loom)))]
mod property_tests;
mod run;
mod shard;
mod shard_queries;
mod source;

pub use self::acquire::{AcquireKey, AcquireKeyOwned};
pub use self::acquire_all::{AcquireAll, KeyedPermits};
pub(super) use self::key_entry::KeyLimit;
pub use self::keyed_guard::{KeyedGuard, SharedKeyedGuard};
pub use self::permit::{KeyedPermit, OwnedKeyedPermit};
pub use self::run::{RunKeyed, RunKeyedToCompletion};
pub use self::source::KeyedSource;
