//! The processes that workers leave behind, and what workers inherit.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use onelane::offload::process::WorkerExit;
use onelane::{ProcessError, ProcessPool};
use rustix::process::{Pid, Signal, kill_process};
use support::process::Example;
use support::runtimes::current_thread;
use support::waiting::{PATIENCE, until};

use crate::work::{Fault, add, allocate, pid, resident_memory, sleep_ms, spin, start_child, start_child_and_hang};

pub(crate) fn is_running(pid: i32) -> bool {
    // A zombie does not run.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn wait_until_ended(pid: i32) {
    let start = Instant::now();
    while is_running(pid) {
        assert!(start.elapsed() < PATIENCE, "process {pid} is still running");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn children_of_a_worker_end_with_it() {
    let pool = ProcessPool::builder("children").workers(1).forward_stderr(false).build();
    let error = pool.task(start_child_and_hang, ()).timeout(Duration::from_millis(500)).await.unwrap_err();
    let stderr = error.death().unwrap().stderr().to_owned();
    let child: i32 = stderr.trim().strip_prefix("child ").unwrap().parse().unwrap();
    wait_until_ended(child);

    let child = pool.run(start_child, Fault::None).await.unwrap();
    assert!(is_running(child as i32), "a child may outlive its task");
    assert!(pool.run(start_child, Fault::Segfault).await.is_err());
    wait_until_ended(child as i32);
}

#[tokio::test]
async fn dropped_pool_leaves_no_process() {
    let pool = ProcessPool::builder("gone").workers(2).build();
    let (first, second) = tokio::join!(pool.run(sleep_ms, 50), pool.run(sleep_ms, 50));
    let zygote = parent(first.as_ref().copied().unwrap());
    assert_eq!(parent(zygote), pid(()));
    drop(pool);
    [first.unwrap(), second.unwrap()].into_iter().for_each(wait_until_ended);
    until("the zygote has ended", || !Path::new(&format!("/proc/{zygote}")).exists()).await;
}

/// Returns the parent of a process.
pub(crate) fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn worker_inherits_no_file_and_no_variable_of_the_pool() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // A library may open files that programs inherit.
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let pool = ProcessPool::builder("files").workers(1).build();
    let files = |(): ()| {
        let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| fs::read_link(entry.unwrap().path()));
        let mut links: Vec<String> = links.flatten().map(|link| link.to_string_lossy().into_owned()).collect();
        links.sort();
        // Another test may have set a subscriber: then the worker has a second descriptor of its socket.
        links.dedup();
        links
    };
    let files = pool.run(files, ()).await.unwrap();
    let sockets = files.iter().filter(|file| file.starts_with("socket:")).count();
    assert_eq!(sockets, 1, "only the worker's own: {files:?}");
    let variables = |(): ()| env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ONELANE")).count();
    assert_eq!(pool.run(variables, ()).await.unwrap(), 0);
    drop(listener);
}

#[tokio::test]
async fn cleared_environment_reaches_no_worker() {
    let count = |(): ()| env::vars().count();
    let pool = ProcessPool::builder("bare").workers(1).clear_environment().build();
    assert_eq!(pool.run(count, ()).await.unwrap(), 0);
}

#[tokio::test]
async fn worker_that_was_killed_while_idle_is_replaced() {
    let pool = ProcessPool::builder("idle").workers(1).build();
    let before = pool.run(pid, ()).await.unwrap();
    kill_process(Pid::from_raw(before).unwrap(), Signal::KILL).unwrap();
    wait_until_ended(before);
    assert_ne!(pool.run(pid, ()).await.unwrap(), before);
    // A zygote that was killed is also replaced.
    let worker = pool.run(pid, ()).await.unwrap();
    let zygote = parent(worker);
    kill_process(Pid::from_raw(zygote).unwrap(), Signal::KILL).unwrap();
    until("both have ended", || !is_running(zygote) && !is_running(worker)).await;
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
}

/// Runs many tasks, and compares the memory of the worker and of this process.
#[test]
fn memory_of_many_tasks() {
    let Ok(tasks) = env::var(TASKS) else { return };
    let tasks: u32 = tasks.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = ProcessPool::builder("many").workers(1).timeout(PATIENCE).build();
        let measure = async || (resident_memory(()), pool.run(resident_memory, ()).await.unwrap());
        for number in 0..tasks / 10 {
            assert_eq!(pool.run(add, (number, 1)).await.unwrap(), number + 1);
        }
        let before = measure().await;
        for number in 0..tasks {
            assert_eq!(pool.run(add, (number, 1)).await.unwrap(), number + 1);
        }
        let after = measure().await;
        println!("\nmemory of server and worker before {tasks} tasks {before:?}, and after {after:?}");
        assert!(after.0 < before.0 + (1 << 20) && after.1 < before.1 + (1 << 20), "{before:?} {after:?}");
        assert_eq!(pool.stats().workers.started, 1);
        assert_eq!(keepers(), 1);
        drop(pool);
        until("the thread of the pool has ended", || keepers() == 0).await;
    });
}

/// Returns how many threads of this process are keepers of a pool.
fn keepers() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.map(|thread| fs::read_to_string(thread.path().join("comm")).unwrap_or_default());
    names.filter(|name| name.trim_end() == "onelane-keeper").count()
}

const TASKS: &str = "ONELANE_TEST_PROCESS_TASKS";

#[test]
fn memory_of_server_and_worker_stays_the_same() {
    // The measurement has a process of its own, because the other tests of this process need memory too.
    let mut command = Command::new(env::current_exe().unwrap());
    let tasks = env::var(TASKS).unwrap_or_else(|_| "20000".to_owned());
    command.args(["--exact", "processes::memory_of_many_tasks", "--nocapture"]).env(TASKS, tasks);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("memory of server and worker"), "{output:?}");
}

const SERVER: &str = "ONELANE_TEST_PROCESS_SERVER";

/// The program of the tests below: a server whose pool runs a task forever.
#[test]
fn server() {
    if env::var(SERVER).is_err() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:0".to_owned())).unwrap();
        let pool = ProcessPool::builder("server").workers(2).build();
        let worker = pool.run(pid, ()).await.unwrap();
        let hanging = pool.task(start_child_and_hang, ()).start().unwrap();
        until("the task runs", || pool.stats().workers.busy == 1).await;
        // The test harness has already begun a line.
        println!("\nworker {worker}");
        println!("zygote {}", parent(worker));
        println!("listening on http://{}", listener.local_addr().unwrap());
        drop(hanging.await);
    });
}

#[tokio::test]
async fn killed_server_leaves_no_worker_and_a_free_port() {
    let mut server = Example::of_test("processes::server", &[(SERVER, "1")]).await;
    let number = |prefix: &str| -> i32 {
        let line = server.before.iter().find_map(|line| line.text.strip_prefix(prefix).map(str::to_owned));
        line.unwrap().trim().parse().unwrap()
    };
    let (worker, zygote) = (number("worker "), number("zygote "));
    let address = server.address;
    let group = || processes_of_group(worker);
    until("the worker has a child", || group().len() == 2).await;
    server.signal(Signal::KILL);
    assert_eq!(server.exit_code().await, None);
    let killed_at = Instant::now();
    wait_until_ended(zygote);
    wait_until_ended(worker);
    until("the group has ended", || group().is_empty()).await;
    assert!(killed_at.elapsed() < PATIENCE);
    TcpListener::bind(address).unwrap();
    // A worker that ran a part of `main` would begin the test again.
    let before: Vec<&str> = server.before.iter().map(|line| &*line.text).collect();
    assert_eq!(before.iter().filter(|line| line.contains("running 1 test")).count(), 1, "{before:?}");
    assert_eq!(server.printed(), "");
}

const BLOCKED: &str = "ONELANE_TEST_BLOCKED";

/// The program of the test below, whose parent ignores signals and closes files that a worker needs.
#[test]
fn crippled_program() {
    if env::var(BLOCKED).is_err() {
        return;
    }
    let pool = ProcessPool::builder("crippled").workers(1).memory_limit(200 << 20).forward_stderr(false).build();
    let run = current_thread();
    let error = run.block_on(pool.run(allocate, 1 << 30)).unwrap_err();
    assert!(matches!(error, ProcessError::MemoryLimit(_)), "{error:?}");
    assert_eq!(error.death().unwrap().exit(), WorkerExit::Signal(6));
    let child = |(): ()| Command::new("true").status().unwrap().success();
    assert!(run.block_on(pool.run(child, ())).unwrap());
    let files = |(): ()| [0, 1].map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap());
    let files = run.block_on(pool.run(files, ())).unwrap();
    assert_eq!(files, ["/dev/null", "/dev/null"].map(PathBuf::from), "the output was closed");
}

#[test]
fn worker_inherits_neither_ignored_signals_nor_closed_files() {
    let program = env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let mut shell = Command::new("sh");
    shell.env(BLOCKED, "1").args(["-c", r#"trap '' CHLD TERM; exec "$@" >&-"#, "sh", program]);
    let output = shell.args(Example::ONLY).arg("processes::crippled_program").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn stopped_zygote_is_replaced_and_its_late_answers_are_nobodys() {
    let pool = ProcessPool::builder("stopped").workers(4).max_tasks_per_worker(1).build();
    let parent = |(): ()| rustix::process::getppid().unwrap().as_raw_nonzero().get();
    let zygote = pool.run(parent, ()).await.unwrap();
    let stopped = Pid::from_raw(zygote).unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    let tasks: Vec<_> = (0..8).map(|number| pool.task(add, (number, 1)).start().unwrap()).collect();
    thread::sleep(Duration::from_millis(5_500));
    // The zygote may have been killed already.
    let _ = kill_process(stopped, Signal::CONT);
    for (number, task) in (0..8).zip(tasks) {
        assert_eq!(task.await.unwrap(), number + 1);
    }
    assert_ne!(pool.run(parent, ()).await.unwrap(), zygote);
}

#[tokio::test]
async fn worker_that_leaves_its_group_is_killed() {
    let pool = ProcessPool::builder("leaves").workers(1).forward_stderr(false).build();
    let leave = |(): ()| {
        let other = rustix::process::getpgid(rustix::process::getppid()).unwrap();
        rustix::process::setpgid(None, Some(other)).unwrap();
        eprintln!("{}", pid(()));
        spin(());
    };
    let error = pool.task::<(), ()>(leave, ()).timeout(Duration::from_millis(300)).await.unwrap_err();
    let death = error.death().unwrap();
    assert_eq!(death.exit(), WorkerExit::Signal(9));
    assert!(!is_running(death.stderr().trim().parse().unwrap()));
}

#[tokio::test]
async fn pool_of_a_worker_ends_with_the_worker() {
    let pool = ProcessPool::builder("outer").workers(1).forward_stderr(false).build();
    let nest = |(): ()| {
        let inner = ProcessPool::builder("inner").workers(1).build();
        let worker = current_thread().block_on(inner.run(pid, ())).unwrap();
        eprintln!("{worker} {}", parent(worker));
        spin(());
    };
    let error = pool.task::<(), ()>(nest, ()).timeout(Duration::from_secs(3)).await.unwrap_err();
    let stderr = error.death().unwrap().stderr();
    let processes: Vec<i32> = stderr.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(processes.len(), 2);
    processes.into_iter().for_each(wait_until_ended);
}

const REPLACED: &str = "ONELANE_TEST_REPLACED";

/// The program of the test below, which replaces its own executable file.
#[test]
fn replaced_program() {
    if env::var(REPLACED).is_err() {
        return;
    }
    let path = env::current_exe().unwrap();
    current_thread().block_on(async {
        let before = ProcessPool::builder("before").workers(1).build();
        assert_eq!(before.run(add, (1, 2)).await.unwrap(), 3);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "#!/bin/sh\necho this is another program\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let worker = before.run(pid, ()).await.unwrap();
        kill_process(Pid::from_raw(parent(worker)).unwrap(), Signal::KILL).unwrap();
        // A task that gets the worker while the system kills it would fail.
        wait_until_ended(worker);
        assert_eq!(before.run(add, (3, 4)).await.unwrap(), 7);
        let after = ProcessPool::builder("after").workers(1).build();
        assert_eq!(after.run(add, (5, 6)).await.unwrap(), 11);
        assert_ne!(after.run(pid, ()).await.unwrap(), worker);
        fs::remove_file(&path).unwrap();
        let deleted = ProcessPool::builder("deleted").workers(1).build();
        assert_eq!(deleted.run(add, (7, 8)).await.unwrap(), 15);
    });
    println!("\nworked on");
}

#[test]
fn program_whose_file_was_replaced_works_on() {
    let copy = env::temp_dir().join(format!("onelane-replaced-{}", pid(())));
    fs::copy(env::current_exe().unwrap(), &copy).unwrap();
    let mut program = Command::new(&copy);
    program.args(Example::ONLY).arg("processes::replaced_program").env(REPLACED, "1");
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("worked on"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("another program"), "{text}");
    assert!(!copy.exists());
}

/// Returns the processes whose group has this identifier.
fn processes_of_group(group: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_member = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
        let mut fields = fields.split(' ');
        fields.next() != Some("Z") && fields.nth(1).and_then(|field| field.parse().ok()) == Some(group)
    };
    numbers.filter(is_member).collect()
}
