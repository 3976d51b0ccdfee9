//! The keeper of a pool: a thread that ends idle workers, and starts workers ahead of tasks.
//!
//! # Invariants
//!
//! 1. While a pool has workers, or has to start some ahead, it has a keeper, unless the system has refused the thread.
//! 2. A keeper ends only when its pool has no worker. The keeper then ends the zygote too.
//! 3. Each worker is counted once, as idle, busy or ending, until it is collected or does not end in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::trace;
use super::worker::Worker;
use super::worker_set::{StartError, WorkerSet};
use crate::sync::{MutexGuard, lock, wait_timeout};

/// The least and the greatest time between two checks of the idle workers.
const PERIODS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// The first and the greatest pause after a worker could not be started ahead, or died before it got a task. Each
/// failed start in a row doubles the pause.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How many workers may wait for the keeper to end them. If the keeper is late, the threads of tasks end their workers.
const MAX_RETIRED: usize = 4;

/// The workers of a pool that run no task, and the numbers of the others.
#[derive(Debug, Default)]
pub(super) struct SetState {
    /// In the order of their last use. The last worker gets the next task, while its memory is in the caches.
    pub(super) idle: VecDeque<IdleWorker>,
    /// How many workers run a task or are starting.
    pub(super) busy: usize,
    /// How many workers are ending.
    pub(super) ending: usize,
    /// The ending workers that wait for the keeper.
    retired: Vec<Worker>,
    is_closed: bool,
    has_keeper: bool,
    /// When a worker last became idle or ended.
    used_at: Option<Instant>,
    /// The end of the pause in which no worker is started ahead, and the length of the pause.
    pause: Option<(Instant, Duration)>,
}

#[derive(Debug)]
pub(super) struct IdleWorker {
    pub(super) worker: Worker,
    since: Instant,
}

impl SetState {
    /// Takes the workers that have to end: retired workers, workers that died while they were idle, and workers that
    /// have been idle since `limit`, as long as `min_idle` workers remain.
    fn take_ending(&mut self, min_idle: usize, limit: Option<Instant>) -> Vec<Worker> {
        let mut ending = Vec::new();
        let mut have_died = false;
        for idle in std::mem::take(&mut self.idle) {
            if idle.worker.has_ended() {
                ending.push(idle.worker);
                have_died = true;
            } else {
                self.idle.push_back(idle);
            }
        }
        if have_died {
            // Workers that replace them may die in the same way.
            self.pause_starting(Instant::now());
        }
        let is_late = |idle: &IdleWorker| limit.is_some_and(|limit| idle.since <= limit);
        while self.idle.len() > min_idle && self.idle.front().is_some_and(is_late) {
            ending.extend(self.idle.pop_front().map(|idle| idle.worker));
        }
        self.ending += ending.len();
        ending.append(&mut self.retired);
        ending
    }

    /// Returns `true` if the pool has had no worker and no task since `limit`.
    fn is_unused(&self, limit: Option<Instant>) -> bool {
        let is_late = self.is_closed || self.used_at <= limit;
        self.idle.is_empty() && self.busy + self.ending == 0 && is_late
    }

    fn pause_starting(&mut self, now: Instant) {
        let [first, greatest] = PAUSES;
        let pause = self.pause.map_or(first, |(_, pause)| greatest.min(2 * pause));
        self.pause = Some((now + pause, pause));
    }
}

impl WorkerSet {
    /// Starts the keeper, if the pool has none.
    pub(super) fn ensure_keeper(self: &Arc<Self>) {
        if std::mem::replace(&mut lock(&self.state).has_keeper, true) {
            return;
        }
        let this = Arc::clone(self);
        let keeper = thread::Builder::new().name("onelane-keeper".to_owned()).spawn(move || this.keep());
        if let Err(error) = keeper {
            lock(&self.state).has_keeper = false;
            crate::offload::trace::thread_missing(&self.settings.name, &error);
        }
    }

    /// Returns `true` if a worker has to be started ahead.
    pub(super) fn lacks_idle(&self, state: &SetState) -> bool {
        let idle = state.idle.len();
        !state.is_closed && idle < self.settings.min_idle && idle + state.busy < self.limiter.total()
    }

    fn keep(&self) {
        let [least, greatest] = PERIODS;
        let period = self.settings.idle_timeout.clamp(least, greatest);
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            let limit = now.checked_sub(self.settings.idle_timeout);
            let ending = state.take_ending(self.settings.min_idle, limit);
            if !ending.is_empty() {
                drop(state);
                ending.into_iter().for_each(|worker| self.end_retired(worker));
                state = lock(&self.state);
            } else if self.lacks_idle(&state) && state.pause.is_none_or(|(until, _)| until <= now) {
                state.busy += 1;
                drop(state);
                self.start_ahead();
                state = lock(&self.state);
            } else if state.is_unused(limit) && (state.is_closed || self.settings.min_idle == 0) {
                state.has_keeper = false;
                // No thread is starting a worker, which needs the zygote: that worker would count as busy.
                let zygote = lock(&self.zygote).take();
                drop(state);
                return drop(zygote);
            } else {
                state = wait_timeout(&self.state, &self.changed, state, period);
            }
        }
    }

    fn start_ahead(&self) {
        match self.start(None) {
            Ok(worker) => {
                lock(&self.state).pause = None;
                self.put_back(worker);
            }
            Err(StartError::Zygote(reason) | StartError::Worker(reason)) => {
                trace::worker_missing(&self.settings.name, &reason);
                let mut state = lock(&self.state);
                state.busy -= 1;
                state.pause_starting(Instant::now());
            }
        }
    }

    /// Keeps a worker for the next task.
    pub(super) fn put_back(&self, worker: Worker) {
        let mut state = lock(&self.state);
        // A task may have started a worker while the keeper started this one, and the total may have changed.
        if state.is_closed || state.idle.len() + state.busy > self.limiter.total() {
            return self.retire_from(state, worker);
        }
        let now = Instant::now();
        state.busy -= 1;
        state.used_at = Some(now);
        state.idle.push_back(IdleWorker { worker, since: now });
    }

    /// Ends a worker that has run its task, without a delay for the caller.
    pub(super) fn retire(&self, worker: Worker) {
        self.retire_from(lock(&self.state), worker);
    }

    fn retire_from(&self, mut state: MutexGuard<'_, SetState>, worker: Worker) {
        state.busy -= 1;
        state.ending += 1;
        state.used_at = Some(Instant::now());
        if state.has_keeper && state.retired.len() < MAX_RETIRED {
            state.retired.push(worker);
            drop(state);
            return self.changed.notify_one();
        }
        drop(state);
        self.end_retired(worker);
    }

    /// Records that a busy worker has ended, or could not be started.
    pub(super) fn release_ended(&self) {
        let mut state = lock(&self.state);
        state.busy -= 1;
        state.used_at = Some(Instant::now());
        drop(state);
        self.changed.notify_one();
    }

    /// Ends a worker that is counted as ending.
    fn end_retired(&self, mut worker: Worker) {
        if worker.has_ended() {
            self.died.fetch_add(1, Ordering::Relaxed);
            trace::worker_died(&self.settings.name, None, &worker.end(Duration::ZERO));
        }
        drop(worker);
        lock(&self.state).ending -= 1;
    }

    /// Ends idle workers now, and other workers after their tasks, without waiting for them.
    pub(in crate::offload::process) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let idle: Vec<Worker> = std::mem::take(&mut state.idle).into_iter().map(|idle| idle.worker).collect();
        state.ending += idle.len();
        if state.has_keeper {
            state.retired.extend(idle);
            drop(state);
            return self.changed.notify_one();
        }
        drop(state);
        idle.into_iter().for_each(|worker| self.end_retired(worker));
    }
}
