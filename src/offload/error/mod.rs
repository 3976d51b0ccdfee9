//! Why a task has no result.
//!
//! | file | contents |
//! |---|---|
//! | `offload_error`, `kind` | the error of a task, and its kind |
//! | `progress` | how far the task of an error came |

mod kind;
mod offload_error;
mod progress;

pub use self::kind::OffloadErrorKind;
pub use self::offload_error::OffloadError;
pub use self::progress::Progress;
