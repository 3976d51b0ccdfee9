//! The map that holds a key's entry from the first caller of the key to the last.
//!
//! | file | contents |
//! |---|---|
//! | `table` | the keys of one shard: a pure data structure, protected by the shard's mutex |
//! | `sharded` | the shards, and the choice of a key's shard |

#[cfg(all(test, not(loom)))]
mod property_tests;
mod sharded;
mod table;

pub(crate) use self::sharded::{EntryId, Sharded};
pub(crate) use self::table::{DeferredEntry, DeferredKey, Hash64, Table};
