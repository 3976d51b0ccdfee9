//! The system calls for which no crate of this workspace has a safe function.

#![allow(unsafe_code, reason = "these calls have no safe interface")]

use std::ffi::{CStr, c_int};
use std::fs;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::time::Duration;

use rustix::process::Pid;

use crate::offload::process::error::WorkerExit;

/// The two sides of a fork.
pub(super) enum Forked {
    Parent(Pid),
    Child,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit: WorkerExit,
    /// The greatest size of the resident set, in bytes.
    pub(super) peak_memory: u64,
}

/// Returns how many threads this process has.
pub(super) fn threads() -> io::Result<u64> {
    // The directory has a subdirectory for each thread. Each one is a link, and two links are its own.
    Ok(rustix::fs::stat("/proc/self/task")?.st_nlink - 2)
}

/// Forks this process, unless it has several threads: in the child, a lock that another thread held would never be
/// released.
pub(super) fn fork() -> io::Result<Forked> {
    let threads = threads()?;
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the program has {threads} threads before main begins, so it can't be forked: don't link a library \
             that starts threads"
        )));
    }
    // SAFETY: There is no other thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid).expect("fork returns a positive number in the parent"))),
    }
}

/// Collects a child that has ended. Returns `None` if the child is still running.
pub(super) fn try_reap(pid: Pid) -> io::Result<Option<Ended>> {
    let mut status: c_int = 0;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: Both pointers are valid for writes, and the kernel keeps neither.
    let reaped = unsafe { libc::wait4(pid.as_raw_nonzero().get(), &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match reaped {
        -1 => return Err(io::Error::last_os_error()),
        0 => return Ok(None),
        _ => {}
    }
    // SAFETY: The call has returned a child, so it has filled the structure.
    let usage = unsafe { usage.assume_init() };
    let exit = if libc::WIFEXITED(status) {
        WorkerExit::Code(libc::WEXITSTATUS(status))
    } else {
        WorkerExit::Signal(libc::WTERMSIG(status))
    };
    Ok(Some(Ended { exit, peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1_024) }))
}

/// Returns the processor time that all threads of a process have used. A child that has ended counts until it is
/// collected.
pub(super) fn processor_time(process: Pid) -> Option<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: The pointer is valid for writes, and the function does not keep it.
    let found = unsafe { libc::clock_getcpuclockid(process.as_raw_nonzero().get(), &raw mut clock) };
    // SAFETY: The pointer is valid for writes, and the function does not keep it. The kernel checks the clock.
    if found != 0 || unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Closes all file descriptors from `first`.
///
/// # Safety
///
/// No value of this process may own one of the descriptors.
pub(super) unsafe fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: The caller guarantees that nothing uses the descriptors. The call reads no memory.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0 {
        return Ok(());
    }
    // The kernel is older than Linux 5.9, or a filter forbids the call.
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let numbers: Vec<c_int> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| number.cast_unsigned() >= first) {
        // SAFETY: The caller guarantees that nothing uses the descriptor.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Makes this process survive `signal`, but not the programs that it executes: these would inherit an ignored signal,
/// whereas they don't inherit a handler.
pub(super) fn survive(signal: c_int) {
    extern "C" fn do_nothing(_: c_int) {}

    // SAFETY: The structure is plain data, for which zeroes are valid.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = do_nothing as extern "C" fn(c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: The handler calls nothing, so it may run at any time. The pointers are valid during the call.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
}

/// Restores the defaults of signals that the process may have inherited as blocked, or as ignored. If `SIGCHLD` were
/// ignored, the system would collect children at once. Also ignores `SIGPIPE`, so that a write to a closed socket or
/// pipe fails instead of ending the process.
pub(super) fn restore_signals() {
    // SAFETY: The structure is plain data, which `sigemptyset` initialises, and its pointer is valid during the calls.
    // Ignored and default signals run no code of this process.
    unsafe {
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Sets the name that tools such as `top` show for this process, of at most 15 bytes.
pub(super) fn name_process(name: &CStr) {
    // SAFETY: The pointer is that of a string which ends with a NUL, and the kernel copies the string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Ends this process without running destructors and exit handlers, which belong to the program that `main` would run.
pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: The call ends the process.
    unsafe { libc::_exit(code) }
}

/// Removes a variable from the environment.
///
/// # Safety
///
/// The process must have a single thread.
pub(super) unsafe fn remove_variable(name: &str) {
    // SAFETY: The caller guarantees that no other thread reads the environment.
    unsafe { std::env::remove_var(name) };
}
