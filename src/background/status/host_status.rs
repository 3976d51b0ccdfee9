//! [`HostStatus`], a snapshot of a host and its services.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::events::HostEvent;
use super::service_status::ServiceStatus;

/// How many services share a piece of the snapshot: a change of one copies one piece, not all.
const PIECE: usize = 16;

/// A host and its services at one moment.
///
/// It is published anew with each change and never changes itself, so taking it is one atomic step, whatever the number of
/// services.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HostStatus {
    /// How far the host is.
    pub phase: HostPhase,
    /// When it entered that phase.
    pub since: SystemTime,
    /// Whether it came to [`Running`](HostPhase::Running) once: all services have started. It stays so when the host stops.
    pub has_started: bool,
    pub(crate) services: Services,
    pub(crate) lag: Arc<Lag>,
}

/// How far a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HostPhase {
    /// Not started.
    Built,
    /// Services start.
    Starting,
    /// All have started.
    Running,
    /// The server takes its last requests to their end. Services still run.
    Draining,
    /// Services stop.
    Stopping,
    /// All have ended.
    Stopped,
}

/// The time that a task waits for its turn on the server's runtime. It orders nothing, so `Relaxed` does.
#[derive(Debug, Default)]
pub(crate) struct Lag(AtomicU64);

impl Lag {
    pub(crate) fn set(&self, lag: Duration) {
        self.0.store(u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl HostStatus {
    /// Whether the host runs, and every critical service [is ready](ServiceStatus::is_ready).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == HostPhase::Running && self.services().all(|service| !service.is_critical || service.is_ready())
    }

    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.services.index(name).map(|index| self.services.at(index))
    }

    /// All services, in the order in which the host was given them.
    pub fn services(&self) -> impl Iterator<Item = &ServiceStatus> {
        self.services.iter()
    }

    /// How long a task last waited for its turn on the server's runtime, and is waiting if it has not had it, as of now and
    /// not of the snapshot. It is asked ten times a second by a supervisor with a thread of its own, and otherwise 0.
    #[must_use]
    pub fn runtime_lag(&self) -> Duration {
        self.lag.get()
    }

    /// What has changed since another status of the same host, in one event for each service.
    pub(crate) fn changes_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = HostEvent> + 'a {
        let has_changed = |id: &u32| self.services.at(*id).state != before.services.at(*id).state;
        let services = (0..self.services.len()).filter(has_changed);
        let services = services.map(|id| HostEvent::Service(Arc::new(self.services.at(id).clone())));
        let phase = (self.phase != before.phase).then_some(HostEvent::Phase(self.phase));
        services.chain(phase)
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
        use serde::Serialize;

        #[derive(Serialize)]
        struct Status<'a> {
            phase: HostPhase,
            #[serde(serialize_with = "super::service_status::seconds_since_1970")]
            since: SystemTime,
            has_started: bool,
            is_ready: bool,
            runtime_lag_seconds: f64,
            services: Vec<&'a ServiceStatus>,
        }

        let status = Status {
            phase: self.phase,
            since: self.since,
            has_started: self.has_started,
            is_ready: self.is_ready(),
            runtime_lag_seconds: self.runtime_lag().as_secs_f64(),
            services: self.services().collect(),
        };
        status.serialize(serializer)
    }
}

/// The statuses of all services. A copy shares them until one of the two changes.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    indices: Arc<HashMap<Arc<str>, u32>>,
    pieces: Arc<[Piece]>,
}

type Piece = Arc<[ServiceStatus]>;

impl Services {
    pub(crate) fn new(services: Vec<ServiceStatus>, indices: HashMap<Arc<str>, u32>) -> Self {
        let mut services = services.into_iter();
        let pieces = std::iter::from_fn(|| {
            let piece: Piece = services.by_ref().take(PIECE).collect();
            (!piece.is_empty()).then_some(piece)
        });
        Self { indices: Arc::new(indices), pieces: pieces.collect() }
    }

    pub(crate) fn index(&self, name: &str) -> Option<u32> {
        self.indices.get(name).copied()
    }

    pub(crate) fn at(&self, index: u32) -> &ServiceStatus {
        &self.pieces[index as usize / PIECE][index as usize % PIECE]
    }

    /// The status to change. A piece that copies share is copied first.
    pub(crate) fn at_mut(&mut self, index: u32) -> &mut ServiceStatus {
        let piece = &mut Arc::make_mut(&mut self.pieces)[index as usize / PIECE];
        &mut Arc::make_mut(piece)[index as usize % PIECE]
    }

    pub(crate) fn len(&self) -> u32 {
        self.indices.len() as u32
    }

    fn iter(&self) -> impl Iterator<Item = &ServiceStatus> {
        self.pieces.iter().flat_map(|piece| piece.iter())
    }
}
