//! The functions that the workers of the tests run.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::process::{abort, exit, id};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use support::client::PATIENCE;

/// A gate in the file system, which workers can see. A worker notes that it waits, until the test opens the gate.
pub(crate) struct FileGate(PathBuf);

impl FileGate {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("onelane-gate-{}-{number}", id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Returns the path and query of a request that waits at this gate.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{path}?gate={}", self.0.display())
    }

    /// Returns the query of a request that waits at this gate.
    pub(super) fn query(&self) -> HashMap<String, String> {
        HashMap::from([("gate".to_owned(), self.0.display().to_string())])
    }

    /// Returns the workers that have reached the gate.
    pub(crate) fn started(&self) -> Vec<u32> {
        let pids = fs::read_to_string(self.0.join("pids")).unwrap_or_default();
        pids.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) fn open(&self) {
        fs::write(self.0.join("open"), "").unwrap();
    }
}

impl Drop for FileGate {
    fn drop(&mut self) {
        // Workers that still wait continue.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits at the gate that the query names.
pub(crate) fn wait_at_gate(query: &HashMap<String, String>) -> String {
    let folder = PathBuf::from(&query["gate"]);
    let mut pids = OpenOptions::new().create(true).append(true).open(folder.join("pids")).unwrap();
    writeln!(pids, "{}", id()).unwrap();
    let start = Instant::now();
    while folder.exists() && !folder.join("open").exists() {
        assert!(start.elapsed() < PATIENCE, "the gate stays closed");
        sleep(Duration::from_millis(2));
    }
    "done".to_owned()
}

/// Fails in the way that the path names, with a secret in everything that it leaves.
pub(super) fn fail(fault: &str) -> String {
    #[allow(clippy::print_stderr, reason = "the error of the task contains it")]
    {
        eprintln!("secret of the worker");
    }
    match fault {
        "segfault" => {
            kill_process(getpid(), Signal::SEGV).unwrap();
            sleep(PATIENCE);
        }
        "abort" => abort(),
        "exit" => exit(3),
        "panic" => panic!("secret of the panic"),
        "memory" => {
            let block = black_box(vec![1_u8; 2 << 30]);
            return block.len().to_string();
        }
        "loop" => loop {
            black_box(0);
        },
        _ => {}
    }
    id().to_string()
}
