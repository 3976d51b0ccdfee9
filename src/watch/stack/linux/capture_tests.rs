//! Unit tests of [`Capture`], with the real signal. Miri can't run them: it delivers no signals.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::io::{Read, Write};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::capture::Capture;
use crate::watch::slot::ThreadName;

/// A thread that runs a function again and again, until the value is dropped.
struct Busy {
    tid: libc::pid_t,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn new(mut work: impl FnMut() + Send + 'static) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let (started, starts) = mpsc::channel();
        let thread = thread::spawn(move || {
            started.send(ThreadName::current().tid).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                work();
            }
        });
        Self { tid: starts.recv().unwrap(), is_stopped, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

fn unwind(depth: u32) -> u32 {
    if depth == 0 {
        resume_unwind(Box::new(()))
    }
    unwind(depth - 1) + 1
}

fn recurse(depth: u32, is_stopped: &AtomicBool) -> u32 {
    if depth > 0 {
        return recurse(depth - 1, is_stopped) + std::hint::black_box(1);
    }
    while !is_stopped.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    0
}

/// Returns how many captures have succeeded.
fn count_captured(capture: &Capture, threads: &[&Busy], times: usize) -> usize {
    let tids = threads.iter().cycle().map(|thread| thread.tid);
    tids.take(times).filter(|tid| capture.addresses_of(*tid).is_some()).count()
}

fn capture_many(capture: &Capture, threads: &[&Busy], times: usize) {
    let captured = count_captured(capture, threads, times);
    // On a busy machine, the thread may wait longer for a processor than the watch waits for the thread.
    assert!(captured >= times * 9 / 10, "{captured} of {times}");
}

/// `ONELANE_LONG_TESTS=1` makes thirty times as many captures.
#[test]
fn thread_that_allocates_locks_and_unwinds_is_captured_ten_thousand_times() {
    let capture = Capture::install().unwrap();
    let shared = Arc::new(Mutex::new(Vec::new()));
    let lock = Arc::clone(&shared);
    let worker = Busy::new(move || {
        lock.lock().unwrap().push(vec![0_u8; 4_000]);
        let unwound = catch_unwind(|| unwind(20));
        assert!(unwound.is_err());
        let mut vectors = lock.lock().unwrap();
        if vectors.len() > 100 {
            vectors.clear();
        }
    });
    let other = Busy::new(move || {
        drop(shared.lock().unwrap().pop());
        let mut numbers: Vec<_> = (0..50).map(|number| format!("{number}: {:?}", Instant::now())).collect();
        numbers.sort_by_key(|number| std::cmp::Reverse(number.len()));
        std::hint::black_box(numbers);
    });
    let spawner = Busy::new(|| {
        let unwound = thread::scope(|scope| scope.spawn(|| unwind(3)).join());
        assert!(unwound.is_err());
    });
    let times = std::env::var("ONELANE_LONG_TESTS").map_or(10_000, |_| 300_000);
    // A capture fails while the thread is inside libgcc.
    let captured = count_captured(&capture, &[&worker, &other, &worker, &spawner], times);
    assert!(captured >= times / 2, "{captured}");
}

#[test]
fn thread_in_a_deep_recursion_is_captured() {
    let capture = Capture::install().unwrap();
    let is_stopped = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&is_stopped);
    let worker = Busy::new(move || {
        recurse(5_000, &stopped);
    });
    capture_many(&capture, &[&worker], 1_000);
    is_stopped.store(true, Ordering::Relaxed);
}

#[test]
fn thread_that_unwinds_for_the_first_time_is_captured() {
    let capture = Capture::install().unwrap();
    for _ in 0..50 {
        let worker = Busy::new(|| {
            let _ = thread::spawn(|| catch_unwind(|| unwind(3))).join();
        });
        capture.addresses_of(worker.tid);
    }
}

/// The system never restarts `nanosleep` and `epoll_wait`. It restarts `read`.
#[test]
fn system_calls_survive_the_interruption() {
    let capture = Capture::install().unwrap();
    let (mut writes, mut reads) = std::os::unix::net::UnixStream::pair().unwrap();
    let reader = Busy::new(move || assert_eq!(reads.read(&mut [0]).unwrap(), 1));
    let sleeper = Busy::new(|| {
        let start = Instant::now();
        thread::sleep(Duration::from_millis(3));
        assert!(start.elapsed() >= Duration::from_millis(3));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let poller = Busy::new(move || runtime.block_on(async { tokio::time::sleep(Duration::from_millis(3)).await }));
    for _ in 0..20 {
        capture_many(&capture, &[&reader, &sleeper, &poller], 30);
        writes.write_all(&[0]).unwrap();
    }
    reader.is_stopped.store(true, Ordering::Relaxed);
    writes.write_all(&[0]).unwrap();
}

#[test]
fn watches_that_capture_at_once_do_so_one_after_the_other() {
    let workers = [0; 4].map(|_| Busy::new(|| thread::sleep(Duration::from_millis(1))));
    let capture = Capture::install().unwrap();
    let all = Barrier::new(workers.len());
    thread::scope(|scope| {
        for worker in &workers {
            scope.spawn(|| {
                all.wait();
                capture_many(&capture, &[worker], 1_000);
            });
        }
    });
}

#[test]
fn thread_that_has_ended_has_no_stack() {
    let capture = Capture::install().unwrap();
    let ended = thread::spawn(ThreadName::current).join().unwrap();
    // The system removes the thread shortly after `join` has returned.
    thread::sleep(Duration::from_millis(50));
    assert!(capture.stack_of(&ended).is_none());
}

#[test]
fn stack_begins_with_the_function_that_was_interrupted() {
    #[inline(never)]
    fn sleeps() {
        thread::sleep(Duration::from_millis(200));
        // Prevents a tail call, which would remove this function from the stack.
        std::hint::black_box(());
    }
    let capture = Capture::install().unwrap();
    let worker = Busy::new(sleeps);
    let thread = ThreadName { name: None, tid: worker.tid };
    // The first attempts come before the debug information has been read, or find the thread between two calls.
    let captured = (0..100).find_map(|_| {
        thread::sleep(Duration::from_millis(50));
        let stack = capture.stack_of(&thread)?;
        stack.frames()[0].function().is_some_and(|name| name.contains("nanosleep")).then(|| stack.to_string())
    });
    let stack = captured.expect("the stack begins with the system call");
    assert!(stack.lines().any(|line| line.contains("sleeps")), "{stack}");
    assert!(!stack.contains("on_signal"), "{stack}");
}
