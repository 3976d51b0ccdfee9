//! Workers without a task.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use onelane::{ProcessError, ProcessPool};
use rustix::process::{Pid, Signal, kill_process};
use support::waiting::{MS, PATIENCE, until};

use crate::processes::{is_running, parent, wait_until_ended};
use crate::work::{Fault, add, fail, pid, sleep_ms};

fn signal(process: i32, signal: Signal) {
    kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
}

/// Waits until the pool has this many workers without a task, and no other worker.
fn wait_until_idle(pool: &ProcessPool, expected: usize) {
    let start = Instant::now();
    loop {
        let workers = pool.stats().workers;
        if (workers.idle, workers.busy) == (expected, 0) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{workers:?}");
        thread::sleep(5 * MS);
    }
}

#[tokio::test]
async fn unused_pool_has_no_process() {
    let pool = ProcessPool::builder("unused").workers(1).idle_timeout(100 * MS).build();
    let worker = pool.run(pid, ()).await.unwrap();
    let zygote = parent(worker);
    wait_until_ended(worker);
    until("the zygote has ended", || !Path::new(&format!("/proc/{zygote}")).exists()).await;
    assert_eq!((pool.stats().workers.idle, pool.stats().workers.busy), (0, 0));
    assert_eq!(pool.stats().workers.died, 0);
    let next = pool.run(pid, ()).await.unwrap();
    assert_ne!(next, worker);
    wait_until_ended(next);
}

#[tokio::test]
async fn only_workers_that_are_not_needed_end() {
    let pool = ProcessPool::builder("needed").workers(2).idle_timeout(1_000 * MS).build();
    let (first, second) = tokio::join!(pool.run(sleep_ms, 50), pool.run(sleep_ms, 50));
    assert_ne!(first.unwrap(), second.unwrap());
    let start = Instant::now();
    while pool.stats().workers.idle == 2 {
        assert!(start.elapsed() < PATIENCE);
        assert!(pool.run(pid, ()).await.is_ok());
        tokio::time::sleep(10 * MS).await;
    }
    assert!(start.elapsed() >= 900 * MS, "{:?}", start.elapsed());
}

#[test]
fn warm_workers_wait_before_the_first_task_and_are_replaced() {
    let pool = ProcessPool::builder("warm").workers(2).min_idle(2).idle_timeout(100 * MS).forward_stderr(false).build();
    wait_until_idle(&pool, 2);
    let runtime = support::runtimes::current_thread();
    let error = runtime.block_on(pool.run(fail, Fault::Segfault)).unwrap_err();
    assert!(matches!(error, ProcessError::WorkerDied(_)), "{error:?}");
    wait_until_idle(&pool, 2);
    assert_eq!(pool.stats().workers.started, 3);
    // A worker that dies while it is idle is also replaced.
    let worker = runtime.block_on(pool.run(pid, ())).unwrap();
    signal(worker, Signal::KILL);
    wait_until_ended(worker);
    let start = Instant::now();
    while pool.stats().workers.started < 4 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(5 * MS);
    }
    wait_until_idle(&pool, 2);
    assert_eq!(pool.stats().workers.died, 2);
    // Workers of `min_idle` outlive `idle_timeout`.
    thread::sleep(300 * MS);
    assert_eq!((pool.stats().workers.idle, pool.stats().workers.started), (2, 4));
}

/// Returns the file in which the workers of a process note that they have started.
fn attempts(process: i32) -> PathBuf {
    std::env::temp_dir().join(format!("onelane-attempts-{process}"))
}

fn note_attempt() {
    let path = attempts(parent(parent(pid(()))));
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "once more").unwrap();
}

#[test]
fn warm_workers_that_die_after_their_start_are_no_fork_loop() {
    let initializer = || {
        thread::spawn(|| {
            thread::sleep(5 * MS);
            std::process::abort();
        });
    };
    let pool = ProcessPool::builder("late").workers(1).min_idle(1).idle_timeout(10 * MS).initializer(initializer);
    let pool = pool.forward_stderr(false).build();
    let start = Instant::now();
    while pool.stats().workers.died == 0 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(5 * MS);
    }
    thread::sleep(Duration::from_millis(500));
    let started = pool.stats().workers.started;
    assert!(started <= 2, "{started}");
}

#[test]
fn warm_workers_that_die_at_start_are_no_fork_loop() {
    let path = attempts(pid(()));
    let initializer = || {
        note_attempt();
        std::process::exit(9);
    };
    let pool = ProcessPool::builder("loop").workers(1).min_idle(1).initializer(initializer);
    let pool = pool.forward_stderr(false).build();
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(5 * MS);
    }
    thread::sleep(Duration::from_millis(1_500));
    let attempts = fs::read_to_string(&path).unwrap().lines().count();
    // One attempt at first, one a second later, and on a slow machine perhaps a third.
    assert!((1..=3).contains(&attempts), "{attempts}");
    assert_eq!(pool.stats().workers.started, 0);
    drop(pool);
    fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn workers_above_a_smaller_total_end() {
    let pool = ProcessPool::builder("smaller").workers(3).build();
    let tasks = [0; 3].map(|_| pool.task(sleep_ms, 300).start().unwrap());
    until("all tasks run", || pool.stats().workers.started == 3).await;
    pool.limiter().set_total(1);
    for task in tasks {
        assert!(task.await.is_ok());
    }
    until("one worker is left", || pool.stats().workers.idle == 1 && pool.stats().workers.busy == 0).await;
}

#[tokio::test]
async fn closing_a_pool_waits_for_no_process() {
    let pool = ProcessPool::builder("stuck").workers(1).build();
    let worker = pool.run(pid, ()).await.unwrap();
    let zygote = parent(worker);
    // A zygote that is stopped collects no worker.
    signal(zygote, Signal::STOP);
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        pool.close();
        drop(pool);
        sender.send(()).unwrap();
    });
    // A thread that waits for the zygote returns after 5 s.
    let is_closed = receiver.recv_timeout(Duration::from_secs(3));
    signal(zygote, Signal::CONT);
    assert!(is_closed.is_ok(), "the thread that closes the pool waits for a process");
    thread.join().unwrap();
    wait_until_ended(worker);
    wait_until_ended(zygote);
    assert!(!is_running(worker));
}

#[tokio::test]
async fn pool_is_at_full_strength_soon_after_a_crash() {
    let pool = ProcessPool::builder("strength").workers(2).forward_stderr(false).build();
    assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
    let mut times = Vec::new();
    for _ in 0..20 {
        assert!(pool.run(fail, Fault::Abort).await.is_err());
        let crashed_at = Instant::now();
        let both = tokio::join!(pool.run(sleep_ms, 1), pool.run(sleep_ms, 1));
        assert!(both.0.is_ok() && both.1.is_ok());
        times.push(crashed_at.elapsed());
    }
    times.sort();
    println!("full strength after a crash: {:?} in the median, {:?} at most", times[10], times[19]);
    assert!(times[10] < 100 * MS, "{times:?}");
}
