//! Single flight: callers who ask for the same thing at the same time share one run of the work.
//!
//! A call passes the files of this folder in this order: `single_flight` → `shared_run`, which comes aboard a run on its
//! `board` or starts one → `work`, polled by its callers, or by a `driver` task once there are several.

mod board;
mod board_task;
mod builder;
mod driver;
mod error;
mod found;
mod run;
mod runs;
mod shared_run;
mod single_flight;
mod stats;
mod work;

pub use self::builder::SingleFlightBuilder;
pub use self::error::FlightError;
pub use self::shared_run::SharedRun;
pub use self::single_flight::SingleFlight;
pub use self::stats::FlightStats;
