//! [`periodic`](periodic()) and [`periodic_blocking`], services that call a closure again and again, on a schedule
//! given by [`Every`].
//!
//! ```text
//!   Every ──▶ Timetable ──▶ Schedule ──▶ PeriodicService ──▶ ActiveCalls ──▶ run_call ──▶ closure
//!             due times     decides      waits               inline, or      panics,
//!                                                            child tasks     timeout
//!   Ticker: shared with the host, for the status and for triggers
//! ```

mod calls;
mod clock;
mod every;
mod schedule;
mod service;
mod tick_context;
mod ticker;
mod timetable;

#[cfg(feature = "cron")]
mod calendar;
#[cfg(feature = "cron")]
mod cron;
#[cfg(feature = "cron")]
mod cron_fields;

#[cfg(all(test, feature = "cron"))]
mod cron_tests;
#[cfg(test)]
mod schedule_tests;

#[cfg(feature = "cron")]
pub use cron::CronError;
pub use every::{Every, FirstCall, Overlap};
pub use service::{periodic, periodic_blocking};
pub use tick_context::TickContext;
