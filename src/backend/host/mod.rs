//! [`Host`], a store that keeps the locks of all processes of a host in files of a directory.
//!
//! A guard has two files, however many keys it has:
//!
//! - `….locks`: a lock is a byte of this file, which its owner has locked ("open file description" locks, `fcntl(2)`).
//!   The file stays empty except for one byte. A caller that waits has locked another byte for reading. An owner that
//!   releases its lock while such a byte is locked writes to the file, and inotify wakes the callers that wait. If an
//!   owner dies, the kernel releases its locks and reports that its file was closed.
//! - `….tokens`: the fencing tokens that were reserved.
//!
//! | file | contents |
//! |---|---|
//! | `directory` | the directory, its checks, and the names of its files |
//! | `guard_files` | the files of a guard: locks, and callers that wait |
//! | `range` | locks on bytes of a file |
//! | `tokens` | the file with the tokens |
//! | `watch` | what wakes callers that wait |

mod directory;
mod guard_files;
mod range;
mod tokens;
mod watch;

use std::collections::HashMap;
use std::future::{pending, ready};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::directory::Directory;
use self::guard_files::GuardFiles;
use self::watch::Watch;
use super::error::BackendError;
use super::lock_backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
use crate::debug::impl_debug;
use crate::sync::{Mutex, lock};

/// Keeps the locks of all processes of a host in files of a directory. 64-bit Linux only.
///
/// No server is needed, and no lease expires: the kernel frees the locks of a process that ends, in whatever way. A
/// process that is stopped keeps its locks.
///
/// ```no_run
/// use onelane::EndpointGuard;
/// use onelane::backend::{Host, LockDomain};
///
/// static LOCKS: LockDomain = LockDomain::new("shop");
/// static REPORT: EndpointGuard = EndpointGuard::builder("report").distributed(&LOCKS).build();
///
/// # async fn connect() -> Result<(), onelane::backend::BackendError> {
/// LOCKS.connect(Host::new("/run/shop")).await?;
/// # Ok(())
/// # }
/// ```
///
/// # The directory
///
/// The directory must exist on a local file system, and belong to the user of the processes. No other user may write to
/// it, because the files could be replaced. The files have the mode 0600, so all processes must run as the same user.
/// Symbolic links are not followed.
///
/// Do not delete the files while a process runs: a process that opens new ones would not see the locks of the others.
/// Programs that clean `/tmp` delete files that were not used for some days. systemd deletes a `RuntimeDirectory=` when
/// its unit stops: set `RuntimeDirectoryPreserve=` if several units share the directory.
///
/// The tokens of a new file start with the time of day, so that they grow although the files were deleted, unless the
/// clock of the machine was set back.
///
/// The byte of a lock follows from a hash of its key. Two keys with the same hash exclude each other. A client that
/// chooses the keys can find such keys, so use [Redis or PostgreSQL](crate::backend) where that does harm.
///
/// Network file systems are refused, because they report a release late or never. FUSE is refused as well, because a
/// network may be behind it. Use another directory, or [Redis or PostgreSQL](crate::backend).
///
/// A relative path is resolved against the current directory at the time when the store connects.
///
/// # Fork
///
/// Connect after the fork, in the process that serves: a child that was forked without `exec` shares the locks of its
/// parent, so its guards refuse their callers, and locks that the parent held at that time stay locked until both have
/// ended.
pub struct Host {
    path: PathBuf,
    /// Set by `connect`.
    connected: OnceLock<ConnectedHost>,
}

struct ConnectedHost {
    /// The process that has connected. A child that it forks shares its locks.
    process: u32,
    directory: Directory,
    watch: Watch,
    guards: Mutex<HashMap<&'static str, Arc<GuardFiles>>>,
}

impl Host {
    /// Returns locks in a directory, such as `/run/<service>`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { path: directory.into(), connected: OnceLock::new() }
    }

    fn files(&self, lock_name: &LockName) -> Result<Arc<GuardFiles>, BackendError> {
        let host = self.connected.get().ok_or_else(|| BackendError::new("the host backend is not connected"))?;
        if host.process != process::id() {
            return Err(BackendError::new("the process was forked after it had connected: connect in the child"));
        }
        let mut guards = lock(&host.guards);
        if let Some(files) = guards.get(lock_name.guard()) {
            return Ok(Arc::clone(files));
        }
        let files = Arc::new(GuardFiles::open(&host.directory, lock_name.guard())?);
        host.watch.add(&files)?;
        guards.insert(lock_name.guard(), Arc::clone(&files));
        Ok(files)
    }

    fn connect_to(&self, domain: &str) -> Result<(), BackendError> {
        let directory = Directory::open(&self.path, domain)?;
        let host = ConnectedHost {
            process: process::id(),
            directory,
            watch: Watch::start()?,
            guards: Mutex::new(HashMap::new()),
        };
        self.connected.set(host).map_err(|_| BackendError::new("a host backend connects once: create another one"))
    }

    fn check_files(&self) -> Result<(), BackendError> {
        let host = self.connected.get().ok_or_else(|| BackendError::new("the host backend is not connected"))?;
        let all: Vec<_> = lock(&host.guards).values().cloned().collect();
        all.iter().try_for_each(|files| files.check(&host.directory))
    }
}

impl LockBackend for Host {
    fn connect<'a>(&'a self, domain: &'a str) -> BackendFuture<'a, ()> {
        Box::pin(ready(self.connect_to(domain)))
    }

    fn check(&self) -> BackendFuture<'_, ()> {
        Box::pin(ready(self.check_files()))
    }

    fn lease(&self) -> Option<Duration> {
        None
    }

    fn try_acquire<'a>(&'a self, lock: &'a LockName, owner: Owner, tokens: u32) -> BackendFuture<'a, Attempt> {
        Box::pin(ready(self.files(lock).and_then(|files| files.try_acquire(lock, owner, tokens))))
    }

    fn renew<'a>(&'a self, leases: &'a [LeaseId]) -> BackendFuture<'a, Vec<bool>> {
        let is_held = |lease: &LeaseId| self.files(&lease.lock).map(|files| files.is_held(lease));
        Box::pin(ready(leases.iter().map(is_held).collect()))
    }

    fn release<'a>(&'a self, lease: &'a LeaseId) -> BackendFuture<'a, Released> {
        Box::pin(ready(self.files(&lease.lock).and_then(|files| files.release(lease))))
    }

    fn released<'a>(&'a self, lock: &'a LockName) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let Ok(files) = self.files(lock) else { return pending().await };
            let mut changed = pin!(files.changed.notified());
            changed.as_mut().enable();
            // Other processes write to the file only while the caller's mark exists.
            let Ok(_mark) = files.mark_waiting(lock) else { return pending().await };
            changed.await;
        })
    }
}

impl_debug!(Host |this| { path: this.path, is_connected: this.connected.get().is_some(), .. });
