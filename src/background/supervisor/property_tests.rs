//! Runs a [`Supervisor`] in a simulation with services that hang, ignore a stop, block and fail, and with a stop of the
//! host at any time.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::subsequence;
use tokio::time::Instant;

use super::decisions::Action;
use super::service_slot::{Dependencies, ServiceSlot, ServiceValue, SlotState, StopReason};
use super::state::{HostTimeouts, Supervisor};
use crate::backend::{LockDomain, OnLost};
use crate::background::control::{GenerationEvent, GenerationPhase, PhaseResult, ServiceHealth};
use crate::background::placement::Placement;
use crate::background::restart::{Backoff, Intensity, Restart};
use crate::background::service::BoxError;
use crate::background::service_guard::{ServiceGuard, ServicePermit};
use crate::background::spec::ServiceOptions;
use crate::background::status::{
    CleanUp, ExitKind, Heartbeat, HostPhase, ServiceState, ServiceStatus, ShutdownReport, Trigger,
};
use crate::guard::{EndpointGuard, SharedGuard};

const MS: Duration = Duration::from_millis(1);
/// A simulation that takes more steps is assumed to run forever.
const MAX_STEPS: usize = 20_000;

/// The options of a service, and what it does in each generation.
#[derive(Clone, Debug)]
struct ServiceScript {
    after: Vec<usize>,
    restart_with: Vec<usize>,
    placement: Placement,
    restart: Restart,
    is_critical: bool,
    is_intake: bool,
    manual_ready: bool,
    heartbeat: Option<u64>,
    backoff: u64,
    restarts: u32,
    timeouts: [u64; 3],
    generations: Vec<GenerationScript>,
    /// How long its destructor takes.
    destructor: Option<u64>,
    guard: Option<GuardScript>,
}

/// What the guard of a service does. A time of `None` means never.
#[derive(Clone, Debug)]
struct GuardScript {
    admits: Option<u64>,
    loses_lease: Option<u64>,
    /// The loss drops the generation.
    cancels: bool,
}

static CANCELLING: LockDomain = LockDomain::new("cancelling");
static NOTIFYING: LockDomain = LockDomain::new("notifying").on_lost(OnLost::Notify);

/// What a service does in one generation. A time of `None` means never.
#[derive(Clone, Debug)]
struct GenerationScript {
    start: (Option<u64>, bool),
    ready: Option<u64>,
    run: (Option<u64>, bool),
    /// How long its child tasks outlive its run.
    children: Option<u64>,
    /// How long it takes to end after a stop request.
    after_stop_request: Option<u64>,
    /// It blocks its thread and can't be dropped.
    is_stuck: bool,
    stop: Option<u64>,
    stop_is_stuck: bool,
}

/// The services of a host, and what happens to it.
#[derive(Clone, Debug)]
struct HostScript {
    scripts: Vec<ServiceScript>,
    has_server: bool,
    limits: [u64; 3],
    shutdown_at: u64,
    force_at: Option<u64>,
    /// How long the server takes to end once the stop has begun.
    server: Option<u64>,
    drop_at: Option<u64>,
    in_batches: bool,
    /// How long the work that the server leaves takes to end, if there is any.
    work: Option<Option<u64>>,
    /// How long the pools take to drain, if there are any.
    pools: Option<Option<u64>>,
}

fn delay(max: u64) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 4 => (0..max).prop_map(Some)]
}

prop_compose! {
    fn generation_script()(
        start in (prop_oneof![1 => Just(None), 9 => (0..40_u64).prop_map(Some)], prop::bool::weighted(0.85)),
        ready in delay(80),
        run in (prop_oneof![2 => Just(None), 3 => (1..300_u64).prop_map(Some)], any::<bool>()),
        children in prop_oneof![3 => Just(Some(0)), 1 => (1..80_u64).prop_map(Some), 1 => Just(None)],
        after_stop_request in delay(80),
        is_stuck in prop::bool::weighted(0.2),
        stop in delay(60),
        stop_is_stuck in prop::bool::weighted(0.2),
    ) -> GenerationScript {
        GenerationScript { start, ready, run, children, after_stop_request, is_stuck, stop, stop_is_stuck }
    }
}

/// Returns up to two of the services before the one with that index.
fn earlier(index: usize) -> impl Strategy<Value = Vec<usize>> {
    subsequence((0..index).collect::<Vec<_>>(), 0..=index.min(2))
}

prop_compose! {
    fn service_script(index: usize)(
        after in earlier(index),
        restart_with in earlier(index),
        placement in prop_oneof![Just(Placement::Shared), Just(Placement::Thread), Just(Placement::Blocking)],
        restart in prop_oneof![1 => Just(Restart::Never), 3 => Just(Restart::OnFailure), 2 => Just(Restart::Always)],
        is_critical in prop::bool::weighted(0.4),
        is_intake in prop::bool::weighted(0.3),
        manual_ready in prop::bool::weighted(0.3),
        heartbeat in prop_oneof![4 => Just(None), 1 => (1..200_u64).prop_map(Some)],
        backoff in prop_oneof![Just(0), 1..100_u64],
        restarts in 0..6_u32,
        timeouts in [1..60_u64, 0..60_u64, 0..60_u64],
        generations in prop::collection::vec(generation_script(), 1..4),
        destructor in prop_oneof![3 => Just(Some(0)), 1 => delay(80)],
        guard in prop::option::weighted(0.3, (delay(80), prop::option::of(0..300_u64), any::<bool>())),
    ) -> ServiceScript {
        let guard = guard.map(|(admits, loses_lease, cancels)| GuardScript { admits, loses_lease, cancels });
        ServiceScript {
            after, restart_with, placement, restart, is_critical, is_intake, manual_ready, heartbeat, backoff, restarts, timeouts,
            generations, destructor, guard,
        }
    }
}

prop_compose! {
    fn host_script()(
        scripts in (1..7_usize).prop_flat_map(|count| (0..count).map(service_script).collect::<Vec<_>>()),
        has_server in any::<bool>(),
        limits in [1..400_u64, 0..100_u64, 0..600_u64],
        shutdown_at in 0..1_500_u64,
        force_at in prop::option::weighted(0.3, 0..1_800_u64),
        server in delay(150),
        drop_at in prop::option::weighted(0.2, 0..1_800_u64),
        in_batches in any::<bool>(),
        work in prop::option::of(delay(150)),
        pools in prop::option::of(delay(150)),
    ) -> HostScript {
        HostScript { scripts, has_server, limits, shutdown_at, force_at, server, drop_at, in_batches, work, pools }
    }
}

/// The index of a service, and one of its generations.
type GenerationKey = (usize, u64);

/// An event that the simulation has scheduled.
#[derive(Clone, Copy, Debug)]
enum SimulatedEvent {
    /// The guard of a service admits the service, if the count of its changes to and from standby is still this number.
    Admits(usize, u32),
    LeaseLost(GenerationKey),
    StartEnds(GenerationKey, bool),
    RunEnds(GenerationKey, bool),
    ChildrenEnd(GenerationKey),
    StopEnds(GenerationKey),
    Ready(GenerationKey),
    Shutdown,
    Force,
    ServerEnds,
    WorkEnds,
    PoolsEnd,
    ServiceDropped(usize),
    HostDropped,
}

/// A generation in the simulation. It may outlive the supervisor's view of it.
#[derive(Clone, Debug, Default)]
struct SimulatedGeneration {
    phase: SimulatedPhase,
    is_stopping: bool,
    aborted: u8,
    has_started: bool,
    is_claimed: bool,
    stops: usize,
    /// How its run ended, while its child tasks continue.
    ended: Option<PhaseResult>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum SimulatedPhase {
    #[default]
    Starting,
    Running,
    AwaitingChildren,
    Stopping,
    Gone,
}

struct Simulation<'a> {
    script: &'a HostScript,
    supervisor: Supervisor,
    began: Instant,
    now: Instant,
    scheduled: BTreeMap<(Instant, usize), SimulatedEvent>,
    sequence: usize,
    inbox: VecDeque<(GenerationKey, GenerationEvent)>,
    generations: HashMap<GenerationKey, SimulatedGeneration>,
    exits: HashSet<GenerationKey>,
    ever_ready: Vec<bool>,
    guards: Vec<SharedGuard>,
    permits: HashMap<usize, ServicePermit>,
    /// How many times each service has begun or ceased to stand by.
    standbys: Vec<u32>,
    released: Vec<bool>,
    dropped: Vec<bool>,
    report: Option<ShutdownReport>,
    stop_began: Option<Instant>,
    forced: Option<Instant>,
    server_was_asked: bool,
    work_was_asked: bool,
    pools_were_asked: bool,
    work_has_ended: bool,
    pools_have_ended: bool,
}

fn ms(ms: u64) -> Duration {
    MS * u32::try_from(ms).expect("the times in a test are short")
}

fn error() -> ExitKind {
    ExitKind::Failed(BoxError::from("the service fails").into())
}

fn slots(host: &HostScript, now: Instant) -> Vec<ServiceSlot> {
    let ids = |ids: Vec<usize>| -> Vec<u32> { ids.into_iter().map(|id| id as u32).collect() };
    let count = host.scripts.len();
    let after = |id: usize| {
        let script = &host.scripts[id];
        let mut after = [&script.after[..], &script.restart_with].concat();
        after.sort_unstable();
        after.dedup();
        after
    };
    let slot = |(id, script): (usize, &ServiceScript)| {
        let [start, stop, clean_up] = script.timeouts.map(ms);
        let options = ServiceOptions {
            restart: script.restart,
            backoff: Backoff::new(ms(script.backoff)).limit(ms(200)).jitter(0.0),
            intensity: Intensity::new(script.restarts, ms(500)),
            stable_after: ms(100),
            is_critical: script.is_critical,
            is_intake: script.is_intake,
            manual_ready: script.manual_ready,
            heartbeat: script.heartbeat.map(ms),
            // The simulation acquires the permits itself.
            guard: script.guard.as_ref().map(|guard| {
                let domain = if guard.cancels { &CANCELLING } else { &NOTIFYING };
                ServiceGuard(EndpointGuard::builder("unused").distributed(domain).build().into())
            }),
            start_timeout: start,
            stop_timeout: stop,
            cleanup_timeout: clean_up,
            ..ServiceOptions::new(script.placement)
        };
        let restarts_with_it = |other: &usize| host.scripts[*other].restart_with.contains(&id);
        let dependencies = Dependencies {
            after: ids(after(id)),
            dependents: ids((0..count).filter(|other| after(*other).contains(&id)).collect()),
            restarts_with: ids(script.restart_with.clone()),
            restart_dependents: ids((0..count).filter(restarts_with_it).collect()),
        };
        let (name, heartbeat) = (format!("s{id}").into(), script.heartbeat.map(|_| Arc::new(Heartbeat::new(now))));
        let (placement, is_critical) = (script.placement, script.is_critical);
        let status = ServiceStatus::registered(name, placement, is_critical, heartbeat, None, SystemTime::now());
        ServiceSlot::new(options, dependencies, status, now)
    };
    host.scripts.iter().enumerate().map(slot).collect()
}

impl<'a> Simulation<'a> {
    fn new(script: &'a HostScript) -> Self {
        // The simulation does not begin at the epoch of the machine's clock, since no instant may exist before that.
        let began = Instant::now();
        let [startup, drain, shutdown] = script.limits.map(ms);
        let timeouts = HostTimeouts { startup, drain, shutdown };
        let mut supervisor = Supervisor::new(slots(script, began), timeouts, || 0.0);
        (supervisor.has_work, supervisor.has_pools) = (script.work.is_some(), script.pools.is_some());
        let mut simulation = Self {
            script,
            supervisor,
            began,
            now: began,
            scheduled: BTreeMap::new(),
            sequence: 0,
            inbox: VecDeque::new(),
            generations: HashMap::new(),
            exits: HashSet::new(),
            ever_ready: vec![false; script.scripts.len()],
            guards: script.scripts.iter().map(|_| EndpointGuard::new("leader").into()).collect(),
            permits: HashMap::new(),
            standbys: vec![0; script.scripts.len()],
            released: vec![false; script.scripts.len()],
            dropped: vec![false; script.scripts.len()],
            report: None,
            stop_began: None,
            forced: None,
            server_was_asked: false,
            work_was_asked: false,
            pools_were_asked: false,
            work_has_ended: false,
            pools_have_ended: false,
        };
        simulation.schedule(Some(script.shutdown_at), SimulatedEvent::Shutdown);
        simulation.schedule(script.force_at, SimulatedEvent::Force);
        if script.has_server {
            simulation.schedule(script.drop_at, SimulatedEvent::HostDropped);
        }
        simulation
    }

    fn generation_script(&self, key: GenerationKey) -> &'a GenerationScript {
        let scripts = &self.script.scripts[key.0].generations;
        &scripts[(key.1 as usize - 1) % scripts.len()]
    }

    fn is_blocking(&self, (id, _): GenerationKey) -> bool {
        self.script.scripts[id].placement == Placement::Blocking
    }

    fn schedule(&mut self, after: Option<u64>, event: SimulatedEvent) {
        if let Some(after) = after {
            self.sequence += 1;
            self.scheduled.insert((self.now + ms(after), self.sequence), event);
        }
    }

    fn send(&mut self, key: GenerationKey, event: GenerationEvent) {
        self.inbox.push_back((key, event));
    }

    /// Runs until the host has ended, and then until nothing is scheduled any more.
    fn run(&mut self) {
        self.supervisor.start(self.now, self.script.has_server);
        self.execute();
        for _ in 0..MAX_STEPS {
            let timer = self.supervisor.timers.next();
            let Some(next) = self.scheduled.first_key_value().map(|((at, _), _)| *at).into_iter().chain(timer).min()
            else {
                return;
            };
            self.now = self.now.max(next);
            let due = self.scheduled.first_key_value().filter(|((at, _), _)| *at <= self.now).map(|(key, _)| *key);
            if let Some(event) = due.and_then(|key| self.scheduled.remove(&key)) {
                self.on_scheduled(event);
            }
            self.deliver();
        }
        panic!("the simulation never ends");
    }

    /// Delivers the messages in the inbox one by one or in one batch, as the event loop does.
    fn deliver(&mut self) {
        loop {
            let batch = if self.script.in_batches { self.inbox.len() } else { 1 };
            for _ in 0..batch {
                let Some(((id, generation), event)) = self.inbox.pop_front() else { break };
                let ready = || ServiceHealth { ready: true, ..ServiceHealth::default() };
                let health = matches!(event, GenerationEvent::HealthChanged).then(ready);
                self.supervisor.on_event(self.now, id as u32, generation, event, health);
                self.record_exits();
            }
            self.supervisor.on_time(self.now);
            self.record_exits();
            self.execute();
            self.check_work();
            if self.inbox.is_empty() {
                return;
            }
        }
    }

    /// Continues the stop if what the host waits for has ended, as the executor does.
    fn check_work(&mut self) {
        let has_ended = match self.supervisor.phase {
            HostPhase::Draining => self.work_has_ended,
            _ => self.pools_have_ended,
        };
        if self.supervisor.is_draining() && has_ended {
            self.supervisor.drained(self.now);
            self.execute();
        }
    }

    fn on_scheduled(&mut self, event: SimulatedEvent) {
        match event {
            SimulatedEvent::Admits(id, standby) => self.admit(id, standby),
            SimulatedEvent::LeaseLost(key) => self.send(key, GenerationEvent::LeaseLost),
            SimulatedEvent::StartEnds(key, is_ok) => self.start_ends(key, is_ok),
            SimulatedEvent::RunEnds(key, is_ok) => {
                let ended = if is_ok { Ok(()) } else { Err(error()) };
                self.run_ends(key, ended);
            }
            SimulatedEvent::ChildrenEnd(key) => self.children_end(key),
            SimulatedEvent::StopEnds(key) => self.stop_ends(key, CleanUp::Done),
            SimulatedEvent::Ready(key) => {
                if self.generation(key).phase == SimulatedPhase::Running {
                    self.send(key, GenerationEvent::HealthChanged);
                }
            }
            SimulatedEvent::Shutdown => self.supervisor.shutdown(self.now, Trigger::Requested),
            SimulatedEvent::Force => {
                self.forced.get_or_insert(self.now);
                self.supervisor.force_shutdown(self.now, Trigger::Requested);
            }
            SimulatedEvent::ServerEnds => self.supervisor.server_ended(self.now),
            SimulatedEvent::WorkEnds => self.work_has_ended = true,
            SimulatedEvent::PoolsEnd => self.pools_have_ended = true,
            SimulatedEvent::ServiceDropped(id) => {
                self.dropped[id] |= self.report.is_none();
                self.supervisor.service_dropped(self.now, id as u32);
            }
            SimulatedEvent::HostDropped => self.supervisor.shutdown(self.now, Trigger::Dropped),
        }
    }

    fn generation(&mut self, key: GenerationKey) -> &mut SimulatedGeneration {
        self.generations.get_mut(&key).expect("the generation has begun")
    }

    fn admit(&mut self, id: usize, standby: u32) {
        if self.standbys[id] == standby {
            let permit = self.guards[id].clone().try_acquire_owned().expect("the last permit was released");
            self.supervisor.on_admitted(self.now, id as u32, ServicePermit::new(permit));
            self.execute();
        }
    }

    fn begin(&mut self, id: usize) {
        assert!(!self.released[id], "s{id} begins after it was released");
        let permit = self.supervisor.slot_mut(id as u32).permit.take();
        let guard = &self.script.scripts[id].guard;
        assert_eq!(permit.is_some(), guard.is_some(), "s{id} begins with a permit if it has a guard");
        self.permits.extend(permit.map(|permit| (id, permit)));
        let key = (id, self.supervisor.status(id as u32).generation);
        for dependency in self.supervisor.slot(id as u32).dependencies.after.iter() {
            assert!(self.ever_ready[*dependency as usize], "s{id} begins before s{dependency} was ready");
        }
        for ((other, earlier), simulated) in &self.generations {
            assert!(
                *other != id || simulated.phase == SimulatedPhase::Gone,
                "s{id} begins before the end of its generation {earlier}: {simulated:?}"
            );
        }
        assert!(self.generations.insert(key, SimulatedGeneration::default()).is_none(), "s{id} begins twice");
        self.schedule(guard.as_ref().and_then(|guard| guard.loses_lease), SimulatedEvent::LeaseLost(key));
        let (after, is_ok) = self.generation_script(key).start;
        self.schedule(after, SimulatedEvent::StartEnds(key, is_ok));
    }

    fn start_ends(&mut self, key: GenerationKey, is_ok: bool) {
        let script = self.generation_script(key);
        let simulated = self.generation(key);
        if simulated.phase != SimulatedPhase::Starting {
            return;
        }
        if !is_ok {
            simulated.phase = SimulatedPhase::Gone;
            return self.send(key, GenerationEvent::StartFailed(error()));
        }
        simulated.phase = SimulatedPhase::Running;
        simulated.has_started = true;
        let is_stopping = simulated.is_stopping;
        self.send(key, GenerationEvent::Started);
        if is_stopping {
            return self.run_ends(key, Ok(()));
        }
        self.schedule(script.ready, SimulatedEvent::Ready(key));
        self.schedule(script.run.0, SimulatedEvent::RunEnds(key, script.run.1));
    }

    fn run_ends(&mut self, key: GenerationKey, ended: PhaseResult) {
        let script = self.generation_script(key);
        let is_blocking = self.is_blocking(key);
        let simulated = self.generation(key);
        if simulated.phase != SimulatedPhase::Running {
            return;
        }
        simulated.ended = Some(ended);
        simulated.phase = SimulatedPhase::AwaitingChildren;
        if is_blocking || script.children == Some(0) || simulated.aborted >= GenerationPhase::Run as u8 {
            return self.children_end(key);
        }
        self.schedule(script.children, SimulatedEvent::ChildrenEnd(key));
        self.send(key, GenerationEvent::AwaitsChildTasks);
    }

    fn children_end(&mut self, key: GenerationKey) {
        let simulated = self.generation(key);
        if simulated.phase != SimulatedPhase::AwaitingChildren {
            return;
        }
        simulated.phase = SimulatedPhase::Stopping;
        let ended = simulated.ended.take().expect("the run has ended");
        self.send(key, GenerationEvent::RunEnded(ended));
        if !self.stop(key) {
            self.generation(key).phase = SimulatedPhase::Gone;
        }
    }

    /// Calls `stop`, unless the call was claimed before. Returns `true` if it was not.
    fn stop(&mut self, key: GenerationKey) -> bool {
        let after = self.generation_script(key).stop;
        let simulated = self.generation(key);
        if mem::replace(&mut simulated.is_claimed, true) {
            return false;
        }
        simulated.stops += 1;
        self.schedule(after, SimulatedEvent::StopEnds(key));
        true
    }

    fn stop_ends(&mut self, key: GenerationKey, outcome: CleanUp) {
        let simulated = self.generation(key);
        // A generation that was left behind in its run, with its `stop` on another thread, still exists.
        if simulated.phase == SimulatedPhase::Stopping {
            simulated.phase = SimulatedPhase::Gone;
        }
        self.send(key, GenerationEvent::CleanedUp(outcome));
    }

    fn on_stop_request(&mut self, key @ (id, _): GenerationKey) {
        let slot = self.supervisor.slot(id as u32);
        if slot.current.stop_reason() == Some(StopReason::HostStops)
            && self.forced.is_none()
            && self.now < self.hurry_at()
        {
            for dependent in slot.dependencies.dependents.iter() {
                let state = self.supervisor.slot(*dependent).state;
                assert_eq!(state, SlotState::Ended, "s{id} is asked to stop before s{dependent} has ended");
            }
        }
        let script = self.generation_script(key);
        let simulated = self.generation(key);
        simulated.is_stopping = true;
        match simulated.phase {
            SimulatedPhase::Starting => self.schedule(script.after_stop_request, SimulatedEvent::StartEnds(key, false)),
            SimulatedPhase::Running => self.schedule(script.after_stop_request, SimulatedEvent::RunEnds(key, true)),
            _ => {}
        }
    }

    fn on_abort(&mut self, key: GenerationKey, phase: GenerationPhase) {
        let script = self.generation_script(key);
        let is_blocking = self.is_blocking(key);
        let simulated = self.generation(key);
        simulated.aborted = simulated.aborted.max(phase as u8);
        if is_blocking {
            return;
        }
        match simulated.phase {
            SimulatedPhase::Starting if !script.is_stuck => {
                simulated.phase = SimulatedPhase::Gone;
                self.send(key, GenerationEvent::StartFailed(ExitKind::Aborted));
            }
            SimulatedPhase::Running if !script.is_stuck && phase >= GenerationPhase::Run => {
                self.run_ends(key, Err(ExitKind::Aborted));
            }
            SimulatedPhase::AwaitingChildren if !script.is_stuck && phase >= GenerationPhase::Run => {
                self.children_end(key)
            }
            SimulatedPhase::Stopping if !script.stop_is_stuck && phase >= GenerationPhase::Stop => {
                self.stop_ends(key, CleanUp::TimedOut);
            }
            _ => {}
        }
    }

    /// Drops a service that the host has released. A generation that blocks its thread keeps it.
    fn on_release(&mut self, id: usize) {
        let slot = self.supervisor.slot(id as u32);
        let is_hurried = self.supervisor.stop.as_ref().is_some_and(|stop| stop.is_hurried);
        let is_needed = slot.live_dependents > 0 && !is_hurried;
        assert!(slot.state == SlotState::Ended && !is_needed, "s{id} is released too early");
        assert!(!mem::replace(&mut self.released[id], true), "s{id} is released twice");
        let keeps = |((other, _), simulated): (&GenerationKey, &SimulatedGeneration)| {
            *other == id && simulated.phase != SimulatedPhase::Gone
        };
        if !self.generations.iter().any(keeps) {
            self.schedule(self.script.scripts[id].destructor, SimulatedEvent::ServiceDropped(id));
        }
    }

    /// Checks that a service which the host stops had its share of the time.
    fn check_share(&self, id: u32) {
        let (slot, stop) = (self.supervisor.slot(id), self.supervisor.stop.as_ref());
        let Some((stop, (requested, StopReason::HostStops))) = stop.zip(slot.current.stop_requested) else { return };
        let schedule = &stop.schedule;
        if self.forced.is_none() && self.now < schedule.deadline {
            let least = slot.options.stop_timeout.min((schedule.deadline - schedule.hurry_at) / 4);
            let had = self.now.duration_since(requested);
            assert!(had >= least, "s{id} had {had:?} of {least:?} to stop");
        }
    }

    fn hurry_at(&self) -> Instant {
        self.supervisor.stop.as_ref().map_or(self.now + MS, |stop| stop.schedule.hurry_at)
    }

    /// Executes what was decided, and checks what holds at all times.
    fn execute(&mut self) {
        let actions = mem::take(&mut self.supervisor.decisions.actions);
        for (id, was_ready) in self.ever_ready.iter_mut().enumerate() {
            *was_ready |= self.supervisor.status(id as u32).is_ready() || self.supervisor.slots[id].was_ready;
        }
        if self.supervisor.stop.is_some() {
            self.stop_began.get_or_insert(self.now);
        }
        self.check();
        for action in actions {
            let key = |id: u32| (id as usize, self.supervisor.status(id).generation);
            match action {
                Action::StandBy(id) => {
                    let (id, guard) = (id as usize, &self.script.scripts[id as usize].guard);
                    self.standbys[id] += 1;
                    let admits = guard.as_ref().and_then(|guard| guard.admits);
                    self.schedule(admits, SimulatedEvent::Admits(id, self.standbys[id]));
                }
                Action::LeaveStandby(id) => self.standbys[id as usize] += 1,
                Action::ReleasePermit(id) => {
                    assert!(self.permits.remove(&(id as usize)).is_some(), "s{id} releases a permit once");
                }
                Action::LeavePermit(id) => {
                    assert!(self.supervisor.slot(id).is_left_behind, "s{id} has left no thread behind");
                }
                Action::BeginGeneration(id) => self.begin(id as usize),
                Action::RequestStop(id) if key(id).1 > 0 => self.on_stop_request(key(id)),
                Action::Abort(id, phase) if key(id).1 > 0 => {
                    if phase == GenerationPhase::Run {
                        self.check_share(id);
                    }
                    self.on_abort(key(id), phase);
                }
                Action::Release(id) => self.on_release(id as usize),
                Action::CleanUpElsewhere(id, _) => {
                    assert!(!self.released[id as usize], "s{id} is cleaned up after it was released");
                    self.stop(key(id));
                }
                Action::Finish(report, _) => {
                    assert!(self.report.is_none(), "the host ends twice");
                    self.report = Some(*report);
                }
                Action::RefuseWaiters => {
                    assert!(self.server_was_asked && !self.work_was_asked, "the server still drains");
                }
                Action::DrainWork => {
                    assert!(
                        self.server_was_asked && !self.work_was_asked,
                        "the server drains first, and the work once"
                    );
                    self.work_was_asked = true;
                    // Without work, the host still waits for a server that is cut off.
                    self.schedule(self.script.work.unwrap_or(Some(0)), SimulatedEvent::WorkEnds);
                }
                Action::DrainPools => {
                    assert!(!self.pools_were_asked, "the pools are drained twice");
                    assert_eq!(self.supervisor.live, 0, "the services need the pools");
                    let stop = self.supervisor.stop.as_ref().expect("the host stops");
                    assert!(
                        self.supervisor.undropped == 0 || stop.has_given_up_on_drops,
                        "the destructors of the services need the pools"
                    );
                    self.pools_were_asked = true;
                    self.schedule(self.script.pools.flatten(), SimulatedEvent::PoolsEnd);
                }
                Action::DrainServer => {
                    assert!(!self.server_was_asked, "the server is asked to end twice");
                    self.server_was_asked = true;
                    if self.script.has_server {
                        self.schedule(self.script.server, SimulatedEvent::ServerEnds);
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&self) {
        let supervisor = &self.supervisor;
        let phase = supervisor.phase;
        for (id, slot) in (0..).zip(&supervisor.slots) {
            use SlotState::{
                Aborting, AbortingCleanUp, BackingOff, CleaningUp, Ended, Held, StandingBy, Starting, Stopping, Waiting,
            };
            let is_waiting =
                matches!(slot.state, Starting | Stopping | Aborting | CleaningUp | AbortingCleanUp | BackingOff);
            assert!(!is_waiting || supervisor.timers.get(id).is_some(), "s{id} waits without a timer: {slot:?}");
            let is_idle = matches!(slot.state, Waiting | Held | Ended);
            assert!(!is_idle || supervisor.timers.get(id).is_none(), "s{id} has a timer: {slot:?}");
            let state = &supervisor.status(id).state;
            let agrees = match slot.state {
                Waiting => *state == ServiceState::Registered,
                StandingBy => matches!(state, ServiceState::Standby { .. }),
                Starting => *state == ServiceState::Starting,
                SlotState::Running => matches!(state, ServiceState::Running { .. }),
                Stopping | Aborting | CleaningUp | AbortingCleanUp => *state == ServiceState::Stopping,
                BackingOff | Held => matches!(state, ServiceState::BackingOff { .. }),
                Ended => supervisor.status(id).is_ended(),
            };
            assert!(slot.permit.is_none() || slot.state == Starting, "s{id} has a permit without a generation");
            assert!(agrees, "s{id} is {:?} and shows {state:?}", slot.state);
            if slot.state == Held && !phase.is_stopping() {
                let is_missing = |with: &u32| !supervisor.slot(*with).is_ready();
                assert!(slot.dependencies.restarts_with.iter().any(is_missing), "s{id} is held without a reason");
            }
        }
        let is_late = phase == HostPhase::Stopping && self.now > self.hurry_at();
        assert!(!is_late || !supervisor.slots.iter().any(ServiceSlot::can_stop), "a service was not asked to stop");
        let is_undropped = |slot: &&ServiceSlot| slot.value != ServiceValue::Dropped && !slot.is_left_behind;
        assert_eq!(supervisor.undropped, supervisor.slots.iter().filter(is_undropped).count());
        let live = supervisor.slots.iter().filter(|slot| slot.state != SlotState::Ended).count();
        assert_eq!(supervisor.live, live);
        let undecided = supervisor.slots.iter().filter(|slot| !slot.is_decided).count();
        assert!(undecided > 0 || phase != HostPhase::Starting, "all services have started, but not the host");
        let is_waiting = self.script.pools.is_some() || supervisor.undropped > 0;
        assert!(live > 0 || phase != HostPhase::Stopping || is_waiting, "all services have ended, but not the host");
        if matches!(phase, HostPhase::Starting | HostPhase::Draining | HostPhase::Stopping) {
            assert!(supervisor.timers.get(supervisor.timers.host()).is_some(), "the host is {phase} without a timer");
        }
    }

    /// Records the exits that the supervisor shows. A batch may hide them: a generation may end in the same batch as
    /// the one before it.
    fn record_exits(&mut self) {
        for id in 0..self.supervisor.slots.len() {
            self.exits.extend(self.supervisor.status(id as u32).last_exit.iter().map(|exit| (id, exit.generation)));
        }
    }

    /// Checks what holds at the end.
    fn check_end(&mut self) {
        let report = self.report.take().expect("the host ends");
        assert_eq!(self.supervisor.phase, HostPhase::Stopped);
        assert!(self.pools_were_asked || self.script.pools.is_none(), "the pools were never closed");
        assert!(self.released.iter().all(|is_released| *is_released), "a service was not released");
        assert!(self.supervisor.timers.next().is_none(), "a timer is left");
        assert!(self.supervisor.slots.iter().all(|slot| slot.state == SlotState::Ended));
        let limit = ms(self.script.limits[2]);
        assert!(report.took <= limit, "the stop takes {:?} of {limit:?}", report.took);
        if let (Some(forced), Some(began), true) = (self.forced, self.stop_began, report.forced_by.is_some()) {
            let ended = began + report.took;
            assert!(ended <= forced + 50 * MS, "the host ends {:?} after it was forced", ended - forced);
        }
        for (id, service) in report.services.iter().enumerate() {
            let is_kept = self.supervisor.slots[id].is_left_behind;
            assert!(is_kept || !self.permits.contains_key(&id), "s{id} keeps its permit");
            assert_eq!(service.is_dropped, self.dropped[id], "s{id}");
            let is_left_behind = self.supervisor.slots[id].is_left_behind;
            let takes_long = self.script.scripts[id].destructor.is_none_or(|takes| takes > 0);
            assert!(
                service.is_dropped || is_left_behind || takes_long || report.took >= limit,
                "the host did not wait until s{id} was dropped"
            );
        }
        for ((id, generation), simulated) in &self.generations {
            let script = &self.script.scripts[*id];
            let service = &report.services[*id];
            assert!(self.exits.contains(&(*id, *generation)), "s{id} {generation} has no exit");
            assert!(
                simulated.stops <= usize::from(simulated.has_started),
                "s{id} {generation} has {} stops",
                simulated.stops
            );
            let reaches_stop = matches!(simulated.phase, SimulatedPhase::Gone | SimulatedPhase::Stopping);
            assert!(
                simulated.stops == 1 || !simulated.has_started || !reaches_stop,
                "s{id} {generation} has started and is gone, but its stop was never called: {simulated:?}"
            );
            // The `stop` of a generation that was left behind in its run was called on another thread, unless no time
            // was left.
            let was_replaced = simulated.has_started && !reaches_stop && *generation < service.generations;
            assert!(!was_replaced || simulated.stops == 1, "s{id} {generation} {simulated:?} {script:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn host_keeps_its_invariants_whatever_its_services_do(script in host_script()) {
        let mut simulation = Simulation::new(&script);
        simulation.run();
        simulation.check_end();
        prop_assert!(simulation.began <= simulation.now);
    }

    /// Compares the sliding window with a list of all restarts.
    #[test]
    fn intensity_agrees_with_a_naive_model(pauses in prop::collection::vec(0..40_u64, 1..60), most in 0..6_u32) {
        let intensity = Intensity::new(most, ms(100));
        let (mut failures, mut now, mut restarts) = (crate::background::restart::RestartHistory::default(), Instant::now(), Vec::new());
        for pause in pauses {
            now += ms(pause);
            let within = restarts.iter().filter(|at| now.duration_since(**at) < ms(100)).count();
            let may = within < most as usize;
            let delay = failures.next_delay(now, false, &Backoff::none(), &intensity, 0.5);
            prop_assert_eq!(delay.is_some(), may);
            if may {
                restarts.push(now);
            }
        }
    }
}

#[test]
fn service_whose_start_returns_while_it_is_aborted_is_aborted_in_its_run() {
    // The event of the start was already in the queue. The service has not seen the stop request, and may ignore it in
    // `run`.
    let script = ServiceScript {
        after: vec![],
        restart_with: vec![],
        placement: Placement::Shared,
        restart: Restart::OnFailure,
        is_critical: true,
        is_intake: false,
        manual_ready: false,
        heartbeat: None,
        backoff: 1,
        restarts: 0,
        timeouts: [50, 50, 50],
        generations: vec![],
        destructor: Some(0),
        guard: None,
    };
    let (scripts, limits) = (vec![script], [400, 100, 600]);
    let host = HostScript {
        scripts,
        has_server: false,
        limits,
        shutdown_at: 0,
        force_at: None,
        server: None,
        drop_at: None,
        in_batches: false,
        work: None,
        pools: None,
    };
    let (now, timeouts) = (Instant::now(), HostTimeouts { startup: ms(400), drain: ms(100), shutdown: ms(600) });
    let mut supervisor = Supervisor::new(slots(&host, now), timeouts, || 0.0);
    supervisor.start(now, false);
    supervisor.on_time(now + ms(50));
    supervisor.on_event(now + ms(50), 0, 1, GenerationEvent::Started, None);
    let actions = supervisor.decisions.actions;
    let aborted: Vec<GenerationPhase> = actions
        .iter()
        .filter_map(|action| if let Action::Abort(_, phase) = action { Some(*phase) } else { None })
        .collect();
    assert_eq!(aborted, [GenerationPhase::Start, GenerationPhase::Run]);
}
