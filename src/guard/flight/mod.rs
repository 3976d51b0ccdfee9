//! Single flight: callers that ask for the same key at the same time share one run of the work.
//!
//! The first caller of a key is the run's leader, later ones are its followers, and all of them are its waiters. While
//! the leader is the only waiter, it drives the run itself: it polls the work. With the first follower, a spawned task
//! becomes the driver.
//!
//! | step of a call | file |
//! |---|---|
//! | a caller asks for a key | `single_flight`, configured by `builder` |
//! | its future joins a run, waits, times out or leaves | `shared_run`, `wait_timer` |
//! | the key's run is found or started in one shard of the map | `flight_map` → `shard` of `run_entry` |
//! | the work is polled, by a waiter or by the driver task | `work_future`, `driver_task` → `shard_driver` |
//! | a shard's operation returns, and defers work until its mutex is unlocked | `outcome` |
//! | the caller gets a value or an error | `error` |
//! | an event is emitted | `trace` |

mod builder;
mod caller_wait;
mod driver_task;
mod error;
mod flight_map;
#[cfg(all(test, loom))]
mod loom_tests;
mod outcome;
#[cfg(all(test, not(loom)))]
mod property_tests;
mod run_entry;
mod run_error;
mod shard;
mod shard_driver;
mod shared_run;
mod single_flight;
mod stats;
mod trace;
mod wait_timer;
mod work_future;

pub use self::builder::SingleFlightBuilder;
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) use self::caller_wait::CallerWait;
pub use self::error::{FlightError, FlightErrorKind};
pub use self::shared_run::SharedRun;
pub use self::single_flight::SingleFlight;
pub use self::stats::FlightStats;
