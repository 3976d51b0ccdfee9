//! Locks over the processes of a host, beside the system calls that they consist of and locks that poll.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use criterion::Criterion;
use distributed_lock_core::traits::{DistributedLock, LockHandle};
use distributed_lock_file::FileDistributedLock;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, F_UNLCK, F_WRLCK, SEEK_SET};
use onelane::backend::Host;

use crate::cohort::measure_cohort;
use crate::compare::{Repeated, compare};
use crate::hand_off::{Program, Reference, Variant, compare_hand_offs, serve};
use crate::harness::is_selected;
use crate::locks::{Locks, one_thread, serve_guard, threads};

pub(crate) const GROUP: &str = "hand_off_host";

pub(crate) const VARIANTS: &[Variant] = &[
    Variant { name: "fcntl_blocking", program: Program::This(serve_blocking), is_slow: false },
    Variant { name: "onelane", program: Program::This(serve_host), is_slow: false },
    Variant { name: "fcntl_poll_1ms", program: Program::This(serve_polling), is_slow: false },
    Variant { name: "distributed_lock", program: Program::This(serve_distributed_lock), is_slow: true },
    Variant { name: "python_filelock", program: Program::Python(FILELOCK), is_slow: true },
];

const FILELOCK: &str = r#"
import sys, time, filelock
lock = filelock.FileLock(sys.argv[1] + "/python_filelock")
for command in sys.stdin:
    now = time.monotonic_ns()
    if command == "acquire\n":
        lock.acquire()
        now = time.monotonic_ns()
    else:
        lock.release()
    print(now, flush=True)
"#;

/// A folder for lock files, which is removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = env::temp_dir().join(format!("onelane-bench-{}", process::id()));
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the folder exists");
    }
}

/// A lock on a byte of a file, for the open file.
struct RawLock(File);

impl RawLock {
    /// Far from the bytes that this crate locks in the same file.
    const BYTE: i64 = 1 << 10;

    fn open(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        Self(options.read(true).write(true).create(true).truncate(false).open(path).expect("the folder is writable"))
    }

    fn range(kind: libc::c_int, byte: i64) -> libc::flock {
        let (kind, whence) = (kind as libc::c_short, SEEK_SET as libc::c_short);
        libc::flock { l_type: kind, l_whence: whence, l_start: byte, l_len: 1, l_pid: 0 }
    }

    fn lock(&self) {
        fcntl(&self.0, FcntlArg::F_OFD_SETLKW(&Self::range(F_WRLCK, Self::BYTE))).expect("the file can be locked");
    }

    fn try_lock(&self) -> bool {
        fcntl(&self.0, FcntlArg::F_OFD_SETLK(&Self::range(F_WRLCK, Self::BYTE))).is_ok()
    }

    fn unlock(&self) {
        fcntl(&self.0, FcntlArg::F_OFD_SETLK(&Self::range(F_UNLCK, Self::BYTE))).expect("the file can be unlocked");
    }

    /// Returns `true` if another process has locked another byte.
    fn is_awaited(&self) -> bool {
        let mut found = Self::range(F_WRLCK, Self::BYTE + 1);
        fcntl(&self.0, FcntlArg::F_OFD_GETLK(&mut found)).expect("the file can be examined");
        libc::c_int::from(found.l_type) != F_UNLCK
    }
}

/// The system calls of a lock that has a fencing token and notices waiting callers.
struct RawTokenLock {
    lock: RawLock,
    tokens: File,
}

impl RawTokenLock {
    fn lock(&self) -> u64 {
        self.lock.lock();
        let mut token = [0; 8];
        self.tokens.read_exact_at(&mut token, 0).expect("the file has a token");
        let token = u64::from_le_bytes(token) + 1;
        self.tokens.write_all_at(&token.to_le_bytes(), 0).expect("the file is writable");
        token
    }

    fn unlock(&self) {
        self.lock.unlock();
        assert!(!self.lock.is_awaited(), "no process waits");
    }
}

/// Measures all groups.
pub(crate) fn all(c: &mut Criterion) {
    let folder = Folder::new();
    uncontended(c, &folder);
    hand_off(&folder);
    measure_cohort("cohort_host", &threads(), || Host::new(folder.path()));
}

fn uncontended(c: &mut Criterion, folder: &Folder) {
    let runtime = one_thread();
    let locks = runtime.block_on(Locks::connect(Host::new(folder.path()), "report"));
    // The guard's files exist from the first acquisition on.
    runtime.block_on(locks.acquire_and_drop(1));
    let files: Vec<_> =
        fs::read_dir(folder.path()).expect("the folder exists").flatten().map(|file| file.path()).collect();
    let file = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "locks"));
    let raw = RawLock::open(file.expect("the guard has a file of locks"));
    let tokens = RawLock::open(&folder.path().join("tokens")).0;
    tokens.write_all_at(&[0; 8], 0).expect("the file is writable");
    let raw_token = RawTokenLock { lock: RawLock::open(&folder.path().join("lock")), tokens };
    let distributed =
        FileDistributedLock::from_path(folder.path().join("distributed_lock")).expect("the path is valid");
    let variants = vec![
        Repeated::new("fcntl", |repetitions| {
            let start = Instant::now();
            for _ in 0..repetitions {
                raw.lock();
                raw.unlock();
            }
            start.elapsed()
        }),
        Repeated::new("fcntl_token", |repetitions| {
            let (start, mut last) = (Instant::now(), 0);
            for _ in 0..repetitions {
                let token = raw_token.lock();
                assert!(token > last);
                last = token;
                raw_token.unlock();
            }
            start.elapsed()
        }),
        Repeated::new("onelane", |repetitions| runtime.block_on(locks.acquire_and_drop(repetitions))),
        Repeated::new("distributed_lock", |repetitions| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..repetitions {
                    let handle = distributed.try_acquire().await.expect("the folder is writable");
                    handle.expect("the lock is free").release().await.expect("the lock is held");
                }
                start.elapsed()
            })
        }),
    ];
    compare(c, "uncontended_host", 20_000, variants);
    runtime.block_on(locks.domain.disconnect());
}

fn hand_off(folder: &Folder) {
    if !is_selected(GROUP) {
        return;
    }
    let has_filelock = Command::new("python3")
        .args(["-c", "import filelock"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_filelock {
        println!("{GROUP}: without python_filelock, which is not installed: `pip install filelock`");
    }
    let is_installed = |variant: &Variant| has_filelock || !matches!(variant.program, Program::Python(_));
    let variants: Vec<_> = VARIANTS.iter().copied().filter(is_installed).collect();
    let path = folder.path().to_str().expect("the path of the temporary folder is text");
    compare_hand_offs(GROUP, path, Reference::FirstVariant, &variants);
}

fn serve_host(folder: &str) {
    serve_guard(Host::new(folder), &threads(), || ());
}

fn serve_blocking(folder: &str) {
    let lock = RawLock::open(&Path::new(folder).join("blocking"));
    serve(|| lock.lock(), |()| lock.unlock(), || ());
}

fn serve_polling(folder: &str) {
    let lock = RawLock::open(&Path::new(folder).join("polling"));
    let acquire = || {
        while !lock.try_lock() {
            thread::sleep(Duration::from_millis(1));
        }
    };
    serve(acquire, |()| lock.unlock(), || ());
}

fn serve_distributed_lock(folder: &str) {
    let lock = FileDistributedLock::from_path(Path::new(folder).join("distributed_lock")).expect("the path is valid");
    let runtime = threads();
    serve(
        || runtime.block_on(lock.acquire(None)).expect("the folder is writable"),
        |handle| runtime.block_on(handle.release()).expect("the lock is held"),
        || (),
    );
}
