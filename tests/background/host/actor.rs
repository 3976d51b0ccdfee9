//! [`Actor`], a service that does what a test says, and the [`Log`] of what it was called for.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Clock};

use onelane::background::{
    BackgroundService, BlockingContext, BlockingService, Placement, RunContext, Service, ServiceHost,
    ServiceHostBuilder, ServiceResult, StartContext, StopContext, Supervision,
};
use tokio::time::{Instant, sleep, timeout};

use support::waiting::{MS, PATIENCE, Wait};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// By how much real threads may be late. It is much more than the 50 ms that are promised, because the machine is busy.
pub(crate) const SLACK: Duration = Duration::from_millis(600);

/// A host that decides on the runtime of the test, whose time may stand still.
pub(crate) fn virtual_host() -> ServiceHostBuilder {
    ServiceHost::builder().supervision(Supervision::ServerRuntime).without_signals()
}

/// A host with a thread of its own.
pub(crate) fn threaded_host() -> ServiceHostBuilder {
    ServiceHost::builder().without_signals()
}

/// What happened, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(Instant, String)>>>);

impl Log {
    pub(crate) fn note(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push((Instant::now(), line.into()));
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    pub(crate) fn take(&self) -> Vec<String> {
        self.0.lock().unwrap().drain(..).map(|(_, line)| line).collect()
    }

    pub(crate) fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|other| *other == line).count()
    }

    /// The milliseconds from `start` on at which it was noted.
    pub(crate) fn times(&self, start: Instant, line: &str) -> Vec<u128> {
        let log = self.0.lock().unwrap();
        log.iter().filter(|(_, other)| other == line).map(|(at, _)| (*at - start).as_millis()).collect()
    }

    pub(crate) fn position(&self, line: &str) -> usize {
        self.lines()
            .iter()
            .position(|other| other == line)
            .unwrap_or_else(|| panic!("no {line:?} in {:?}", self.lines()))
    }
}

/// What a phase of a service does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Succeed,
    Fail,
    Panic,
    /// Waits for ever, deaf to the token.
    Ignore,
    /// Waits until it is told to stop.
    UntilTold,
    /// Blocks its thread.
    Block(Wait),
    /// Waits, told or not, and then goes on.
    After(Duration, Box<Self>),
}

impl Act {
    pub(crate) fn after(wait: Duration, act: Self) -> Self {
        Self::After(wait, Box::new(act))
    }

    fn end(&self, name: &str, phase: &str) -> ServiceResult {
        match self {
            Self::Fail => Err(format!("{name} fails to {phase}").into()),
            Self::Panic => panic!("{name} panics in {phase}"),
            _ => Ok(()),
        }
    }
}

/// A service that does what it is told.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    name: String,
    log: Log,
    starts: Vec<Act>,
    runs: Vec<Act>,
    stop: Act,
}

impl Actor {
    /// One that starts, runs until it is told to stop, and stops.
    pub(crate) fn new(name: impl Into<String>, log: &Log) -> Self {
        let (starts, runs) = (vec![Act::Succeed], vec![Act::UntilTold]);
        Self { name: name.into(), log: log.clone(), starts, runs, stop: Act::Succeed }
    }

    pub(crate) fn start(mut self, act: Act) -> Self {
        self.starts = vec![act];
        self
    }

    /// What it does in its generations. The last one is for all that follow.
    pub(crate) fn starts(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.starts = acts.into();
        self
    }

    pub(crate) fn run(mut self, act: Act) -> Self {
        self.runs = vec![act];
        self
    }

    pub(crate) fn runs(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.runs = acts.into();
        self
    }

    pub(crate) fn stop(mut self, act: Act) -> Self {
        self.stop = act;
        self
    }

    pub(crate) fn at(self, placement: Placement) -> Service {
        match placement {
            Placement::Blocking => Service::blocking(self),
            placement => Service::new(self).placement(placement),
        }
    }

    pub(crate) fn service(self) -> Service {
        self.at(Placement::Shared)
    }

    fn note(&self, phase: &str) {
        self.log.note(format!("{phase} {}", self.name));
    }

    async fn act(&self, phase: &str, act: &Act, told: impl Future<Output = ()>) -> ServiceResult {
        struct Dropped<'a>(&'a Actor, &'a str, bool);
        impl Drop for Dropped<'_> {
            fn drop(&mut self) {
                if !self.2 {
                    self.0.note(&format!("dropped {}", self.1));
                }
            }
        }

        self.note(phase);
        let mut dropped = Dropped(self, phase, false);
        let mut act = act;
        while let Act::After(wait, next) = act {
            sleep(*wait).await;
            act = next;
        }
        match act {
            Act::Ignore => pending().await,
            Act::UntilTold => told.await,
            Act::Block(wait) => wait.block(),
            _ => {}
        }
        dropped.2 = true;
        act.end(&self.name, phase)
    }

    fn act_blocking(&self, phase: &str, act: &Act, is_told: impl Fn() -> bool) -> ServiceResult {
        self.note(phase);
        let mut act = act;
        while let Act::After(wait, next) = act {
            // What blocks a thread takes real time.
            std::thread::sleep(*wait);
            act = next;
        }
        match act {
            Act::Block(wait) => wait.block(),
            Act::Ignore => panic!("a thread that blocks for ever is never freed: use a gate"),
            Act::UntilTold => {
                let start = Clock::now();
                while !is_told() {
                    assert!(start.elapsed() < PATIENCE * 3, "nobody tells {}", self.name);
                    // A thread can't await, and `start` has nothing to block on until it is told.
                    std::thread::sleep(MS);
                }
            }
            _ => {}
        }
        act.end(&self.name, phase)
    }
}

fn of(acts: &[Act], generation: u64) -> &Act {
    acts.get(generation as usize - 1).or(acts.last()).expect("there is one at least")
}

impl BackgroundService for Actor {
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self, cx: &StartContext) -> ServiceResult {
        self.act("start", of(&self.starts, cx.generation()), cx.stopping()).await
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        self.act("run", of(&self.runs, cx.generation()), cx.stopping()).await
    }

    async fn stop(&self, _: &StopContext) -> ServiceResult {
        self.act("stop", &self.stop, pending()).await
    }
}

impl BlockingService for Actor {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&self, cx: &StartContext) -> ServiceResult {
        self.act_blocking("start", of(&self.starts, cx.generation()), || cx.is_stopping())
    }

    fn run(&self, cx: BlockingContext) -> ServiceResult {
        self.act_blocking("run", of(&self.runs, cx.generation()), || cx.is_stopping())
    }

    fn stop(&self, _: &StopContext) -> ServiceResult {
        self.act_blocking("stop", &self.stop, || false)
    }
}

/// What comes in time, also where that is virtual: much of it passes at once there.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE * 60, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
