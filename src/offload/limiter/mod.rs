//! The limiter: tokens, and the callers that wait for them.
//!
//! | file | contents |
//! |---|---|
//! | `capacity_limiter` | the limiter |
//! | `semaphores` | its two semaphores: the ordinary tokens and the reserve |
//! | `acquire`, `blocking` | waiting for tokens, in a task and on a thread |
//! | `permit` | tokens that are held |
//! | `promises` | free tokens that queued tasks of pools count on |
//! | `total` | changing the number of tokens |
//! | `drain` | closing, and waiting until no token is held |
//! | `stats`, `error` | what the limiter reports |

mod acquire;
mod blocking;
mod capacity_limiter;
mod drain;
mod error;
mod permit;
mod promises;
mod semaphores;
mod stats;
mod total;

pub use self::acquire::{AcquireTokens, AcquireTokensOwned, TokenAcquisition};
pub use self::capacity_limiter::{CapacityLimiter, SharedLimiter};
pub use self::error::LimiterError;
pub use self::permit::{HeldTokens, LimiterPermit, OwnedLimiterPermit};
pub use self::stats::LimiterStats;
