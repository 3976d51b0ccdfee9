//! [`HostStatus`], a snapshot of a host and its services.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::managed_list::ManagedList;
use super::service_status::ServiceStatus;
use crate::managed::ManagedSnapshot;
#[cfg(doc)]
use crate::watch::Watch;
use crate::watch::{Blocked, WatchView};

/// A snapshot of a host and its services.
///
/// The host publishes each change, and a snapshot never changes. Taking a snapshot copies a pointer, regardless of the
/// number of services.
#[derive(Clone, Debug)]
pub struct HostStatus {
    pub(crate) phase: HostPhase,
    pub(crate) since: SystemTime,
    pub(crate) has_started: bool,
    /// In the order in which the services were added to the host.
    pub(crate) services: Vec<Arc<ServiceStatus>>,
    /// The index of each service by its name.
    pub(crate) indices: Arc<HashMap<Arc<str>, u32>>,
    /// Set when the host starts. `None` if the host has no watch.
    pub(crate) watch: Option<WatchView>,
    pub(crate) managed: ManagedList,
}

/// The phase of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HostPhase {
    /// Not started.
    Built,
    /// The services are starting.
    Starting,
    /// All services have started.
    Running,
    /// The server finishes its last requests, and then work without a caller and the work of managed guards ends. The
    /// services still run.
    Draining,
    /// The services are stopping.
    Stopping,
    /// All services have ended.
    Stopped,
}

impl HostPhase {
    /// Returns `true` once the host has begun to stop: it is draining, stopping or stopped.
    #[must_use]
    pub fn is_stopping(self) -> bool {
        matches!(self, Self::Draining | Self::Stopping | Self::Stopped)
    }

    /// Returns `true` once all services have ended.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        self == Self::Stopped
    }

    /// Returns `true` once the host has asked its services to stop, after the drain.
    pub(crate) fn is_stopping_services(self) -> bool {
        matches!(self, Self::Stopping | Self::Stopped)
    }
}

impl HostStatus {
    /// Returns the phase of the host.
    #[must_use]
    pub fn phase(&self) -> HostPhase {
        self.phase
    }

    /// Returns when the host entered that phase.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Returns `true` once the host has reached [`Running`](HostPhase::Running), which means that all services have
    /// started. It stays `true` while the host stops.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.has_started
    }

    /// Returns `true` if the host is running and every critical service [is ready](ServiceStatus::is_ready).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == HostPhase::Running && self.services().all(|service| !service.is_critical || service.is_ready())
    }

    /// Returns the service with that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.indices.get(name).map(|index| &*self.services[*index as usize])
    }

    /// Returns all services, in the order in which they were added to the host.
    pub fn services(&self) -> impl Iterator<Item = &ServiceStatus> {
        self.services.iter().map(|service| &**service)
    }

    /// Returns the name and the current state of each guard, flight and pool that the host manages, in the order in
    /// which they were added.
    pub fn managed(&self) -> impl Iterator<Item = (Arc<str>, ManagedSnapshot)> + '_ {
        self.managed.snapshots()
    }

    /// Returns how long a task of the server that is ready waits for its poll. This is the [`Watch::lag`] of the host's
    /// [watch](crate::background#supervision), or 0 if the host has no watch. The value is current, even if this status
    /// is old.
    #[must_use]
    pub fn runtime_lag(&self) -> Duration {
        self.watch.as_ref().map_or(Duration::ZERO, WatchView::lag)
    }

    /// Returns the last report of each worker that is blocked now. These are the [`Watch::blocked`] of the host's
    /// [watch](crate::background#supervision). The value is current, even if this status is old.
    #[must_use]
    pub fn blocked(&self) -> Vec<Blocked> {
        self.watch.as_ref().map_or_else(Vec::new, WatchView::blocked)
    }
}

impl fmt::Display for HostPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "built",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for HostStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use std::collections::BTreeMap;

        use serde::Serialize;

        #[derive(Serialize)]
        struct Status<'a> {
            phase: HostPhase,
            #[serde(serialize_with = "super::service_status::seconds_since_1970")]
            since: SystemTime,
            has_started: bool,
            is_ready: bool,
            runtime_lag_seconds: f64,
            blocked: Vec<Blocked>,
            services: Vec<&'a ServiceStatus>,
            managed: BTreeMap<Arc<str>, ManagedSnapshot>,
        }

        let status = Status {
            phase: self.phase,
            since: self.since,
            has_started: self.has_started,
            is_ready: self.is_ready(),
            runtime_lag_seconds: self.runtime_lag().as_secs_f64(),
            blocked: self.blocked(),
            services: self.services().collect(),
            managed: self.managed().collect(),
        };
        status.serialize(serializer)
    }
}
