//! [`periodic`](periodic()), a closure that is called again and again: when, as [`Every`] says.
//!
//! ```text
//!   Every ── Slots ──▶ Schedule ──▶ Periodic ──▶ Calls ──▶ call ──▶ your closure
//!            when       whether      waits        here or    panic,
//!                                                 beside     timeout
//!   Ticker: what of it the status tells, and who triggers a call
//! ```

mod call;
mod calls;
#[cfg(feature = "croner")]
mod cron;
#[cfg(all(test, feature = "croner"))]
mod cron_tests;
#[cfg(feature = "croner")]
mod error;
mod every;
mod first;
mod now;
mod overlap;
mod schedule;
#[cfg(test)]
mod schedule_tests;
mod service;
mod slots;
mod ticker;
#[cfg(feature = "croner")]
mod wall_slots;

#[cfg(feature = "croner")]
pub use error::CronError;
pub use every::Every;
pub use first::First;
pub use overlap::Overlap;
pub use service::periodic;
