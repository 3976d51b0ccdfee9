//! [`Managed`], what a host closes and drains while it stops.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A guard, flight or pool that a [`ServiceHost`](crate::ServiceHost) closes and drains while it stops, and shows by
/// name in its status. The crate's own types implement this trait, and your types can implement it too.
///
/// The host calls the methods on its own thread, so they must not block: a call that blocks holds up time limits,
/// signals and probes.
///
/// ```
/// use onelane::{EndpointGuard, ServiceHost};
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// let host = ServiceHost::builder().manage(&REPORT).build()?;
/// # Ok::<(), onelane::background::BuildError>(())
/// ```
pub trait Managed: Send + Sync + 'static {
    /// Returns the name, which must be unique in the host.
    fn name(&self) -> &str;

    /// Refuses new work from now on. Work that was admitted before continues.
    fn close(&self);

    /// Waits until all admitted work has ended. Called after [`close`](Self::close).
    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Returns the current state.
    fn snapshot(&self) -> ManagedSnapshot;
}

/// A snapshot of a [`Managed`] value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ManagedSnapshot {
    kind: &'static str,
    active: usize,
    waiting: usize,
    closed: bool,
    #[cfg_attr(feature = "serde", serde(skip))]
    serves_services: bool,
}

impl ManagedSnapshot {
    /// Creates the snapshot of a value that is open and idle. `kind` is a noun, such as `"guard"`.
    #[must_use]
    pub fn new(kind: &'static str) -> Self {
        Self { kind, active: 0, waiting: 0, closed: false, serves_services: false }
    }

    /// Sets how many pieces of work were admitted and have not ended.
    #[must_use]
    pub fn with_active(mut self, active: usize) -> Self {
        self.active = active;
        self
    }

    /// Sets how many callers wait to be admitted.
    #[must_use]
    pub fn with_waiting(mut self, waiting: usize) -> Self {
        self.waiting = waiting;
        self
    }

    /// Sets whether new work is refused.
    #[must_use]
    pub fn with_closed(mut self, closed: bool) -> Self {
        self.closed = closed;
        self
    }

    /// Declares that services use the value until they have stopped, as they use a pool: the host closes the value
    /// after its services. By default, the host closes it before.
    #[must_use]
    pub fn serving_services(mut self) -> Self {
        self.serves_services = true;
        self
    }

    /// Returns the kind, such as `"guard"`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.kind
    }

    /// Returns how many pieces of work were admitted and have not ended.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active
    }

    /// Returns how many callers wait to be admitted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns `true` if new work is refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    #[cfg(feature = "background")]
    pub(crate) fn serves_services(&self) -> bool {
        self.serves_services
    }
}

/// Implements [`Managed`] for pointers to managed values.
macro_rules! impl_managed_for_pointer {
    ($pointer:ty) => {
        impl<T: Managed> Managed for $pointer {
            fn name(&self) -> &str {
                (**self).name()
            }

            fn close(&self) {
                (**self).close();
            }

            fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
                (**self).drained()
            }

            fn snapshot(&self) -> ManagedSnapshot {
                (**self).snapshot()
            }
        }
    };
}

impl_managed_for_pointer!(&'static T);
impl_managed_for_pointer!(Arc<T>);
