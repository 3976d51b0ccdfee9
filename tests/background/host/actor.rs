//! [`Actor`], a service whose behaviour a test scripts, and the [`Log`] of its calls.

#![allow(dead_code, reason = "not every test uses all of it")]

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

/// How late real threads may be. It is much more than the guaranteed 50 ms, because the machine is busy.
pub(crate) const SLACK: Duration = Duration::from_millis(600);

/// Returns the builder of a host whose supervisor runs on the test's runtime, where time may be paused.
pub(crate) fn virtual_host() -> ServiceHostBuilder {
    ServiceHost::builder().supervision(Supervision::ServerRuntime).without_signals()
}

/// Returns the builder of a host whose supervisor has its own thread.
pub(crate) fn threaded_host() -> ServiceHostBuilder {
    ServiceHost::builder().without_signals()
}

/// Records events in the order in which they happen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(Instant, String)>>>);

impl Log {
    pub(crate) fn record(&self, line: impl Into<String>) {
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

    /// Returns when `line` was recorded, in milliseconds since `start`.
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
    /// Waits forever and ignores the request to stop.
    Ignore,
    /// Waits until the service is asked to stop.
    UntilStopped,
    /// Blocks its thread.
    Block(Wait),
    /// Waits for a time, whether or not the service is asked to stop, and then continues with another act.
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

/// A service that follows a script.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    name: String,
    log: Log,
    starts: Vec<Act>,
    runs: Vec<Act>,
    stop: Act,
}

impl Actor {
    /// Creates an actor that starts, runs until it is asked to stop, and stops.
    pub(crate) fn new(name: impl Into<String>, log: &Log) -> Self {
        let (starts, runs) = (vec![Act::Succeed], vec![Act::UntilStopped]);
        Self { name: name.into(), log: log.clone(), starts, runs, stop: Act::Succeed }
    }

    pub(crate) fn start(mut self, act: Act) -> Self {
        self.starts = vec![act];
        self
    }

    /// Sets what `start` does in each generation. The last act also applies to all further generations.
    pub(crate) fn starts(mut self, acts: impl Into<Vec<Act>>) -> Self {
        self.starts = acts.into();
        self
    }

    pub(crate) fn run(mut self, act: Act) -> Self {
        self.runs = vec![act];
        self
    }

    /// Sets what `run` does in each generation, like [`starts`](Self::starts).
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

    fn record(&self, phase: &str) {
        self.log.record(format!("{phase} {}", self.name));
    }

    async fn act(&self, phase: &str, act: &Act, stopping: impl Future<Output = ()>) -> ServiceResult {
        struct RecordDrop<'a>(&'a Actor, &'a str, bool);
        impl Drop for RecordDrop<'_> {
            fn drop(&mut self) {
                if !self.2 {
                    self.0.record(&format!("dropped {}", self.1));
                }
            }
        }

        self.record(phase);
        let mut on_drop = RecordDrop(self, phase, false);
        let mut act = act;
        while let Act::After(wait, next) = act {
            sleep(*wait).await;
            act = next;
        }
        match act {
            Act::Ignore => pending().await,
            Act::UntilStopped => stopping.await,
            Act::Block(wait) => wait.block(),
            _ => {}
        }
        on_drop.2 = true;
        act.end(&self.name, phase)
    }

    fn act_blocking(&self, phase: &str, act: &Act, is_stopping: impl Fn() -> bool) -> ServiceResult {
        self.record(phase);
        let mut act = act;
        while let Act::After(wait, next) = act {
            // Blocking a thread takes real time.
            std::thread::sleep(*wait);
            act = next;
        }
        match act {
            Act::Block(wait) => wait.block(),
            Act::Ignore => panic!("a thread that blocks forever is never freed: use a gate"),
            Act::UntilStopped => {
                let start = Clock::now();
                while !is_stopping() {
                    assert!(start.elapsed() < PATIENCE * 3, "{} was never asked to stop", self.name);
                    // A thread cannot await, and `start` has nothing else to block on until it is asked to stop.
                    std::thread::sleep(MS);
                }
            }
            _ => {}
        }
        act.end(&self.name, phase)
    }
}

fn act_of(acts: &[Act], generation: u64) -> &Act {
    acts.get(generation as usize - 1).or(acts.last()).expect("there is at least one act")
}

impl BackgroundService for Actor {
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self, cx: &StartContext) -> ServiceResult {
        self.act("start", act_of(&self.starts, cx.generation()), cx.stopping()).await
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        self.act("run", act_of(&self.runs, cx.generation()), cx.stopping()).await
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
        self.act_blocking("start", act_of(&self.starts, cx.generation()), || cx.is_stopping())
    }

    fn run(&self, cx: BlockingContext) -> ServiceResult {
        self.act_blocking("run", act_of(&self.runs, cx.generation()), || cx.is_stopping())
    }

    fn stop(&self, _: &StopContext) -> ServiceResult {
        self.act_blocking("stop", &self.stop, || false)
    }
}

/// Awaits `future` with a timeout. The timeout is long, because paused time jumps ahead.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE * 60, future).await.unwrap_or_else(|_| panic!("timed out waiting for: {what}"))
}
