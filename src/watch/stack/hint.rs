//! [`Hint`], how to fix the code that blocks a worker.

use std::fmt;

use super::frames::{Frame, Stack};

/// A guess at what a blocked thread does. The `Display` text says how to fix the code.
///
/// The guess is made from the names of the innermost functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// The stack is unknown, or no function on the stack is known to block.
    Unknown,
    /// The thread sleeps.
    Sleep,
    /// The thread waits for a lock of the standard library or of `parking_lot`.
    Lock,
    /// The thread waits for another thread: at a channel, a condition variable or a join, or in a nested `block_on`.
    Thread,
    /// The thread waits for a child process.
    ChildProcess,
    /// The thread resolves the name of a host.
    Dns,
    /// The thread syncs a file to the disk.
    FileSync,
    /// The thread reads or writes a socket, a pipe or a file.
    Io,
    /// The thread hashes a password, or computes another hash.
    Hashing,
    /// The thread computes: the thread is in no system call.
    Computing,
}

/// The functions that lead to each hint. The first row with a function on the stack decides. An entry with `::` is the
/// beginning of a path. An entry without `::` is a function of the C library.
const SIGNS: [(Hint, &[&str]); 9] = [
    (Hint::Dns, &["getaddrinfo", "gethostbyname", "gethostbyname_r", "getnameinfo"]),
    (Hint::FileSync, &["fsync", "fdatasync", "syncfs", "sync_file_range", "msync", "sync"]),
    (Hint::Sleep, &["std::thread::sleep", "std::thread::functions::sleep", "clock_nanosleep", "nanosleep", "usleep"]),
    (
        Hint::Hashing,
        &["argon2::", "bcrypt::", "scrypt::", "pbkdf2::", "sha1::", "sha2::", "sha3::", "blake2::", "blake3::"],
    ),
    (Hint::ChildProcess, &["std::process::", "waitpid", "waitid", "wait4"]),
    (
        Hint::Lock,
        &[
            "std::sys::sync::mutex::",
            "std::sys::sync::rwlock::",
            "std::sys::sync::once::",
            "std::sync::poison::mutex::",
            "std::sync::poison::rwlock::",
            "parking_lot::raw_mutex::",
            "parking_lot::raw_rwlock::",
            "pthread_mutex_lock",
        ],
    ),
    // The threads of rayon compute, and the caller waits for them.
    (Hint::Computing, &["rayon_core::", "rayon::"]),
    (
        Hint::Thread,
        &[
            "std::sys::sync::condvar::",
            "std::sync::mpsc::",
            "std::sync::mpmc::",
            "std::sync::barrier::",
            "std::thread::park",
            "std::thread::functions::park",
            "std::thread::join_handle::",
            "std::thread::JoinHandle",
            "std::thread::scoped::",
            "crossbeam_channel::",
            "futures_executor::",
            "parking_lot::condvar::",
            "pthread_join",
        ],
    ),
    (
        Hint::Io,
        &[
            "std::net::",
            "std::fs::",
            "std::io::",
            "std::sys::fs::",
            "std::sys::net::",
            "read",
            "pread64",
            "readv",
            "recv",
            "recvfrom",
            "recvmsg",
            "write",
            "pwrite64",
            "writev",
            "send",
            "sendto",
            "sendmsg",
            "sendfile",
            "connect",
            "accept",
            "accept4",
            "poll",
            "ppoll",
            "select",
            "epoll_wait",
            "open",
            "open64",
            "openat",
            "stat",
            "statx",
            "rename",
            "unlink",
            "copy_file_range",
            "flock",
        ],
    ),
];

impl Hint {
    pub(in crate::watch) fn of(stack: Option<&Stack>) -> Self {
        let frames = stack.map_or(&[][..], Stack::frames);
        // The frames outside of the program's function may match a sign by chance, such as the channel of a runtime.
        let own = frames.iter().position(Frame::is_code_of_the_program).unwrap_or(frames.len());
        let inner = &frames[..own];
        let has = |signs: &[&str]| inner.iter().any(|frame| is_sign(frame, signs));
        // A thread that waits is in a function of the system.
        let is_computing = frames.first().is_some_and(is_computing);
        let is_possible = |hint: &Self| !is_computing || matches!(hint, Self::Hashing | Self::Computing);
        let sign = SIGNS.iter().find(|(hint, signs)| is_possible(hint) && has(signs));
        match sign {
            Some((hint, _)) => *hint,
            None if is_computing => Self::Computing,
            None => Self::Unknown,
        }
    }
}

fn is_sign(frame: &Frame, signs: &[&str]) -> bool {
    let Some(name) = frame.function() else { return false };
    if frame.is_rust() {
        return signs.iter().any(|sign| sign.contains("::") && frame.starts_with(&[sign]));
    }
    signs.contains(&c_function(name))
}

/// A function of `rustix` is written in Rust, but may be a system call.
fn is_computing(leaf: &Frame) -> bool {
    let memory = [
        "malloc",
        "free",
        "calloc",
        "realloc",
        "int_malloc",
        "int_free",
        "cfree",
        "sysmalloc",
        "mmap",
        "munmap",
        "mremap",
        "mprotect",
        "madvise",
        "brk",
    ];
    let name = c_function(leaf.function().unwrap_or_default());
    leaf.is_rust() && !leaf.starts_with(&["rustix::"]) || memory.contains(&name) || name.starts_with("mem")
}

/// Returns the public name of a function of the C library. Such a function has several: `__GI___libc_read` is `read`.
fn c_function(name: &str) -> &str {
    let name = name.trim_start_matches("__GI_").trim_start_matches('_');
    name.trim_start_matches("libc_").trim_end_matches("_nocancel")
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "move the blocking call to run_blocking, or the computation to run_cpu",
            Self::Sleep => "it sleeps: use tokio::time::sleep",
            Self::Lock => "it waits for a lock: use tokio::sync::Mutex, or take the lock in run_blocking",
            Self::Thread => "it waits for another thread: use the channels of tokio::sync, or run_blocking",
            Self::ChildProcess => "it waits for a process: use tokio::process, or run_blocking",
            Self::Dns => "it resolves a host name: use tokio::net::lookup_host, or run_blocking",
            Self::FileSync => "it writes a file to the disk: use run_blocking",
            Self::Io => "it reads or writes: use tokio's types for sockets, and run_blocking for files",
            Self::Hashing => "it computes a hash: use run_cpu",
            Self::Computing => "it computes: use run_cpu",
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Stacks that were captured in programs with and without debug information, from the innermost function outwards.
    const CAPTURED: [(Hint, &[&str]); 20] = [
        (Hint::Unknown, &["<unknown>", "app::handler"]),
        (Hint::Unknown, &["ioctl", "app::handler"]),
        (Hint::Unknown, &["rustix::backend::arch::asm::syscall3", "app::handler"]),
        (Hint::Sleep, &["clock_nanosleep", "nanosleep", "app::handler"]),
        (Hint::Sleep, &["__GI___clock_nanosleep", "std::thread::functions::sleep", "app::handler"]),
        (Hint::Lock, &["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended", "app::handler"]),
        (Hint::Lock, &["syscall", "std::sys::sync::rwlock::futex::RwLock::read_contended", "app::handler"]),
        (Hint::Lock, &["syscall", "parking_lot::raw_mutex::RawMutex::lock_slow", "app::handler"]),
        (Hint::Thread, &["syscall", "std::sys::sync::condvar::futex::Condvar::wait", "app::handler"]),
        (Hint::Thread, &["syscall", "std::thread::park", "std::sync::mpsc::Receiver<T>::recv", "app::handler"]),
        (Hint::ChildProcess, &["__GI___wait4", "std::process::Child::wait", "app::handler"]),
        (Hint::ChildProcess, &["__poll", "std::process::Command::output", "app::handler"]),
        (Hint::Dns, &["__poll", "__libc_res_nsend", "getaddrinfo", "std::net::TcpStream::connect", "app::handler"]),
        (Hint::FileSync, &["fsync", "std::fs::File::sync_all", "app::handler"]),
        (Hint::Io, &["__libc_recv", "<std::net::tcp::TcpStream as std::io::Read>::read", "app::handler"]),
        (Hint::Computing, &["crc32fast::update", "std::io::Write::write_all", "app::handler"]),
        (Hint::Computing, &["syscall", "rayon_core::latch::LockLatch::wait", "app::handler"]),
        (Hint::Computing, &["__GI_munmap", "sysmalloc", "app::handler"]),
        (Hint::Hashing, &["argon2::block::Block::compress", "argon2::Argon2::fill_blocks", "app::handler"]),
        (Hint::Computing, &["<core::ops::range::Range<T> as core::iter::Iterator>::next", "app::handler"]),
    ];

    fn stack(names: &[&str]) -> Stack {
        let frame = |name: &&str| Frame {
            function: Some((*name).to_owned()).filter(|name| name != "<unknown>"),
            file: name.starts_with("app::").then(|| "/app/src/main.rs".into()),
            line: None,
        };
        Stack::trimmed(names.iter().map(frame).collect())
    }

    #[test]
    fn innermost_functions_decide() {
        for (hint, names) in CAPTURED {
            assert_eq!(Hint::of(Some(&stack(names))), hint, "{names:?}");
        }
        assert_eq!(Hint::of(None), Hint::Unknown);
    }

    #[test]
    fn callers_of_the_innermost_function_of_the_program_decide_nothing() {
        let computes = ["app::sum", "std::sync::mpsc::Receiver<T>::recv", "clock_nanosleep", "app::main"];
        assert_eq!(Hint::of(Some(&stack(&computes))), Hint::Computing);
        let copies = ["__memcpy_avx_unaligned_erms", "app::copy"];
        assert_eq!(Hint::of(Some(&stack(&copies))), Hint::Computing);
    }

    #[test]
    fn every_hint_says_what_to_do() {
        for (hint, _) in CAPTURED {
            let text = hint.to_string();
            assert!(["use ", "move "].iter().any(|verb| text.contains(verb)), "{text}");
        }
    }
}
