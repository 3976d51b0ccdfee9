//! [`GrantWatch`], which passes tokens on that were granted to workers without a thread.
//!
//! Workers leave their thread while they wait for a token, and a granted token waits for a thread. A busy runtime may
//! never have one. So the token waits only for [`PATIENCE`], which a thread of a runtime that is not busy needs rarely.
//! If the token did not wait at all, tasks of such a runtime would lose every turn to workers that have their threads.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::workers::Workers;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// How long a granted token waits for a thread.
const PATIENCE: Duration = Duration::from_millis(10);
/// How long the thread waits for the next grant before it ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

static WATCH: LazyLock<GrantWatch> = LazyLock::new(GrantWatch::default);

/// The grants that wait for a thread, and the thread that withdraws them, which runs while there are any.
#[derive(Default)]
struct GrantWatch {
    state: Mutex<WatchState>,
    added: Condvar,
}

#[derive(Default)]
struct WatchState {
    /// The oldest grant is the first.
    grants: VecDeque<WatchedGrant>,
    is_running: bool,
}

struct WatchedGrant {
    withdraw_at: Instant,
    workers: Weak<Workers>,
    grant: u64,
}

/// Withdraws a grant after a while, unless a worker has taken it.
pub(super) fn watch_grant(workers: &Arc<Workers>, grant: u64) {
    let watched = WatchedGrant { withdraw_at: Instant::now() + PATIENCE, workers: Arc::downgrade(workers), grant };
    let mut state = lock(&WATCH.state);
    state.grants.push_back(watched);
    if std::mem::replace(&mut state.is_running, true) {
        drop(state);
        return WATCH.added.notify_one();
    }
    drop(state);
    if thread::Builder::new().name("onelane-grants".to_owned()).spawn(|| WATCH.run()).is_err() {
        WATCH.withdraw_all();
    }
}

impl GrantWatch {
    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            let Some(next) = state.grants.pop_front() else {
                state = wait_timeout(&self.state, &self.added, state, IDLE_TIMEOUT);
                if state.grants.is_empty() {
                    state.is_running = false;
                    return;
                }
                continue;
            };
            drop(state);
            thread::sleep(next.withdraw_at.saturating_duration_since(Instant::now()));
            next.withdraw();
            state = lock(&self.state);
        }
    }

    /// Called when there is no thread that could wait.
    fn withdraw_all(&self) {
        let grants = {
            let mut state = lock(&self.state);
            state.is_running = false;
            std::mem::take(&mut state.grants)
        };
        grants.into_iter().for_each(WatchedGrant::withdraw);
    }
}

impl WatchedGrant {
    fn withdraw(self) {
        if let Some(workers) = self.workers.upgrade() {
            workers.withdraw_grant(self.grant);
        }
    }
}
