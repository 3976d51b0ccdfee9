//! [`watch`], which looks after workers that wait for a thread.
//!
//! A busy runtime may never have a thread for a worker, and a runtime that was refused one may have forgotten the worker.
//! So while a worker is starting, or a granted token waits for it, a thread [checks](Workers::check_start) the workers
//! from time to time. The first check that can find something late comes after [`PERIOD`], which a thread of a runtime
//! that is not busy needs rarely. If tokens did not wait at all, tasks of such a runtime would lose every turn to workers
//! that have their threads.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::state::ThreadWait;
use super::workers::Workers;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// The time between two checks of the same workers.
const PERIOD: Duration = Duration::from_millis(10);
/// How long the thread waits for workers before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::default);

/// The workers that are watched, and the thread that checks them, which runs while there are any.
#[derive(Default)]
struct Watch {
    state: Mutex<WatchState>,
    added: Condvar,
}

#[derive(Default)]
struct WatchState {
    /// Those that are checked next are the first.
    all: VecDeque<WatchedWorkers>,
    is_running: bool,
}

struct WatchedWorkers {
    check_at: Instant,
    workers: Weak<Workers>,
    /// What the last check has found.
    seen: ThreadWait,
}

/// Checks workers until nothing waits for a thread any more.
pub(super) fn watch(workers: &Arc<Workers>) {
    let mut state = lock(&WATCH.state);
    state.all.push_back(WatchedWorkers::new(Arc::downgrade(workers), ThreadWait::default()));
    if std::mem::replace(&mut state.is_running, true) {
        drop(state);
        return WATCH.added.notify_one();
    }
    drop(state);
    if thread::Builder::new().name("onelane-pools".to_owned()).spawn(|| WATCH.run()).is_err() {
        WATCH.give_up();
    }
}

impl Watch {
    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            let Some(next) = state.all.pop_front() else {
                state = wait_timeout(&self.state, &self.added, state, IDLE_TIMEOUT);
                if state.all.is_empty() {
                    state.is_running = false;
                    return;
                }
                continue;
            };
            drop(state);
            thread::sleep(next.check_at.saturating_duration_since(Instant::now()));
            let checked = next.check();
            state = lock(&self.state);
            state.all.extend(checked);
        }
    }

    /// Called when there is no thread for the checks.
    fn give_up(&self) {
        let all = {
            let mut state = lock(&self.state);
            state.is_running = false;
            std::mem::take(&mut state.all)
        };
        all.iter().filter_map(|watched| watched.workers.upgrade()).for_each(|workers| workers.end_watch());
    }
}

impl WatchedWorkers {
    fn new(workers: Weak<Workers>, seen: ThreadWait) -> Self {
        Self { check_at: Instant::now() + PERIOD, workers, seen }
    }

    /// Checks the workers. Returns when to check them again, if anything waits for a thread.
    fn check(self) -> Option<Self> {
        let seen = self.workers.upgrade()?.check_start(self.seen)?;
        Some(Self::new(self.workers, seen))
    }
}
