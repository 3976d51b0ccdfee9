//! [`Example`], an example of this crate running as a process of its own, with what it has printed so far.

#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;

use super::client::{PATIENCE, eventually, web_client};

/// A running example. Dropping it, in a failed test too, kills it and waits until it is gone.
pub(crate) struct Example {
    child: Child,
    printed: Arc<Mutex<Vec<Line>>>,
    pub(crate) address: SocketAddr,
    /// How long each of its waits takes.
    pub(crate) hold: Duration,
}

/// A line on an example's stdout.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// When it was read here, which is a little after it was printed.
    pub(crate) at: Instant,
}

impl Example {
    /// Starts an example on a port of its own and waits until it listens.
    pub(crate) async fn start(name: &str, hold: Duration) -> Self {
        let mut child = Command::new(binary(name))
            .env("PORT", "0")
            .env("HOLD_MS", hold.as_millis().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("the example {name} does not start: {error}"));
        let printed = Arc::default();
        let stdout = child.stdout.take().expect("it is piped");
        // From here on a panic drops the example, and so ends the child.
        let mut example = Self { child, printed, address: SocketAddr::from(([127, 0, 0, 1], 0)), hold };
        example.collect(stdout);
        eventually("the example listens", || example.listens_at().is_some()).await;
        example.address = example.listens_at().expect("it was there a line above");
        lock(&example.printed).clear();
        example
    }

    fn collect(&self, stdout: ChildStdout) {
        let printed = Arc::clone(&self.printed);
        // It ends with the child, whose death closes the pipe.
        thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                lock(&printed).push(Line { text, at: Instant::now() });
            }
        });
    }

    fn listens_at(&self) -> Option<SocketAddr> {
        let address = |line: &Line| line.text.strip_prefix("listening on http://")?.parse().ok();
        lock(&self.printed).iter().find_map(address)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The lines since it listens.
    pub(crate) fn lines(&self) -> Vec<Line> {
        lock(&self.printed).clone()
    }

    /// The lines since it listens, in one string.
    pub(crate) fn printed(&self) -> String {
        self.lines().iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    pub(crate) async fn wait_for_lines(&self, count: usize) {
        eventually(&format!("{count} lines are printed"), || self.lines().len() >= count).await;
    }

    /// What `GET /stats` answers.
    pub(crate) async fn stats(&self) -> Value {
        let response = web_client().get(self.url("/stats")).send().await.expect("the example answers");
        response.json().await.expect("statistics are JSON")
    }

    /// Asks for the statistics until `pick` finds in them what it looks for.
    pub(crate) async fn wait_for_stats(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let stats = self.stats().await;
            if pick(&stats) {
                return stats;
            }
            assert!(start.elapsed() < PATIENCE, "in vain: {what}. Statistics: {stats:#}, printed: {}", self.printed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It fails only if the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding it")
}

/// Where cargo has put an example: `target/PROFILE/examples/NAME`, this test being `target/PROFILE/deps/TEST-HASH`.
fn binary(name: &str) -> PathBuf {
    const HINT: &str = "`cargo test` and `cargo nextest run` build the examples, but with `--test NAME` they don't: run \
                        `cargo build --examples` first";
    let test = env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let binary = profile.join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
    assert!(binary.is_file(), "{} is missing. {HINT}", binary.display());
    if let Some(source) = newer_source(&binary) {
        panic!("{} is older than {}. {HINT}", binary.display(), source.display());
    }
    binary
}

/// A source file that was changed after the build: a stale example would be tested instead of the code at hand.
fn newer_source(binary: &Path) -> Option<PathBuf> {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built = modified(binary)?;
    // Beside the binary, cargo lists its sources as a rule for make.
    let rule = fs::read_to_string(binary.with_extension("d")).ok()?;
    let sources = rule.split_once(": ")?.1.split_whitespace().map(PathBuf::from);
    let mut from_root = sources.map(|source| Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    from_root.find(|source| modified(source).is_some_and(|changed| changed > built))
}
