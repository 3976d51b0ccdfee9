//! Tests of [`periodic`], rule by rule.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod blocking;
mod context;
mod failure;
mod real_time;
mod schedule;
mod status;
mod stop;
mod trigger;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onelane::background::{
    Every, HostHandle, Service, ServiceHost, ServiceResult, ServiceState, Supervision, TickStatus, periodic,
};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A script for the calls of a service, and a record of when they ran.
#[derive(Clone)]
struct CallLog {
    start: Instant,
    /// How many seconds each call takes. The last value also applies to all further calls.
    durations: Arc<[u64]>,
    begun: Arc<Mutex<Vec<Instant>>>,
    running: Arc<AtomicU64>,
    max_running: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
}

impl CallLog {
    fn lasting(seconds: &[u64]) -> Self {
        Self {
            start: Instant::now(),
            durations: seconds.into(),
            begun: Arc::default(),
            running: Arc::default(),
            max_running: Arc::default(),
            finished: Arc::default(),
        }
    }

    async fn call(self) -> ServiceResult {
        struct DecrementOnDrop(Arc<AtomicU64>);
        impl Drop for DecrementOnDrop {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let index = {
            let mut begun = self.begun.lock().unwrap();
            begun.push(Instant::now());
            begun.len() - 1
        };
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        let _decrement = DecrementOnDrop(Arc::clone(&self.running));
        self.max_running.fetch_max(running, Ordering::Relaxed);
        let seconds = self.durations.get(index).or(self.durations.last()).copied().unwrap_or(0);
        if seconds > 0 {
            sleep(seconds.seconds()).await;
        }
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn service(&self, every: Every) -> Service {
        let calls = self.clone();
        periodic("tick", every, move |_| calls.clone().call())
    }

    /// Returns when the calls began.
    fn times(&self) -> Vec<Duration> {
        self.begun.lock().unwrap().iter().map(|begun| *begun - self.start).collect()
    }

    /// Returns when the calls began, in seconds. Panics if a call did not begin on a whole second.
    fn seconds(&self) -> Vec<u64> {
        let whole = |time: &Duration| {
            // Timers have a resolution of one millisecond.
            let rest = time.subsec_millis();
            assert!(rest < 10, "{time:?}");
            time.as_secs()
        };
        self.times().iter().map(whole).collect()
    }

    fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    fn max_running(&self) -> u64 {
        self.max_running.load(Ordering::Relaxed)
    }
}

trait Seconds {
    fn seconds(self) -> Duration;
}

impl Seconds for u64 {
    fn seconds(self) -> Duration {
        Duration::from_secs(self)
    }
}

fn rate(seconds: u64) -> Every {
    Every::fixed_rate(seconds.seconds())
}

fn host(service: Service) -> ServiceHost {
    ServiceHost::builder().supervision(Supervision::ServerRuntime).service(service).build().unwrap()
}

async fn started(service: Service) -> ServiceHost {
    let host = host(service);
    host.start().await.unwrap();
    host
}

fn ticks(host: &HostHandle) -> TickStatus {
    host.status().service("tick").unwrap().ticks().unwrap()
}

fn state(host: &HostHandle) -> ServiceState {
    host.status().service("tick").unwrap().state().clone()
}

/// Runs a service for the given number of seconds plus half a second, in paused time. Returns when its calls began, and
/// its status.
async fn run_for(seconds: u64, service: Service, calls: &CallLog) -> (Vec<u64>, TickStatus) {
    let host = started(service).await;
    sleep(seconds.seconds() + SECOND / 2).await;
    let status = ticks(&host.handle());
    let times = calls.seconds();
    let _ = host.shutdown().await;
    (times, status)
}

/// Waits in real time until a condition holds that depends on other threads.
async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + 10 * SECOND;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "the condition never holds");
        sleep(Duration::from_millis(5)).await;
    }
}

trait SecondsF64 {
    fn secs(self) -> Duration;
}

impl SecondsF64 for f64 {
    fn secs(self) -> Duration {
        Duration::from_secs_f64(self)
    }
}
