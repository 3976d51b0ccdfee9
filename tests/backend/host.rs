//! Locks in files, over the processes of a host.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onelane::KeyedGuard;
use onelane::backend::{Host, LockBackend, LockName, conformance};
use rustix::process::Signal;
use support::process::Example;
use support::runtimes::multi_thread;
use tokio::time::{sleep, timeout};

use super::stores::take;
use super::{MS, PATIENCE, domain, guard};

/// The directory of the processes that the tests start.
const DIRECTORY: &str = "ONELANE_TEST_LOCKS";
/// A process with a relative directory.
const RELATIVE: &str = "ONELANE_TEST_RELATIVE";
/// How many callers each of these processes has.
const CALLERS: &str = "ONELANE_TEST_CALLERS";

/// A directory that is removed at the end.
pub(super) struct TestDirectory(pub(super) PathBuf);

impl TestDirectory {
    pub(super) fn new() -> Self {
        let path = env::temp_dir().join(format!("onelane-locks-{:x}", fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_keeps_all_rules_of_backends() {
    let directory = TestDirectory::new();
    let violations = conformance::check(|| Host::new(&directory.0)).await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test]
async fn misuse_is_an_error_that_says_what_to_do() {
    let directory = TestDirectory::new();
    let connect = async |path: PathBuf| domain(|domain| domain).connect(Host::new(path)).await.unwrap_err().to_string();
    let missing = connect(directory.0.join("missing")).await;
    assert!(missing.contains("create it before the service"), "{missing}");

    let file = directory.0.join("file");
    fs::write(&file, "").unwrap();
    assert!(connect(file).await.contains("not a directory"));

    let shared = directory.0.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let others = connect(shared).await;
    assert!(others.contains("use a directory of this service alone, after chmod 755"), "{others}");

    // `/proc` belongs to root, and no process can create files in it.
    let read_only = connect("/proc".into()).await;
    assert!(read_only.contains("make it belong to the user of the process"), "{read_only}");
}

/// A process that has released a lock lets other processes go first, so its own release must not wake it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_release_does_not_wake_callers_that_wait_since_then() {
    let directory = TestDirectory::new();
    let (one, other) = (Host::new(&directory.0), Arc::new(Host::new(&directory.0)));
    one.connect("shop").await.unwrap();
    other.connect("shop").await.unwrap();
    let name = LockName::new("report", None);
    for _ in 0..20 {
        let lease = take(&one, &name).await.unwrap();
        let process = Arc::clone(&other);
        let waiting = tokio::spawn(async move { process.released(&LockName::new("report", None)).await });
        // Long enough for the mark, and for the events of the last round.
        sleep(MS * 30).await;
        assert_eq!(one.release(&lease).await.unwrap().waiting, 1);
        timeout(MS * 50, one.released(&name)).await.expect_err("no other process has released the lock");
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
    }
    // Releases by the other process still wake this process.
    for _ in 0..20 {
        let lease = take(&*other, &name).await.unwrap();
        let waiting = one.released(&name);
        let release = async {
            sleep(MS * 5).await;
            other.release(&lease).await.unwrap();
        };
        timeout(PATIENCE, async { tokio::join!(waiting, release) }).await.unwrap();
    }
}

#[test]
fn relative_directory_outlives_a_change_of_the_current_one() {
    let directory = TestDirectory::new();
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "host::program_with_a_relative_directory", "--nocapture"])
        .env(RELATIVE, "1")
        .current_dir(&directory.0)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    let mut files: Vec<_> = fs::read_dir(&directory.0).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["test.report.locks", "test.report.tokens"]);
}

/// Does nothing unless the test above starts it in a child process.
#[test]
fn program_with_a_relative_directory() {
    if env::var(RELATIVE).is_err() {
        return;
    }
    multi_thread(2).block_on(async {
        let locks = domain(|domain| domain);
        locks.connect(Host::new(".")).await.unwrap();
        env::set_current_dir("/").unwrap();
        guard(locks).acquire().await.unwrap().release().await.unwrap();
    });
}

#[tokio::test]
async fn symbolic_links_are_not_followed() {
    let directory = TestDirectory::new();
    let target = directory.0.join("target");
    symlink(&target, directory.0.join("test.report.locks")).unwrap();
    let locks = domain(|domain| domain);
    locks.connect(Host::new(&directory.0)).await.unwrap();
    assert!(guard(locks).acquire().await.is_err());
    assert!(!target.exists());
}

#[tokio::test]
async fn files_are_private() {
    let directory = TestDirectory::new();
    let locks = domain(|domain| domain);
    locks.connect(Host::new(&directory.0)).await.unwrap();
    let keyed = KeyedGuard::<usize>::builder("per/user").distributed(locks).build();
    drop(keyed.acquire(1).await.unwrap());
    let mut files: Vec<_> = fs::read_dir(&directory.0).unwrap().map(Result::unwrap).collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let described = files
        .iter()
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().permissions().mode() & 0o777));
    let expected = [("test.per%2fuser.locks".to_owned(), 0o600), ("test.per%2fuser.tokens".to_owned(), 0o600)];
    assert_eq!(described.collect::<Vec<_>>(), expected);
}

/// Processes that take turns, and write a line when they enter and when they leave.
struct Processes {
    directory: TestDirectory,
    callers: &'static str,
    running: Vec<Example>,
    killed: BTreeSet<u32>,
}

impl Processes {
    async fn start(count: usize, callers: &'static str) -> Self {
        let directory = TestDirectory::new();
        let mut this = Self { directory, callers, running: Vec::new(), killed: BTreeSet::new() };
        for _ in 0..count {
            this.add().await;
        }
        this
    }

    async fn add(&mut self) {
        let variables = [(DIRECTORY, self.directory.0.to_str().unwrap()), (CALLERS, self.callers)];
        self.running.push(Example::of_test("host::program_of_the_tests_above", &variables).await);
    }

    fn kill(&mut self, at: usize) {
        let process = self.running.swap_remove(at);
        process.signal(Signal::KILL);
        self.killed.insert(process.id());
    }

    /// Kills all processes, and checks that no two were inside at once. Returns how many turns each one had.
    fn end(mut self) -> BTreeMap<u32, usize> {
        while !self.running.is_empty() {
            self.kill(0);
        }
        let log = fs::read_to_string(self.directory.0.join("log")).unwrap();
        let (mut turns, mut inside, mut last) = (BTreeMap::new(), None, 0);
        for line in log.lines() {
            let [what, token, process] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let (token, process): (u64, u32) = (token.parse().unwrap(), process.parse().unwrap());
            if what == "leaves" {
                assert_eq!(inside.take(), Some((token, process)), "{line}");
                continue;
            }
            assert!(token > last, "token {token} follows token {last}");
            last = token;
            if let Some((token, other)) = inside.replace((token, process)) {
                assert!(self.killed.contains(&other), "{process} enters while {other} is inside with token {token}");
            }
            *turns.entry(process).or_default() += 1;
        }
        turns
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_and_stopped_are_inside_one_at_a_time() {
    let mut processes = Processes::start(4, "3").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        let victim = fastrand::usize(..processes.running.len());
        if fastrand::bool() {
            processes.kill(victim);
            processes.add().await;
        } else {
            processes.running[victim].signal(Signal::STOP);
            sleep(MS * fastrand::u32(1..200)).await;
            processes.running[victim].signal(Signal::CONT);
        }
        sleep(MS * fastrand::u32(1..50)).await;
    }
    let turns = processes.end();
    assert!(turns.len() > 4 && turns.values().sum::<usize>() > 200, "{turns:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_starves() {
    for callers in ["1", "3"] {
        let processes = Processes::start(4, callers).await;
        // From now on, all processes run, including the last one.
        sleep(Duration::from_secs(3)).await;
        let turns = processes.end();
        let (fewest, all) = (*turns.values().min().unwrap(), turns.values().sum::<usize>());
        assert!(turns.len() == 4 && fewest > all / 4 / 5, "{turns:?}");
    }
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::print_stdout, reason = "the parent waits for the line")]
fn program_of_the_tests_above() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    let callers: usize = env::var(CALLERS).unwrap().parse().unwrap();
    multi_thread(2).block_on(async {
        let locks = domain(|domain| domain);
        locks.connect(Host::new(&directory)).await.unwrap();
        let guard = Arc::new(guard(locks));
        let log = PathBuf::from(directory).join("log");
        let log: Arc<File> = Arc::new(OpenOptions::new().create(true).append(true).open(log).unwrap());
        println!("listening on http://127.0.0.1:1");
        for _ in 0..callers {
            let (guard, log) = (Arc::clone(&guard), Arc::clone(&log));
            tokio::spawn(async move {
                loop {
                    let permit = guard.acquire().await.unwrap();
                    let token = permit.lease().unwrap().fence();
                    // Each note is one write, which a kill does not cut.
                    let note = |what| (&*log).write_all(format!("{what} {token} {}\n", process::id()).as_bytes());
                    note("enters").unwrap();
                    sleep(MS).await;
                    note("leaves").unwrap();
                    drop(permit);
                }
            });
        }
        std::future::pending::<()>().await;
    });
}
