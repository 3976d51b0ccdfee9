//! Why a task has no result, and why a pool could not be built.
//!
//! | file | contents |
//! |---|---|
//! | `offload_error`, `kind` | the error of a task, and its kind |
//! | `progress` | how far the task of an error came |
//! | `pool_build_error` | the error of a pool that could not be built |

mod kind;
mod offload_error;
#[cfg(feature = "cpu")]
mod pool_build_error;
mod progress;

pub use self::kind::OffloadErrorKind;
pub use self::offload_error::OffloadError;
#[cfg(feature = "cpu")]
pub use self::pool_build_error::{PoolBuildError, PoolBuildErrorKind};
pub use self::progress::Progress;
