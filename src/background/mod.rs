//! Beside requests: services that start before the first request and stop after the last.

mod blocking;
mod closures;
mod context;
mod error;
mod generation;
mod host;
mod own_runtime;
mod periodic;
mod placement;
mod restart;
mod service;
mod signals;
mod spec;
mod status;
mod supervisor;

pub use blocking::BlockingService;
pub use closures::{blocking_fn, lifespan, service_fn};
pub use context::{BlockingContext, RunContext, StartContext, StopContext};
pub use error::{BuildError, ExitReason, HostError, StartPhase};
pub use host::{HostHandle, ServiceHost, ServiceHostBuilder, Supervision, TriggerError};
pub use periodic::TickStatus;
pub use placement::Placement;
pub use restart::{Backoff, Intensity, Restart};
pub use service::{BackgroundService, BoxError, ServiceResult};
pub use spec::Service;
pub use status::{
    CleanUp, Exit, ExitKind, HostEvent, HostEvents, HostPhase, HostStatus, ServiceReport, ServiceState, ServiceStatus,
    SharedError, ShutdownReport, TimeLimit, Trigger,
};

pub use crate::panic::Panic;
