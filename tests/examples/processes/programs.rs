//! The processes of a test, and the lines that they print.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use redis::cmd;
use rustix::process::{Pid, Signal, kill_process};
use support::client::eventually;
use support::postgres::PostgresServer;
use support::process::{Example, Line, SharedOutput};
use support::redis::RedisServer;

use super::LEASE;

/// Where the processes of a test keep their lock.
pub(super) enum Store {
    Host(TestDirectory),
    Redis(RedisServer),
    Postgres(PostgresServer),
}

/// A directory that is removed at the end.
pub(super) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(super) fn new() -> Self {
        let path = env::temp_dir().join(format!("onelane-processes-{:x}", fastrand::u64(..)));
        fs::DirBuilder::new().mode(0o700).create(&path).expect("the temporary folder is writable");
        Self(path)
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        // This fails only if the directory has already been removed.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Store {
    pub(super) fn host() -> Self {
        Self::Host(TestDirectory::new())
    }

    pub(super) fn redis() -> Self {
        Self::Redis(RedisServer::start())
    }

    pub(super) async fn postgres() -> Self {
        Self::Postgres(PostgresServer::start().await)
    }

    /// Returns the command that starts one process with axum or with actix-web.
    pub(super) fn command(&self, framework: &str, hold: Duration) -> Command {
        let name = match (framework, self) {
            ("axum", Self::Host(_)) => "axum_processes",
            ("axum", _) => "axum_cluster",
            _ => "actix_cluster",
        };
        let mut command = Example::command(name, hold);
        command.env_remove("DATABASE_URL").env_remove("REDIS_URL");
        match self {
            Self::Host(directory) => command.env("TMPDIR", &directory.0).env("WORKERS", "1"),
            Self::Redis(server) => command.env("REDIS_URL", &server.url),
            Self::Postgres(server) => command.env("DATABASE_URL", server.settings()),
        };
        command
    }

    /// Removes all locks, so that their holders lose them.
    pub(super) async fn forget_locks(&self) {
        match self {
            Self::Host(_) => panic!("the kernel does not forget locks"),
            Self::Redis(server) => cmd("FLUSHALL").exec(&mut server.connect()).expect("the server responds"),
            Self::Postgres(server) => {
                server.connect().await.batch_execute("TRUNCATE onelane_locks").await.expect("the table exists");
            }
        }
    }

    /// Returns the longest time for which the lock outlasts a killed process on a busy machine.
    pub(super) fn outlasts_a_kill(&self) -> Duration {
        match self {
            Self::Host(_) => LEASE / 2,
            _ => LEASE * 2,
        }
    }
}

/// Processes with axum and with actix-web that print to one pipe.
pub(super) struct Processes {
    pub(super) output: SharedOutput,
    pub(super) running: Vec<Example>,
}

impl Processes {
    pub(super) async fn start(store: &Store, frameworks: &[&str], hold: Duration) -> Self {
        let output = SharedOutput::new();
        let mut running = Vec::new();
        for framework in frameworks {
            running.push(Example::spawn_beside(store.command(framework, hold), hold, &output).await);
        }
        Self { output, running }
    }

    /// Waits until a number of lines are printed. Returns the last of these lines.
    pub(super) async fn line(&self, count: usize) -> Line {
        eventually(&format!("{count} lines are printed"), || self.output.lines().len() >= count).await;
        self.output.lines()[count - 1].clone()
    }

    pub(super) fn id(&self, process: usize) -> u32 {
        self.running[process].id()
    }
}

/// The turns that processes have printed.
#[derive(Default)]
pub(super) struct Turns {
    /// The process and the token of each turn.
    pub(super) all: Vec<(u32, u64)>,
}

impl Turns {
    /// Checks that no two processes were inside at once, except after a kill, and that tokens grow.
    pub(super) fn check(lines: &[Line], killed: &BTreeSet<u32>) -> Self {
        let mut this = Self::default();
        let mut inside = None;
        for Line { text, .. } in lines.iter().filter(|line| !line.text.contains("listening")) {
            let (what, turn) = text.split_once(" from ").unwrap_or_else(|| panic!("{text}"));
            let (process, token) = turn.split_once(", token ").unwrap_or_else(|| panic!("{text}"));
            let turn: (u32, u64) = (process.parse().expect(text), token.parse().expect(text));
            if what == "bye" {
                assert_eq!(inside.take(), Some(turn), "{text}");
                continue;
            }
            assert!(this.all.last().is_none_or(|last| last.1 < turn.1), "{text} after {:?}", this.all.last());
            if let Some((other, token)) = inside.replace(turn) {
                assert!(killed.contains(&other), "{text}, while {other} is inside with token {token}");
            }
            this.all.push(turn);
        }
        this
    }

    /// Returns the processes that had a turn.
    pub(super) fn processes(&self) -> BTreeSet<u32> {
        self.all.iter().map(|turn| turn.0).collect()
    }
}

/// `axum_processes` and the processes that it has started, which end with the test.
pub(super) struct Supervised(pub(super) Example);

impl Supervised {
    pub(super) fn workers(&self) -> BTreeSet<u32> {
        let lines = self.0.before.iter().cloned().chain(self.0.lines());
        lines.filter_map(|line| line.text.split_once(" listening on")?.0.parse().ok()).collect()
    }

    pub(super) async fn wait_for_workers(&self, count: usize) {
        eventually(&format!("{count} processes have listened"), || self.workers().len() == count).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        for worker in self.workers() {
            // Another program may have been given the same identifier.
            let program = fs::read_link(format!("/proc/{worker}/exe")).unwrap_or_default();
            if program.file_name() == Some("axum_processes".as_ref()) {
                let _ = kill_process(pid(worker), Signal::KILL);
            }
        }
    }
}

pub(super) fn pid(process: u32) -> Pid {
    Pid::from_raw(process.cast_signed()).expect("an identifier is positive")
}
