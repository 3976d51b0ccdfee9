//! [`ServiceHost`], the background services of a server: built, started, observed and stopped.

mod builder;
mod dependency_plan;
mod handle;
mod service_host;
mod until_draining;

pub use builder::{ServiceHostBuilder, Supervision};
pub use handle::{HostHandle, TriggerError};
pub use service_host::ServiceHost;
pub use until_draining::UntilDraining;
