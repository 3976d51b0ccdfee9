//! Where what belongs to a key is kept, from the first caller that asks for it to the last that leaves.
//!
//! | file | what it is |
//! |---|---|
//! | `table` | the keys of one shard: a pure data structure behind the shard's mutex |
//! | `sharded` | which shard a key belongs to |

mod sharded;
mod table;

pub(crate) use self::sharded::{Sharded, Spot};
pub(crate) use self::table::{Garbage, Hash64, Relic, Table};
