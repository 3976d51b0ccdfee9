//! [`LagProbe`], which asks the server's runtime for a turn now and then, and takes the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::background::status::Lag;

/// How often it asks while the runtime is at work.
const EVERY: Duration = Duration::from_millis(100);
/// How often it looks whether an idle runtime has come to work. Each look wakes a thread up.
const WHILE_IDLE: Duration = Duration::from_secs(1);
/// A lag that is worth a warning.
const LONG: Duration = Duration::from_millis(50);

/// Asks the server's runtime for a turn, one at a time.
#[derive(Debug)]
pub(super) struct LagProbe {
    server: Handle,
    lag: Arc<Lag>,
    pub(super) next: Instant,
    asked: Instant,
    has_answered: Arc<AtomicBool>,
    has_warned: bool,
}

impl LagProbe {
    pub(super) fn new(server: Handle, lag: Arc<Lag>) -> Self {
        let now = Instant::now();
        Self {
            server,
            lag,
            next: now + EVERY,
            asked: now,
            has_answered: Arc::new(AtomicBool::new(true)),
            has_warned: false,
        }
    }

    /// Asks, if it is time to and the last question was answered. If that is open, notes for how long, and returns it once
    /// it is long.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Duration> {
        if now < self.next {
            return None;
        }
        self.next = now + EVERY;
        if !self.has_answered.load(Ordering::Acquire) {
            let lag = now.duration_since(self.asked);
            self.lag.set(lag);
            let is_news = lag >= LONG && !self.has_warned;
            self.has_warned |= is_news;
            return is_news.then_some(lag);
        }
        self.has_warned = false;
        if self.server_is_idle() {
            self.lag.set(Duration::ZERO);
            self.next = now + WHILE_IDLE;
            return None;
        }
        self.asked = now;
        self.has_answered.store(false, Ordering::Relaxed);
        let (lag, has_answered) = (Arc::clone(&self.lag), Arc::clone(&self.has_answered));
        // Where the runtime is gone, the question is dropped, and stays open: nothing runs there.
        self.server.spawn(async move {
            lag.set(Instant::now().duration_since(now));
            has_answered.store(true, Ordering::Release);
        });
        None
    }

    /// Whether all of its workers are parked: a question would have its turn at once, and wake one of them up for it.
    fn server_is_idle(&self) -> bool {
        let metrics = self.server.metrics();
        // It counts both ways, and begins unparked.
        (0..metrics.num_workers()).all(|worker| metrics.worker_park_unpark_count(worker) % 2 == 1)
    }
}
