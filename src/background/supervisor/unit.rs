//! [`Unit`], one service as its supervisor knows it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::background::restart::RestartHistory;
use crate::background::spec::ServiceOptions;
use crate::background::status::{CleanUp, ExitKind, Pulse};

/// One service: what was said of it, and how far it is.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Most services have the same.
    pub(crate) options: Arc<ServiceOptions>,
    /// Most services have none.
    edges: Option<Box<Edges>>,
    pub(crate) pulse: Option<Arc<Pulse>>,

    pub(super) stage: Stage,
    pub(super) failures: RestartHistory,
    /// How many of those that it depends on were never ready yet.
    pub(super) missing: u32,
    /// How many of those that depend on it have not ended yet.
    pub(super) needed_by: u32,
    pub(super) was_ready: bool,
    /// Whether it is known how its first start went.
    pub(super) is_decided: bool,
    pub(super) clean_up: CleanUp,
    /// From being told to stop to the end, the last time.
    pub(super) took: Option<Duration>,
    pub(super) now: Generation,
}

/// The generation that is going on.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) began: Instant,
    /// Whether its `start` returned `Ok`.
    pub(super) has_started: bool,
    /// Since when it is ready.
    pub(super) ready_since: Option<Instant>,
    /// How long it was ready before.
    pub(super) was_ready_for: Duration,
    /// When and why it was told to stop.
    pub(super) told: Option<(Instant, Why)>,
    /// How its work ended, and when.
    pub(super) exit: Option<(ExitKind, Instant)>,
    /// Whether there can't be another one after it: its thread may still be at work, or there is no runtime any more.
    pub(super) is_the_last: bool,
}

/// The services that one has to do with.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    pub(crate) after: Box<[u32]>,
    pub(crate) before: Box<[u32]>,
    pub(crate) restarts_with: Box<[u32]>,
    /// The services that are restarted with this one.
    pub(crate) followers: Box<[u32]>,
}

/// How far a service is. See the picture in the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// For the host to start, or for what it depends on.
    Waiting,
    Starting,
    Running,
    /// It was told to stop.
    Stopping,
    /// It did not, and its work is being dropped.
    CutOff,
    CleaningUp,
    /// Its `stop` takes too long, and is being dropped.
    CleanUpCutOff,
    BackingOff,
    /// Until what it is restarted with is ready again.
    Held,
    Ended,
}

/// Why a service was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    HostStops,
    StartTimedOut,
    NoHeartbeat,
    /// What it is restarted with is restarted.
    Follows,
    /// What it is restarted with was given up.
    FollowsForEver,
}

impl Unit {
    pub(crate) fn new(options: Arc<ServiceOptions>, edges: Edges, pulse: Option<Arc<Pulse>>, now: Instant) -> Self {
        let (missing, needed_by) = (edges.after.len() as u32, edges.before.len() as u32);
        let is_alone = missing == 0 && needed_by == 0;
        Self {
            options,
            edges: (!is_alone).then(|| Box::new(edges)),
            pulse,
            stage: Stage::Waiting,
            failures: RestartHistory::default(),
            missing,
            needed_by,
            was_ready: false,
            is_decided: false,
            clean_up: CleanUp::NotNeeded,
            took: None,
            now: Generation::beginning(now),
        }
    }

    pub(super) fn after(&self) -> &[u32] {
        self.edges.as_ref().map_or(&[], |edges| &edges.after)
    }

    pub(super) fn before(&self) -> &[u32] {
        self.edges.as_ref().map_or(&[], |edges| &edges.before)
    }

    pub(super) fn restarts_with(&self) -> &[u32] {
        self.edges.as_ref().map_or(&[], |edges| &edges.restarts_with)
    }

    pub(super) fn followers(&self) -> &[u32] {
        self.edges.as_ref().map_or(&[], |edges| &edges.followers)
    }

    /// Whether there is a generation that may be told to stop.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.stage == Stage::Running && self.now.ready_since.is_some()
    }

    pub(super) fn is_stable(&self, now: Instant) -> bool {
        self.now.ready_for(now) >= self.options.stable_after
    }
}

impl Generation {
    pub(super) fn beginning(now: Instant) -> Self {
        Self {
            began: now,
            has_started: false,
            ready_since: None,
            was_ready_for: Duration::ZERO,
            told: None,
            exit: None,
            is_the_last: false,
        }
    }

    /// Takes down whether it is ready from now on.
    pub(super) fn set_ready(&mut self, now: Instant, is_ready: bool) {
        if is_ready {
            self.ready_since.get_or_insert(now);
        } else if let Some(since) = self.ready_since.take() {
            self.was_ready_for += now.duration_since(since);
        }
    }

    fn ready_for(&self, now: Instant) -> Duration {
        self.was_ready_for + self.ready_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    pub(super) fn why(&self) -> Option<Why> {
        self.told.map(|(_, why)| why)
    }
}
