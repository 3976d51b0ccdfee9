//! [`Example`], a program that runs in a separate process, with the lines it has printed so far: an example of this
//! crate, or the program of a test.

use std::io::{self, BufRead, BufReader, PipeWriter, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::{PATIENCE, eventually, web_client};

/// A running example, or a running program of a test. Dropping it, also in a failed test, kills the process and waits
/// for its end.
pub struct Example {
    child: Child,
    /// Ends at the end of the example's output. `None` if other examples print to the same pipe.
    reader: Option<JoinHandle<()>>,
    printed: Arc<Mutex<Vec<Line>>>,
    /// The lines up to and including the one with the address.
    pub before: Vec<Line>,
    pub address: SocketAddr,
    /// The duration of each wait in the example.
    pub hold: Duration,
}

/// A pipe that several examples print to, so that the lines are in the order in which they were printed.
pub struct SharedOutput {
    writer: PipeWriter,
    reader: JoinHandle<()>,
    printed: Arc<Mutex<Vec<Line>>>,
}

/// A line on an example's stdout.
#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    /// When the line was read, which is a little after it was printed.
    pub at: Instant,
}

impl Example {
    /// Starts an example on a free port and waits until it listens.
    pub async fn start(name: &str, hold: Duration) -> Self {
        Self::start_with(name, hold, &[]).await
    }

    /// Starts an example with additional environment variables and waits until it listens.
    pub async fn start_with(name: &str, hold: Duration, variables: &[(&str, &str)]) -> Self {
        Self::launch(name, hold, variables).listening().await
    }

    /// Starts an example without waiting until it listens.
    pub fn launch(name: &str, hold: Duration, variables: &[(&str, &str)]) -> Self {
        let mut command = Self::command(name, hold);
        command.envs(variables.iter().copied());
        Self::spawn(command, hold)
    }

    /// Returns the command that starts an example on a free port.
    pub fn command(name: &str, hold: Duration) -> Command {
        let mut command = Command::new(binary(name));
        command.env("PORT", "0").env("HOLD_MS", hold.as_millis().to_string());
        // An intended panic should print one line.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Starts a test of this test binary, which is the program of other tests, and waits until it listens.
    pub async fn of_test(test: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env::current_exe().expect("the path of a test is known"));
        command.args(Self::ONLY).arg(test).envs(variables.iter().copied());
        Self::spawn(command, Duration::ZERO).listening().await
    }

    /// The arguments of a test binary before the name of the only test to run.
    pub const ONLY: [&str; 3] = ["--nocapture", "--test-threads=1", "--exact"];

    /// Starts a program without waiting until it listens.
    pub fn spawn(mut command: Command, hold: Duration) -> Self {
        let mut child = spawn(command.stdout(Stdio::piped()));
        let printed = Arc::default();
        let stdout = child.stdout.take().expect("stdout is piped");
        let reader = Some(collect(stdout, Arc::clone(&printed)));
        Self { child, reader, printed, before: Vec::new(), address: SocketAddr::from(([127, 0, 0, 1], 0)), hold }
    }

    /// Starts a program that prints to a shared pipe, and waits until it listens. The other programs must not print in
    /// the meantime.
    pub async fn spawn_beside(mut command: Command, hold: Duration, output: &SharedOutput) -> Self {
        let child = spawn(command.stdout(output.writer.try_clone().expect("a pipe can be cloned")));
        let (printed, address) = (Arc::clone(&output.printed), SocketAddr::from(([127, 0, 0, 1], 0)));
        Self { child, reader: None, printed, before: Vec::new(), address, hold }.listening().await
    }

    /// Waits until the program listens.
    pub async fn listening(mut self) -> Self {
        eventually("the program listens", || self.listens_at().is_some()).await;
        let (listening, address) = self.listens_at().expect("the address was printed a line above");
        self.before = lock(&self.printed).drain(..=listening).collect();
        self.address = address;
        self
    }

    /// Returns the index of the line with the address, and the address.
    fn listens_at(&self) -> Option<(usize, SocketAddr)> {
        // A test prints after its own name.
        let address = |line: &Line| line.text.split_once("listening on http://")?.1.parse().ok();
        lock(&self.printed).iter().enumerate().find_map(|(number, line)| Some((number, address(line)?)))
    }

    /// Returns the identifier of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the example.
    #[cfg(unix)]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child has not been waited for yet");
    }

    /// Returns how long the example's threads have run so far, and how long they were runnable without a processor.
    #[cfg(target_os = "linux")]
    pub fn cpu_time(&self) -> (Duration, Duration) {
        let tasks =
            fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the child has not been waited for yet");
        tasks.fold((Duration::ZERO, Duration::ZERO), |(ran, waited), task| {
            // The thread may have ended in the meantime.
            let statistics =
                task.and_then(|task| fs::read_to_string(task.path().join("schedstat"))).unwrap_or_default();
            let mut nanos = statistics.split(' ').map_while(|nanos| nanos.parse().ok()).map(Duration::from_nanos);
            (ran + nanos.next().unwrap_or_default(), waited + nanos.next().unwrap_or_default())
        })
    }

    /// Waits until the example has ended and its output has been read. Returns its exit code, or `None` if a signal
    /// killed it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                self.reader.take().into_iter().for_each(|reader| reader.join().expect("the reader does not panic"));
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "timed out: the example ends. Printed: {}", self.printed());
            // Another process runs in real time.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns `true` if connections to the example's address are refused.
    pub fn refuses(&self) -> bool {
        let refusal = std::net::TcpStream::connect(self.address).err();
        refusal.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the lines printed after the address.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.printed).clone()
    }

    /// Returns the lines printed after the address, joined by spaces.
    pub fn printed(&self) -> String {
        self.lines().iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Returns the texts of the lines printed after the address.
    pub fn texts(&self) -> Vec<String> {
        self.lines().into_iter().map(|line| line.text).collect()
    }

    /// Waits until a text has been printed after the address.
    pub async fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.printed().contains(text) {
            assert!(start.elapsed() < PATIENCE, "timed out: {text:?} is printed. Printed: {}", self.printed());
            // Another process runs in real time.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn wait_for_lines(&self, count: usize) {
        eventually(&format!("{count} lines are printed"), || self.lines().len() >= count).await;
    }

    /// Returns the response to `GET /stats`.
    pub async fn stats(&self) -> Value {
        self.json("/stats").await
    }

    /// Returns the response to a `GET`.
    pub async fn json(&self, path: &str) -> Value {
        let response = web_client().get(self.url(path)).send().await.expect("the example responds");
        response.json().await.expect("the response is JSON")
    }

    /// Polls the statistics until `pick` accepts them, and returns them.
    pub async fn wait_for_stats(&self, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_json("/stats", what, pick).await
    }

    /// Polls `path` until `pick` accepts the response, and returns the response.
    pub async fn wait_for_json(&self, path: &str, what: &str, pick: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let answer = self.json(path).await;
            if pick(&answer) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "timed out: {what}. {path}: {answer:#}, printed: {}", self.printed());
            // Another process runs in real time.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl SharedOutput {
    pub fn new() -> Self {
        let (reader, writer) = io::pipe().expect("a pipe can be opened");
        let printed = Arc::default();
        Self { writer, reader: collect(reader, Arc::clone(&printed)), printed }
    }

    /// Returns the lines that were printed so far, without those before an address.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.printed).clone()
    }

    /// Returns all lines, once all examples have ended.
    pub fn end(self) -> Vec<Line> {
        drop(self.writer);
        self.reader.join().expect("the reader does not panic");
        lock(&self.printed).clone()
    }
}

impl Default for SharedOutput {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Fails only if the child has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// Reads lines until the end of the output: the end of the last process that prints closes the pipe.
fn collect(stdout: impl Read + Send + 'static, printed: Arc<Mutex<Vec<Line>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            lock(&printed).push(Line { text, at: Instant::now() });
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds the lock")
}

/// Returns the path of an example, `target/PROFILE/examples/NAME`. The test itself is `target/PROFILE/deps/TEST-HASH`.
fn binary(name: &str) -> PathBuf {
    const HINT: &str = "`cargo test --workspace` and `cargo nextest run --workspace` build the examples, but not with \
                        `--test NAME`: run `cargo build --workspace --all-features --examples` first";
    let test = env::current_exe().expect("the path of a test is known");
    let profile = test.ancestors().nth(2).expect("a test is in target/PROFILE/deps");
    let binary = profile.join("examples").join(name).with_extension(env::consts::EXE_EXTENSION);
    assert!(binary.is_file(), "{} is missing. {HINT}", binary.display());
    if let Some(source) = newer_source(&binary) {
        panic!("{} is older than {}. {HINT}", binary.display(), source.display());
    }
    binary
}

/// Returns a source file that was changed after the build. Without this check, a test could run a stale example.
fn newer_source(binary: &Path) -> Option<PathBuf> {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let built = modified(binary)?;
    // Next to the binary, cargo lists its sources in a make rule.
    let rule = fs::read_to_string(binary.with_extension("d")).ok()?;
    let sources = rule.split_once(": ")?.1.split_whitespace().map(PathBuf::from);
    let mut from_root = sources.map(|source| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(source));
    from_root.find(|source| modified(source).is_some_and(|changed| changed > built))
}
