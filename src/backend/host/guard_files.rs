//! [`GuardFiles`], the files of a guard: its locks, and the callers that wait for them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::directory::Directory;
use super::range;
use super::tokens::Tokens;
use crate::backend::{Attempt, BackendError, LeaseId, LockName, Owner, Released};
use crate::random;
use crate::sync::{Mutex, lock};

/// The byte that is written to wake waiting callers.
const WAKE: u64 = 0;
/// The byte that is the lock of the guard without a key.
const UNKEYED: i64 = 1;
/// The offset at which the bytes of keys begin. A byte can be locked even if the file does not contain it.
const KEYS: i64 = 1 << 20;
/// The distance from the byte of a lock to the bytes of its waiters. Each process that waits locks one of these bytes.
const WAITING: i64 = 1 << 62;
/// The number of these bytes. Two processes that choose the same byte count as one.
const PLACES: u64 = 1 << 10;

/// How soon to try again if another process is changing the tokens, which takes a microsecond.
const SOON: Duration = Duration::from_millis(1);

/// The files of a guard.
#[derive(Debug)]
pub(super) struct GuardFiles {
    guard: &'static str,
    pub(super) path: PathBuf,
    file: File,
    tokens: Tokens,
    /// Notified when a lock may have been released.
    pub(super) changed: Notify,
    /// This process has written to the file, and the event of this write has not arrived yet.
    has_written: AtomicBool,
    /// The index of the byte that this process locks while it waits.
    place: i64,
    state: Mutex<FilesState>,
}

/// What this process does with the bytes of the file. The locks of a file exclude only other processes.
#[derive(Debug, Default)]
struct FilesState {
    held: HashMap<i64, (Owner, u64)>,
    waiting: HashMap<i64, usize>,
}

/// Shows other processes that a caller waits, until the mark is dropped.
#[derive(Debug)]
pub(super) struct WaitingMark {
    files: Arc<GuardFiles>,
    offset: i64,
}

impl GuardFiles {
    pub(super) fn open(directory: &Directory, guard: &'static str) -> Result<Self, BackendError> {
        let file = directory.open_file(guard, "locks")?;
        let (path, tokens) = (directory.file(guard, "locks"), Tokens::open(directory, guard)?);
        let state = Mutex::new(FilesState::default());
        let (changed, has_written) = (Notify::new(), AtomicBool::new(false));
        let place = (random::bits() % PLACES).cast_signed();
        Ok(Self { guard, path, file, tokens, changed, has_written, place, state })
    }

    /// Checks that other processes still find these files.
    pub(super) fn check(&self, directory: &Directory) -> Result<(), BackendError> {
        if directory.is_current(self.guard, "locks", &self.file) && self.tokens.is_current(directory, self.guard) {
            return Ok(());
        }
        let path = self.path.display();
        Err(BackendError::new(format!("the lock file was removed or replaced, restart all processes: {path}")))
    }

    pub(super) fn try_acquire(&self, name: &LockName, owner: Owner, tokens: u32) -> Result<Attempt, BackendError> {
        let offset = offset_of(name);
        let mut state = lock(&self.state);
        let Entry::Vacant(free) = state.held.entry(offset) else { return Ok(Attempt::Held { expires_in: None }) };
        if !range::try_lock(&self.file, offset).map_err(failed)? {
            return Ok(Attempt::Held { expires_in: None });
        }
        match self.tokens.reserve(tokens, name.key().is_some()) {
            Ok(Some(fence)) => {
                free.insert((owner, fence));
                Ok(Attempt::Acquired { fence })
            }
            Ok(None) => {
                range::unlock(&self.file, offset).map_err(failed)?;
                Ok(Attempt::Held { expires_in: Some(SOON) })
            }
            Err(error) => {
                range::unlock(&self.file, offset).map_err(failed)?;
                Err(failed(error))
            }
        }
    }

    pub(super) fn is_held(&self, lease: &LeaseId) -> bool {
        lock(&self.state).is_held(offset_of(&lease.lock), lease)
    }

    pub(super) fn release(&self, lease: &LeaseId) -> Result<Released, BackendError> {
        let offset = offset_of(&lease.lock);
        let mut state = lock(&self.state);
        if !state.is_held(offset, lease) {
            return Ok(Released::default());
        }
        range::unlock(&self.file, offset).map_err(failed)?;
        state.held.remove(&offset);
        let waits_here = state.waiting.contains_key(&(offset + WAITING + self.place));
        drop(state);
        let places = PLACES.cast_signed();
        let waiting = range::count_locked_by_others(&self.file, offset + WAITING, places).map_err(failed)?;
        if waiting > 0 || waits_here {
            self.has_written.store(true, Ordering::Relaxed);
            self.file.write_all_at(&[0], WAKE).map_err(failed)?;
            // The kernel may merge the event of this write with an identical one that it has not delivered yet.
            self.changed.notify_waiters();
        }
        Ok(Released { waiting })
    }

    /// Wakes callers after an event of the file. The first event after a write of this process is ignored: the process
    /// woke its callers when it wrote, and a caller that has begun to wait since then lets other processes go first.
    pub(super) fn modified(&self) {
        if !self.has_written.swap(false, Ordering::Relaxed) {
            self.changed.notify_waiters();
        }
    }

    /// Shows other processes that a caller waits for a lock.
    pub(super) fn mark_waiting(self: &Arc<Self>, name: &LockName) -> Result<WaitingMark, BackendError> {
        let offset = offset_of(name) + WAITING + self.place;
        let mut state = lock(&self.state);
        range::share(&self.file, offset).map_err(failed)?;
        *state.waiting.entry(offset).or_default() += 1;
        Ok(WaitingMark { files: Arc::clone(self), offset })
    }
}

impl FilesState {
    fn is_held(&self, offset: i64, lease: &LeaseId) -> bool {
        self.held.get(&offset).is_some_and(|(owner, fence)| {
            *owner == lease.owner && lease.fence.is_none_or(|lease_fence| lease_fence == *fence)
        })
    }
}

impl Drop for WaitingMark {
    fn drop(&mut self) {
        let mut state = lock(&self.files.state);
        if let Entry::Occupied(mut waiting) = state.waiting.entry(self.offset) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
                // A mark that remains costs other processes a write at each release.
                let _ = range::unlock(&self.files.file, self.offset);
            }
        }
    }
}

fn failed(error: io::Error) -> BackendError {
    BackendError::new("the lock file can't be used").with_source(error)
}

/// Returns the byte of a lock. Two keys may have the same byte, and then exclude each other.
fn offset_of(name: &LockName) -> i64 {
    match name.key() {
        None => UNKEYED,
        // The distance between two keys is a multiple of the number of places, so their waiters lock different bytes.
        Some(key) => KEYS + ((hash(key.as_bytes()) >> 3) / PLACES * PLACES).cast_signed(),
    }
}

/// The FNV-1a hash, which is the same in all processes and versions.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let (offset_basis, prime) = (0xcbf2_9ce4_8422_2325_u64, 0x0100_0000_01b3);
    bytes.iter().fold(offset_basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(prime))
}
