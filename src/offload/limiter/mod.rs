//! The limiter: tokens that are lent, and the callers that wait for them.
//!
//! | file | what it is |
//! |---|---|
//! | `capacity_limiter` | the limiter |
//! | `semaphores` | its two semaphores: the tokens for everybody, and those in reserve |
//! | `acquire`, `blocking` | waiting for tokens, in a task and on a thread |
//! | `permit` | tokens that are lent |
//! | `statistics`, `error` | what it tells |

mod acquire;
mod blocking;
mod capacity_limiter;
mod error;
mod permit;
mod semaphores;
mod statistics;

pub use self::acquire::{AcquireTokens, AcquireTokensOwned};
pub use self::capacity_limiter::CapacityLimiter;
pub use self::error::LimiterError;
pub use self::permit::{LimiterPermit, OwnedLimiterPermit};
pub use self::statistics::LimiterStatistics;
