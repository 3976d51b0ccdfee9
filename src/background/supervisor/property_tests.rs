//! [`Supervisor`] in a simulated world, whatever that does: services that hang, ignore, block and fail, told to stop at any
//! time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::subsequence;
use tokio::time::Instant;

use super::core::{Action, Limits, Supervisor};
use super::unit::{Edges, Stage, Unit, Why};
use crate::background::generation::{Condition, Ended, News, Phase};
use crate::background::placement::Placement;
use crate::background::restart::{Backoff, Intensity, Restart};
use crate::background::service::BoxError;
use crate::background::spec::ServiceOptions;
use crate::background::status::{
    CleanUp, ExitKind, HostPhase, Pulse, ServiceState, ServiceStatus, Services, ShutdownReport, Trigger,
};

const MS: Duration = Duration::from_millis(1);
/// Nothing that goes on for longer than a test is a different thing from what goes on for ever.
const MOST_STEPS: usize = 20_000;

/// One service: its options, and what it does in each generation.
#[derive(Clone, Debug)]
struct Script {
    after: Vec<usize>,
    restart_with: Vec<usize>,
    placement: Placement,
    restart: Restart,
    is_critical: bool,
    manual_ready: bool,
    heartbeat: Option<u64>,
    backoff: u64,
    restarts: u32,
    timeouts: [u64; 3],
    lives: Vec<Life>,
}

/// What a service does in one generation. `None` is never.
#[derive(Clone, Debug)]
struct Life {
    start: (Option<u64>, bool),
    ready: Option<u64>,
    run: (Option<u64>, bool),
    /// How long it has children after its run.
    children: Option<u64>,
    when_told: Option<u64>,
    /// Whether it blocks its thread, so that it can't be dropped.
    is_stuck: bool,
    stop: Option<u64>,
    stop_is_stuck: bool,
}

/// What happens to the host.
#[derive(Clone, Debug)]
struct Plan {
    scripts: Vec<Script>,
    has_server: bool,
    limits: [u64; 3],
    shutdown_at: u64,
    force_at: Option<u64>,
    /// How long the server takes to end once told, or never.
    server: Option<u64>,
    drop_at: Option<u64>,
    in_batches: bool,
}

fn time(most: u64) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![1 => Just(None), 4 => (0..most).prop_map(Some)]
}

fn life() -> impl Strategy<Value = Life> {
    let start = (prop_oneof![1 => Just(None), 9 => (0..40_u64).prop_map(Some)], prop::bool::weighted(0.85));
    let run = (prop_oneof![2 => Just(None), 3 => (1..300_u64).prop_map(Some)], any::<bool>());
    let children = prop_oneof![3 => Just(Some(0)), 1 => (1..80_u64).prop_map(Some), 1 => Just(None)];
    let stop = (time(60), prop::bool::weighted(0.2));
    (start, time(80), run, children, time(80), prop::bool::weighted(0.2), stop).prop_map(
        |(start, ready, run, children, when_told, is_stuck, (stop, stop_is_stuck))| Life {
            start,
            ready,
            run,
            children,
            when_told,
            is_stuck,
            stop,
            stop_is_stuck,
        },
    )
}

fn script(index: usize) -> impl Strategy<Value = Script> {
    let earlier: Vec<usize> = (0..index).collect();
    let edges = (subsequence(earlier.clone(), 0..=index.min(2)), subsequence(earlier, 0..=index.min(2)));
    let placement = prop_oneof![Just(Placement::Shared), Just(Placement::Thread), Just(Placement::Blocking)];
    let restart = prop_oneof![1 => Just(Restart::Never), 3 => Just(Restart::OnFailure), 2 => Just(Restart::Always)];
    let flags = (prop::bool::weighted(0.4), prop::bool::weighted(0.3));
    let heartbeat = prop_oneof![4 => Just(None), 1 => (1..200_u64).prop_map(Some)];
    let limits = (prop_oneof![Just(0), 1..100_u64], 0..6_u32, [1..60_u64, 0..60_u64, 0..60_u64]);
    let lives = prop::collection::vec(life(), 1..4);
    (edges, placement, restart, flags, heartbeat, limits, lives).prop_map(
        |((after, restart_with), placement, restart, flags, heartbeat, (backoff, restarts, timeouts), lives)| Script {
            after,
            restart_with,
            placement,
            restart,
            is_critical: flags.0,
            manual_ready: flags.1,
            heartbeat,
            backoff,
            restarts,
            timeouts,
            lives,
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let scripts = (1..7_usize).prop_flat_map(|many| (0..many).map(script).collect::<Vec<_>>());
    let limits = [1..400_u64, 0..100_u64, 0..600_u64];
    let force_at = prop::option::weighted(0.3, 0..1_800_u64);
    let drop_at = prop::option::weighted(0.2, 0..1_800_u64);
    (scripts, any::<[bool; 2]>(), limits, 0..1_500_u64, force_at, time(150), drop_at).prop_map(
        |(scripts, [has_server, in_batches], limits, shutdown_at, force_at, server, drop_at)| Plan {
            scripts,
            has_server,
            limits,
            shutdown_at,
            force_at,
            server,
            drop_at,
            in_batches,
        },
    )
}

/// What comes at its time.
#[derive(Clone, Copy, Debug)]
enum Coming {
    StartEnds(usize, u64, bool),
    RunEnds(usize, u64, bool),
    ChildrenEnd(usize, u64),
    StopEnds(usize, u64),
    Ready(usize, u64),
    Shutdown,
    Force,
    ServerEnds,
    HostDropped,
}

/// A generation in the world, which may outlive what the supervisor thinks of it.
#[derive(Clone, Debug, Default)]
struct Being {
    place: Place,
    is_told: bool,
    cut: u8,
    has_started: bool,
    is_claimed: bool,
    stops: usize,
    /// How its run ended, while its children go on.
    ended: Option<Ended>,
    exits: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Place {
    #[default]
    Starting,
    Running,
    WithChildren,
    Stopping,
    Gone,
}

struct World<'a> {
    plan: &'a Plan,
    supervisor: Supervisor,
    began: Instant,
    now: Instant,
    coming: BTreeMap<(Instant, usize), Coming>,
    sequence: usize,
    inbox: VecDeque<(u32, u64, News)>,
    beings: HashMap<(usize, u64), Being>,
    ever_ready: Vec<bool>,
    report: Option<ShutdownReport>,
    stop_began: Option<Instant>,
    forced: Option<Instant>,
    server_is_told: bool,
}

fn ms(ms: u64) -> Duration {
    MS * u32::try_from(ms).expect("tests are short")
}

fn error() -> ExitKind {
    ExitKind::Failed(BoxError::from("it fails").into())
}

fn units(plan: &Plan, now: Instant) -> Vec<Unit> {
    let ids = |ids: Vec<usize>| -> Box<[u32]> { ids.into_iter().map(|id| id as u32).collect() };
    let many = plan.scripts.len();
    let after = |id: usize| {
        let script = &plan.scripts[id];
        let mut after = [&script.after[..], &script.restart_with].concat();
        after.sort_unstable();
        after.dedup();
        after
    };
    let unit = |(id, script): (usize, &Script)| {
        let [start, stop, clean_up] = script.timeouts.map(ms);
        let options = ServiceOptions {
            restart: script.restart,
            backoff: Backoff::new(ms(script.backoff)).limit(ms(200)).jitter(0.0),
            intensity: Intensity::new(script.restarts, ms(500)),
            stable_after: ms(100),
            is_critical: script.is_critical,
            manual_ready: script.manual_ready,
            heartbeat: script.heartbeat.map(ms),
            start_timeout: start,
            stop_timeout: stop,
            cleanup_timeout: clean_up,
            ..ServiceOptions::new(script.placement)
        };
        let is_follower = |other: &usize| plan.scripts[*other].restart_with.contains(&id);
        let edges = Edges {
            after: ids(after(id)),
            before: ids((0..many).filter(|other| after(*other).contains(&id)).collect()),
            restarts_with: ids(script.restart_with.clone()),
            followers: ids((0..many).filter(is_follower).collect()),
        };
        Unit::new(Arc::new(options), edges, script.heartbeat.map(|_| Arc::new(Pulse::new(now))), now)
    };
    plan.scripts.iter().enumerate().map(unit).collect()
}

fn services(plan: &Plan) -> Services {
    let status = |(id, script): (usize, &Script)| ServiceStatus {
        name: format!("s{id}").into(),
        state: ServiceState::Registered,
        since: SystemTime::now(),
        placement: script.placement,
        is_critical: script.is_critical,
        generation: 0,
        restarts: 0,
        last_exit: None,
        last_failure: None,
        start_duration: None,
        pulse: None,
        ticker: None,
    };
    let statuses: Vec<ServiceStatus> = plan.scripts.iter().enumerate().map(status).collect();
    let indices = statuses.iter().map(|status| Arc::clone(&status.name)).zip(0..).collect();
    Services::new(statuses, indices)
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        // Not at the epoch of the machine's clock, before which there may be nothing.
        let began = Instant::now();
        let [startup, drain, shutdown] = plan.limits.map(ms);
        let limits = Limits { startup, drain, shutdown };
        let supervisor = Supervisor::new(units(plan, began), services(plan), limits, || 0.0);
        let mut world = Self {
            plan,
            supervisor,
            began,
            now: began,
            coming: BTreeMap::new(),
            sequence: 0,
            inbox: VecDeque::new(),
            beings: HashMap::new(),
            ever_ready: vec![false; plan.scripts.len()],
            report: None,
            stop_began: None,
            forced: None,
            server_is_told: false,
        };
        world.comes(Some(plan.shutdown_at), Coming::Shutdown);
        world.comes(plan.force_at, Coming::Force);
        if plan.has_server {
            world.comes(plan.drop_at, Coming::HostDropped);
        }
        world
    }

    fn life(&self, id: usize, generation: u64) -> &'a Life {
        let lives = &self.plan.scripts[id].lives;
        &lives[(generation as usize - 1) % lives.len()]
    }

    fn is_blocking(&self, id: usize) -> bool {
        self.plan.scripts[id].placement == Placement::Blocking
    }

    fn comes(&mut self, after: Option<u64>, what: Coming) {
        if let Some(after) = after {
            self.sequence += 1;
            self.coming.insert((self.now + ms(after), self.sequence), what);
        }
    }

    fn tell(&mut self, id: usize, generation: u64, news: News) {
        self.inbox.push_back((id as u32, generation, news));
    }

    /// Lives until the host has ended, and on until nothing comes any more.
    fn live(&mut self) {
        self.supervisor.start(self.now, self.plan.has_server);
        self.look();
        for _ in 0..MOST_STEPS {
            let timer = self.supervisor.next_timer();
            let Some(next) = self.coming.first_key_value().map(|((at, _), _)| *at).into_iter().chain(timer).min()
            else {
                return;
            };
            self.now = self.now.max(next);
            let due = self.coming.first_key_value().filter(|((at, _), _)| *at <= self.now).map(|(key, _)| *key);
            if let Some(what) = due.and_then(|key| self.coming.remove(&key)) {
                self.happen(what);
            }
            self.hear();
        }
        panic!("it never ends");
    }

    /// Hands over what came in, one by one or all at once, as the shell does.
    fn hear(&mut self) {
        loop {
            let batch = if self.plan.in_batches { self.inbox.len() } else { 1 };
            for (id, generation, news) in self.inbox.drain(..batch.min(self.inbox.len())) {
                let is_ready = || Condition { ready: true, ..Condition::default() };
                let condition = matches!(news, News::Changed).then(is_ready);
                self.supervisor.hear(self.now, id, generation, news, condition);
            }
            self.supervisor.tick(self.now);
            self.look();
            if self.inbox.is_empty() {
                return;
            }
        }
    }

    fn happen(&mut self, what: Coming) {
        match what {
            Coming::StartEnds(id, generation, is_ok) => self.start_ends(id, generation, is_ok),
            Coming::RunEnds(id, generation, is_ok) => {
                let ended = if is_ok { Ok(()) } else { Err(error()) };
                self.run_ends(id, generation, ended);
            }
            Coming::ChildrenEnd(id, generation) => self.children_end(id, generation),
            Coming::StopEnds(id, generation) => self.stop_ends(id, generation, CleanUp::Done),
            Coming::Ready(id, generation) => {
                if self.being(id, generation).place == Place::Running {
                    self.tell(id, generation, News::Changed);
                }
            }
            Coming::Shutdown => self.supervisor.shutdown(self.now, Trigger::Requested),
            Coming::Force => {
                self.forced.get_or_insert(self.now);
                self.supervisor.force(self.now, Trigger::Requested);
            }
            Coming::ServerEnds => self.supervisor.server_ended(self.now),
            Coming::HostDropped => self.supervisor.shutdown(self.now, Trigger::Dropped),
        }
    }

    fn being(&mut self, id: usize, generation: u64) -> &mut Being {
        self.beings.get_mut(&(id, generation)).expect("it has begun")
    }

    fn begin(&mut self, id: usize) {
        let generation = self.supervisor.services().at(id as u32).generation;
        for dependency in self.supervisor.unit(id as u32).after().iter() {
            assert!(self.ever_ready[*dependency as usize], "s{id} begins before s{dependency} was ready");
        }
        for ((other, earlier), being) in &self.beings {
            assert!(
                *other != id || being.place == Place::Gone,
                "s{id} begins beside its generation {earlier}: {being:?}"
            );
        }
        assert!(self.beings.insert((id, generation), Being::default()).is_none(), "s{id} begins twice");
        let (after, is_ok) = self.life(id, generation).start;
        self.comes(after, Coming::StartEnds(id, generation, is_ok));
    }

    fn start_ends(&mut self, id: usize, generation: u64, is_ok: bool) {
        let life = self.life(id, generation);
        let being = self.being(id, generation);
        if being.place != Place::Starting {
            return;
        }
        if !is_ok {
            being.place = Place::Gone;
            return self.tell(id, generation, News::NotStarted(Err(error())));
        }
        being.place = Place::Running;
        being.has_started = true;
        let is_told = being.is_told;
        self.tell(id, generation, News::Started);
        if is_told {
            return self.run_ends(id, generation, Ok(()));
        }
        self.comes(life.ready, Coming::Ready(id, generation));
        self.comes(life.run.0, Coming::RunEnds(id, generation, life.run.1));
    }

    fn run_ends(&mut self, id: usize, generation: u64, ended: Ended) {
        let life = self.life(id, generation);
        let is_blocking = self.is_blocking(id);
        let being = self.being(id, generation);
        if being.place != Place::Running {
            return;
        }
        being.ended = Some(ended);
        being.place = Place::WithChildren;
        if is_blocking || life.children == Some(0) || being.cut >= Phase::Run as u8 {
            return self.children_end(id, generation);
        }
        self.comes(life.children, Coming::ChildrenEnd(id, generation));
        self.tell(id, generation, News::AwaitsChildren);
    }

    fn children_end(&mut self, id: usize, generation: u64) {
        let being = self.being(id, generation);
        if being.place != Place::WithChildren {
            return;
        }
        being.place = Place::Stopping;
        let ended = being.ended.take().expect("its run has ended");
        self.tell(id, generation, News::RunEnded(ended));
        if self.claim(id, generation) {
            self.stop(id, generation);
        } else {
            self.being(id, generation).place = Place::Gone;
        }
    }

    fn claim(&mut self, id: usize, generation: u64) -> bool {
        let being = self.being(id, generation);
        !std::mem::replace(&mut being.is_claimed, true)
    }

    fn stop(&mut self, id: usize, generation: u64) {
        let after = self.life(id, generation).stop;
        self.being(id, generation).stops += 1;
        self.comes(after, Coming::StopEnds(id, generation));
    }

    fn stop_ends(&mut self, id: usize, generation: u64, outcome: CleanUp) {
        let being = self.being(id, generation);
        // One that was left behind in its run, and whose `stop` ran elsewhere, is still there.
        if being.place == Place::Stopping {
            being.place = Place::Gone;
        }
        self.tell(id, generation, News::CleanedUp(outcome));
    }

    fn is_told(&mut self, id: usize, generation: u64) {
        let unit = self.supervisor.unit(id as u32);
        if unit.now.why() == Some(Why::HostStops) && self.forced.is_none() && self.now < self.deadline() {
            for dependent in unit.before().iter() {
                let stage = self.supervisor.unit(*dependent).stage;
                assert_eq!(stage, Stage::Ended, "s{id} is told to stop before s{dependent} has ended");
            }
        }
        let life = self.life(id, generation);
        let being = self.being(id, generation);
        being.is_told = true;
        match being.place {
            Place::Starting => self.comes(life.when_told, Coming::StartEnds(id, generation, false)),
            Place::Running => self.comes(life.when_told, Coming::RunEnds(id, generation, true)),
            _ => {}
        }
    }

    fn is_cut_off(&mut self, id: usize, generation: u64, phase: Phase) {
        let life = self.life(id, generation);
        let is_blocking = self.is_blocking(id);
        let being = self.being(id, generation);
        being.cut = being.cut.max(phase as u8);
        if is_blocking {
            return;
        }
        match being.place {
            Place::Starting if !life.is_stuck => {
                being.place = Place::Gone;
                self.tell(id, generation, News::NotStarted(Err(ExitKind::Aborted)));
            }
            Place::Running if !life.is_stuck && phase >= Phase::Run => {
                self.run_ends(id, generation, Err(ExitKind::Aborted));
            }
            Place::WithChildren if !life.is_stuck && phase >= Phase::Run => self.children_end(id, generation),
            Place::Stopping if !life.stop_is_stuck && phase >= Phase::Stop => {
                self.stop_ends(id, generation, CleanUp::TimedOut);
            }
            _ => {}
        }
    }

    fn deadline(&self) -> Instant {
        self.supervisor.stop.as_ref().map_or(self.now + MS, |stop| stop.deadline)
    }

    /// Takes what was decided, does it, and checks what holds at any time.
    fn look(&mut self) {
        let mut actions = Vec::new();
        self.supervisor.take(&mut actions);
        for (id, was_ready) in self.ever_ready.iter_mut().enumerate() {
            *was_ready |= self.supervisor.services().at(id as u32).is_ready() || self.supervisor.units[id].was_ready;
        }
        if self.supervisor.stop.is_some() {
            self.stop_began.get_or_insert(self.now);
        }
        self.check();
        for action in actions {
            let generation = |id: u32| self.supervisor.services().at(id).generation;
            match action {
                Action::Begin(id) => self.begin(id as usize),
                Action::TellToStop(id) if generation(id) > 0 => self.is_told(id as usize, generation(id)),
                Action::CutOff(id, phase) if generation(id) > 0 => self.is_cut_off(id as usize, generation(id), phase),
                Action::CleanUpElsewhere(id, _) => {
                    let (id, generation) = (id as usize, generation(id));
                    if self.claim(id, generation) {
                        self.stop(id, generation);
                    }
                }
                Action::Finished(report, _) => {
                    assert!(self.report.is_none(), "it ends twice");
                    self.report = Some(*report);
                }
                Action::Draining => {
                    assert!(!self.server_is_told, "the server is told twice");
                    self.server_is_told = true;
                    if self.plan.has_server {
                        self.comes(self.plan.server, Coming::ServerEnds);
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&mut self) {
        let supervisor = &self.supervisor;
        let phase = supervisor.phase;
        for (id, unit) in (0..).zip(&supervisor.units) {
            use Stage::{BackingOff, CleanUpCutOff, CleaningUp, CutOff, Ended, Held, Starting, Stopping, Waiting};
            let waits = matches!(unit.stage, Starting | Stopping | CutOff | CleaningUp | CleanUpCutOff | BackingOff);
            assert!(!waits || supervisor.timers.get(id).is_some(), "s{id} waits without a timer: {unit:?}");
            let is_still = matches!(unit.stage, Waiting | Held | Ended);
            assert!(!is_still || supervisor.timers.get(id).is_none(), "s{id} has a timer: {unit:?}");
            let state = &supervisor.services().at(id).state;
            let agrees = match unit.stage {
                Waiting => *state == ServiceState::Registered,
                Starting => *state == ServiceState::Starting,
                Stage::Running => matches!(state, ServiceState::Running { .. }),
                Stopping | CutOff | CleaningUp | CleanUpCutOff => *state == ServiceState::Stopping,
                BackingOff | Held => matches!(state, ServiceState::BackingOff { .. }),
                Ended => supervisor.services().at(id).is_ended(),
            };
            assert!(agrees, "s{id} is {:?} and shows {state:?}", unit.stage);
            if unit.stage == Held && phase < HostPhase::Draining {
                let is_missing = |with: &u32| !supervisor.unit(*with).is_ready();
                assert!(unit.restarts_with().iter().any(is_missing), "s{id} is held for nothing");
            }
        }
        let live = supervisor.units.iter().filter(|unit| unit.stage != Stage::Ended).count();
        assert_eq!(supervisor.live, live);
        let undecided = supervisor.units.iter().filter(|unit| !unit.is_decided).count();
        assert!(undecided > 0 || phase != HostPhase::Starting, "all have started, and the host has not");
        assert!(live > 0 || phase != HostPhase::Stopping, "all have ended, and the host has not");
        if matches!(phase, HostPhase::Starting | HostPhase::Draining | HostPhase::Stopping) {
            assert!(supervisor.timers.get(supervisor.timers.host()).is_some(), "the host is {phase} without a limit");
        }
        for id in 0..supervisor.units.len() {
            let Some(exit) = self.supervisor.services().at(id as u32).last_exit.clone() else { continue };
            let being = self.being(id, exit.generation);
            being.exits = being.exits.max(1);
        }
    }

    /// Checks what holds at the end.
    fn end(&mut self) {
        let report = self.report.take().expect("it ends");
        assert_eq!(self.supervisor.phase, HostPhase::Stopped);
        assert!(self.supervisor.next_timer().is_none(), "something is left to be waited for");
        assert!(self.supervisor.units.iter().all(|unit| unit.stage == Stage::Ended));
        let limit = ms(self.plan.limits[2]);
        assert!(report.took <= limit, "it takes {:?} of {limit:?}", report.took);
        if let (Some(forced), Some(began), true) = (self.forced, self.stop_began, report.forced_by.is_some()) {
            let ended = began + report.took;
            assert!(ended <= forced + 50 * MS, "it ends {:?} after it was forced", ended - forced);
        }
        for ((id, generation), being) in &self.beings {
            let script = &self.plan.scripts[*id];
            let service = &report.services[*id];
            assert!(being.exits == 1, "s{id} {generation} has no exit");
            assert!(being.stops <= usize::from(being.has_started), "s{id} {generation} has {} stops", being.stops);
            let comes_to_it = matches!(being.place, Place::Gone | Place::Stopping);
            assert!(
                being.stops == 1 || !being.has_started || !comes_to_it,
                "s{id} {generation} has started, is gone, and its stop was never called: {being:?}"
            );
            // One that was left behind in its run has had its stop elsewhere, unless there was no time left.
            let is_early = being.has_started && !comes_to_it && *generation < service.generations;
            assert!(!is_early || being.stops == 1, "s{id} {generation} {being:?} {script:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_services_do_the_host_keeps_its_promises(plan in plan()) {
        let mut world = World::new(&plan);
        world.live();
        world.end();
        prop_assert!(world.began <= world.now);
    }

    /// The window against all restarts there ever were.
    #[test]
    fn intensity_counts_as_a_naive_model_does(pauses in prop::collection::vec(0..40_u64, 1..60), most in 0..6_u32) {
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
fn service_that_has_started_while_its_start_was_cut_off_is_cut_off_in_its_run() {
    // The news of the start was under way. It has not seen yet that it is told, so it runs, and may be deaf to that.
    let script = Script {
        after: vec![],
        restart_with: vec![],
        placement: Placement::Shared,
        restart: Restart::OnFailure,
        is_critical: true,
        manual_ready: false,
        heartbeat: None,
        backoff: 1,
        restarts: 0,
        timeouts: [50, 50, 50],
        lives: vec![],
    };
    let (scripts, limits) = (vec![script], [400, 100, 600]);
    let plan = Plan {
        scripts,
        has_server: false,
        limits,
        shutdown_at: 0,
        force_at: None,
        server: None,
        drop_at: None,
        in_batches: false,
    };
    let (now, limits) = (Instant::now(), Limits { startup: ms(400), drain: ms(100), shutdown: ms(600) });
    let mut supervisor = Supervisor::new(units(&plan, now), services(&plan), limits, || 0.0);
    supervisor.start(now, false);
    supervisor.tick(now + ms(50));
    supervisor.hear(now + ms(50), 0, 1, News::Started, None);
    let mut actions = Vec::new();
    supervisor.take(&mut actions);
    let cut_off: Vec<Phase> = actions
        .iter()
        .filter_map(|action| if let Action::CutOff(_, phase) = action { Some(*phase) } else { None })
        .collect();
    assert_eq!(cut_off, [Phase::Start, Phase::Run]);
}
