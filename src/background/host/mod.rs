//! [`ServiceHost`], what a server has its services in.

mod builder;
mod handle;
mod link;
mod plan;
mod service_host;

pub use builder::{ServiceHostBuilder, Supervision};
pub use handle::{HostHandle, TriggerError};
pub(crate) use link::{Ending, Link, Message, Starting};
pub use service_host::ServiceHost;
