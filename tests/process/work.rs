//! The functions that the workers of the tests run.

use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, abort, exit};
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal, getpid, kill_process, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

pub(crate) fn add((a, b): (u32, u32)) -> u32 {
    a + b
}

pub(crate) fn sum<T: std::iter::Sum<T>>(values: Vec<T>) -> T {
    values.into_iter().sum()
}

pub(crate) fn echo(bytes: Bytes) -> Bytes {
    bytes
}

/// Returns the identifier of the worker.
pub(crate) fn pid((): ()) -> i32 {
    getpid().as_raw_nonzero().get()
}

pub(crate) fn sleep_ms(ms: u64) -> i32 {
    sleep(Duration::from_millis(ms));
    pid(())
}

/// How a task fails.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum Fault {
    None,
    Segfault,
    Abort,
    Exit,
    Kill,
    Panic,
    Overflow,
    Allocate,
    Loop,
}

pub(crate) fn fail(fault: Fault) -> u32 {
    match fault {
        Fault::None => {}
        Fault::Segfault => kill_self(Signal::SEGV),
        Fault::Abort => abort(),
        Fault::Exit => exit(3),
        Fault::Kill => kill_self(Signal::KILL),
        Fault::Panic => panic!("the image has no pixels"),
        Fault::Allocate => drop(allocate(2 << 30)),
        Fault::Loop => spin(()),
        Fault::Overflow => {
            black_box(overflow(black_box(1)));
        }
    }
    7
}

fn kill_self(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
    sleep(Duration::from_secs(10));
}

#[expect(unconditional_recursion, reason = "the stack overflows")]
fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    overflow(depth + 1) + frame[black_box(3)]
}

/// Allocates this many bytes and touches all of them.
pub(crate) fn allocate(bytes: usize) -> usize {
    let block = black_box(vec![1_u8; bytes]);
    block.iter().step_by(4_096).map(|byte| usize::from(*byte)).sum()
}

pub(crate) fn spin((): ()) {
    loop {
        black_box(0);
    }
}

/// Uses processor time.
pub(crate) fn burn_ms(ms: u64) -> i32 {
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let end = used() + Duration::from_millis(ms);
    while used() < end {
        black_box(0);
    }
    pid(())
}

/// Returns how much physical memory the process uses, in bytes.
pub(crate) fn resident_memory((): ()) -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Returns the socket of the worker, on which the server waits for replies.
fn own_socket() -> UnixStream {
    let socket = fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .find(|file| fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:")));
    let number = socket.unwrap().file_name().to_str().unwrap().parse().unwrap();
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).unwrap().into()
}

/// Sends bytes to the server that are no reply.
#[expect(clippy::needless_pass_by_value, reason = "the argument of a task")]
pub(crate) fn send_garbage(bytes: Bytes) {
    own_socket().write_all(&bytes).unwrap();
}

/// Sends bytes to the server forever.
#[expect(clippy::needless_pass_by_value, reason = "the argument of a task")]
pub(crate) fn flood(bytes: Bytes) {
    let mut socket = own_socket();
    while socket.write_all(&bytes).is_ok() {}
    sleep(Duration::from_secs(60));
}

/// Starts a program that outlives its parent, and returns its identifier.
pub(crate) fn start_child(then: Fault) -> u32 {
    let child = Command::new("sleep").arg("1000").spawn().unwrap().id();
    fail(then);
    child
}

/// Prints the identifier of a new child process, and never returns.
pub(crate) fn start_child_and_hang((): ()) {
    let child = Command::new("sleep").arg("1000").spawn().unwrap().id();
    eprintln!("child {child}");
    spin(());
}
