//! [`Example`], an example of this crate running as a process of its own, with what it has printed so far.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::{PATIENCE, eventually, web_client};

/// A running example. Dropping it, in a failed test too, kills it and waits until it is gone.
pub struct Example {
    child: Child,
    /// It ends when all is read that the example will ever print.
    reader: Option<JoinHandle<()>>,
    printed: Arc<Mutex<Vec<Line>>>,
    /// The lines up to the one that says where it listens, with that one.
    pub before: Vec<Line>,
    pub address: SocketAddr,
    /// How long each of its waits takes.
    pub hold: Duration,
}

/// A line on an example's stdout.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    /// When it was read here, which is a little after it was printed.
    pub at: Instant,
}

impl Example {
    /// Starts an example on a port of its own and waits until it listens.
    pub async fn start(name: &str, hold: Duration) -> Self {
        Self::start_with(name, hold, &[]).await
    }

    /// The same with more variables in its environment.
    pub async fn start_with(name: &str, hold: Duration, variables: &[(&str, &str)]) -> Self {
        let mut example = Self::launch(name, hold, variables);
        eventually("the example listens", || example.listens_at().is_some()).await;
        let (listening, address) = example.listens_at().expect("it was there a line above");
        example.before = lock(&example.printed).drain(..=listening).collect();
        example.address = address;
        example
    }

    /// Starts an example, and does not wait until it listens.
    pub fn launch(name: &str, hold: Duration, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary(name))
            .env("PORT", "0")
            .env("HOLD_MS", hold.as_millis().to_string())
            // Those that panic on purpose do so in a line.
            .env("RUST_BACKTRACE", "0")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("the example {name} does not start: {error}"));
        let printed = Arc::default();
        let stdout = child.stdout.take().expect("it is piped");
        let reader = Some(collect(stdout, Arc::clone(&printed)));
        Self { child, reader, printed, before: Vec::new(), address: SocketAddr::from(([127, 0, 0, 1], 0)), hold }
    }

    /// The number of the line that says it, and what it says.
    fn listens_at(&self) -> Option<(usize, SocketAddr)> {
        let address = |line: &Line| line.text.strip_prefix("listening on http://")?.parse().ok();
        lock(&self.printed).iter().enumerate().find_map(|(number, line)| Some((number, address(line)?)))
    }

    /// Sends it a signal.
    #[cfg(unix)]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child, and not waited for yet");
    }

    /// How long its threads have run so far, and how long they were ready to and had no processor.
    #[cfg(target_os = "linux")]
    pub fn cpu_time(&self) -> (Duration, Duration) {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it is our child");
        tasks.fold((Duration::ZERO, Duration::ZERO), |(ran, waited), task| {
            // A thread may end meanwhile.
            let statistics =
                task.and_then(|task| fs::read_to_string(task.path().join("schedstat"))).unwrap_or_default();
            let mut nanos = statistics.split(' ').map_while(|nanos| nanos.parse().ok()).map(Duration::from_nanos);
            (ran + nanos.next().unwrap_or_default(), waited + nanos.next().unwrap_or_default())
        })
    }

    /// Waits until it has ended and all that it printed is here. Its exit code: none if a signal has killed it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                self.reader.take().into_iter().for_each(|reader| reader.join().expect("it does not panic"));
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "in vain: the example ends. Printed: {}", self.printed());
            // Another process takes real time.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether nobody listens where it listened.
    pub fn refuses(&self) -> bool {
        let refusal = std::net::TcpStream::connect(self.address).err();
        refusal.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The lines since it listens.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.printed).clone()
    }

    /// The lines since it listens, in one string.
    pub fn printed(&self) -> String {
        self.lines().iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// The lines since it listens, as strings.
    pub fn texts(&self) -> Vec<String> {
        self.lines().into_iter().map(|line| line.text).collect()
    }

    pub async fn wait_for_lines(&self, count: usize) {
        eventually(&format!("{count} lines are printed"), || self.lines().len() >= count).await;
    }

    /// What `GET /stats` answers.
    pub async fn stats(&self) -> Value {
        self.json("/stats").await
    }

    /// What a `GET` answers.
    pub async fn json(&self, path: &str) -> Value {
        let response = web_client().get(self.url(path)).send().await.expect("the example answers");
        response.json().await.expect("it answers in JSON")
    }

    /// Asks for the statistics until `pick` finds in them what it looks for.
    pub async fn wait_for_stats(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_json("/stats", what, pick).await
    }

    /// Asks until `pick` finds in the answer what it looks for.
    pub async fn wait_for_json(&self, path: &str, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.json(path).await;
            if pick(&answer) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "in vain: {what}. {path}: {answer:#}, printed: {}", self.printed());
            // As above.
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

/// Reads lines until nobody can print any more: the death of the child closes the pipe.
fn collect(stdout: ChildStdout, printed: Arc<Mutex<Vec<Line>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            lock(&printed).push(Line { text, at: Instant::now() });
        }
    })
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
    let mut from_root = sources.map(|source| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(source));
    from_root.find(|source| modified(source).is_some_and(|changed| changed > built))
}
