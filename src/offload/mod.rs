//! Work leaves the async threads: how much of it goes on at once.
//!
//! | I want | use |
//! |---|---|
//! | at most N at a time, and N changes while the server runs | [`CapacityLimiter`] |
//! | work of different size under one limit | [`CapacityLimiter::acquire_many`] |
//! | clean-up that never waits for those it cleans up after | [`CapacityLimiter::with_reserve`] |
//! | a bounded queue, a `max_wait`, a refusal for a web client | not this: an [`EndpointGuard`](crate::EndpointGuard) |
//! | at most N at a time, and N never changes | not this: `tokio::sync::Semaphore` does, if statistics don't matter |
//! | so many calls *a second* | not this: a rate limiter |

mod limiter;

pub use self::limiter::{
    AcquireTokens, AcquireTokensOwned, CapacityLimiter, LimiterError, LimiterPermit, LimiterStatistics,
    OwnedLimiterPermit,
};
