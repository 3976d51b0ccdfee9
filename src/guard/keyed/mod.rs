//! One caller at a time for each key: a user, a tenant, a document.
//!
//! A call passes the files of this folder in this order: `keyed_guard` → `acquire` → `gate`, which finds the key's lane
//! in a `shard` → `permit`.

mod acquire;
mod acquire_all;
mod builder;
mod gate;
mod key_semaphore;
mod keyed_guard;
mod permit;
mod run;
mod shard;

pub use self::acquire::{AcquireKey, AcquireKeyOwned};
pub use self::acquire_all::{AcquireAll, KeyedPermits};
pub use self::builder::KeyedGuardBuilder;
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) use self::gate::KeyGate;
pub use self::keyed_guard::KeyedGuard;
pub use self::permit::{KeyedPermit, OwnedKeyedPermit};
pub use self::run::{RunKeyed, RunKeyedToCompletion};
