//! Processes that are killed, and stopped for longer than their leases, while they compete for a lock.

use std::env;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::client::{PATIENCE, eventually};
use support::postgres::PostgresServer;
use support::process::Example;
use support::redis::RedisServer;
use tokio::time::sleep;

use super::MS;
use super::checked_store::{CheckedStore, Inside};
#[cfg(target_os = "linux")]
use super::host::TestDirectory;
use super::processes::{Locks, Program};

const PROCESSES: usize = 8;
const LEASE: Duration = Duration::from_secs(1);
/// Long enough that a signal usually reaches a process while it holds the lock.
const HOLD: Duration = Duration::from_millis(20);

/// Returns for how long a test runs: a few seconds, or the seconds in the variable `ONELANE_STORM_SECONDS`.
pub(super) fn seconds(usual: u64) -> Duration {
    let wanted = env::var("ONELANE_STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(wanted.unwrap_or(usual))
}

struct Storm {
    program: Program,
    store: CheckedStore,
    running: Vec<Example>,
    /// How long the lock was not held after its holder was killed.
    takeovers: Vec<Duration>,
    killed: usize,
    /// How many holders were stopped for longer than the lease.
    stopped: usize,
}

impl Storm {
    async fn start(locks: Locks) -> Self {
        let program = Program { locks, lease: LEASE, callers: 2, hold: HOLD };
        let store = CheckedStore::start().await;
        let running = program.start_many(PROCESSES, &store).await;
        Self { program, store, running, takeovers: Vec::new(), killed: 0, stopped: 0 }
    }

    /// Returns the holder and the index of its process, if this process runs.
    fn holder(&self) -> Option<(Inside, usize)> {
        let inside = self.store.inside()?;
        let at = self.running.iter().position(|process| process.id() == inside.process)?;
        Some((inside, at))
    }

    async fn wait_for_holder(&self) -> (Inside, usize) {
        eventually("a process enters", || self.holder().is_some()).await;
        self.holder().unwrap_or((Inside { token: 0, process: 0 }, 0))
    }

    /// Kills the holder, and measures when the next process enters.
    async fn kill_holder(&mut self) {
        let (inside, at) = self.wait_for_holder().await;
        let process = self.running.swap_remove(at);
        let killed_at = Instant::now();
        process.signal(Signal::KILL);
        drop(process);
        self.killed += 1;
        let next = || self.store.turns().into_iter().find(|turn| turn.token > inside.token);
        eventually("the next process enters", || next().is_some()).await;
        // If the holder left before it was killed, there was no takeover.
        if let Some(next) = next().filter(|next| !self.store.has_left(inside) && next.process != inside.process) {
            self.takeovers.push(next.at.saturating_duration_since(killed_at));
        }
        self.running.push(self.program.start(&self.store).await);
    }

    /// Stops the holder for longer than its lease.
    async fn stop_holder(&mut self) {
        let (inside, at) = self.wait_for_holder().await;
        self.running[at].signal(Signal::STOP);
        // The last message before the signal may still be on its way.
        sleep(MS * 50).await;
        let was_inside = self.store.inside() == Some(inside);
        sleep(LEASE + LEASE / 4).await;
        if was_inside && self.program.locks.has_leases() {
            self.store.expire(inside.token);
            self.stopped += 1;
        }
        self.running[at].signal(Signal::CONT);
    }

    async fn stop_any(&mut self) {
        let process = &self.running[fastrand::usize(..self.running.len())];
        process.signal(Signal::STOP);
        sleep(MS * fastrand::u32(1..300)).await;
        process.signal(Signal::CONT);
    }

    async fn run(&mut self) {
        let began = Instant::now();
        // Each of these events takes place at least once.
        while self.takeovers.is_empty() {
            self.kill_holder().await;
        }
        self.stop_holder().await;
        self.stop_any().await;
        while began.elapsed() < seconds(4) {
            match fastrand::u8(..3) {
                0 => self.kill_holder().await,
                1 => self.stop_holder().await,
                _ => self.stop_any().await,
            }
            sleep(MS * fastrand::u32(1..100)).await;
        }
        // All processes still get their turns.
        let turns = self.store.turns().len();
        eventually("all processes enter", || {
            let turns = &self.store.turns()[turns..];
            self.running.iter().all(|process| turns.iter().any(|turn| turn.process == process.id()))
        })
        .await;
    }
}

/// No write is accepted with an old token, and a holder whose lease has expired does not try to write.
#[allow(clippy::print_stdout, reason = "the figures")]
async fn holders_write_only_while_they_hold_the_lock(locks: Locks) {
    let mut storm = Storm::start(locks).await;
    storm.run().await;
    let (counts, turns) = (storm.store.counts(), storm.store.turns().len());
    storm.takeovers.sort();
    let slowest = storm.takeovers.last().copied();
    let median = storm.takeovers.get(storm.takeovers.len() / 2);
    println!(
        "{:?}: {turns} turns, {counts:?}, {} killed, {} stopped, takeovers {median:?} {slowest:?}",
        storm.program.locks, storm.killed, storm.stopped
    );
    assert_eq!(storm.store.violations(), [""; 0]);
    assert!(turns > 10 && counts.writes >= turns, "{turns} turns, {counts:?}");
    let expected = if storm.program.locks.has_leases() { LEASE } else { Duration::ZERO };
    // A busy machine may delay the next process.
    assert!(slowest.is_some_and(|slowest| slowest < expected + PATIENCE / 8), "{:?}", storm.takeovers);
    if storm.program.locks.has_leases() {
        assert!(counts.lost + counts.refused >= storm.stopped, "{} stopped, {counts:?}", storm.stopped);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_in_a_host_write_only_while_they_hold_the_lock() {
    let directory = TestDirectory::new();
    holders_write_only_while_they_hold_the_lock(Locks::Host(directory.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_with_redis_write_only_while_they_hold_the_lock() {
    let server = RedisServer::start();
    holders_write_only_while_they_hold_the_lock(Locks::Redis(server.url.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_with_postgres_write_only_while_they_hold_the_lock() {
    let server = PostgresServer::start().await;
    holders_write_only_while_they_hold_the_lock(Locks::Postgres(server.settings(), false)).await;
}
