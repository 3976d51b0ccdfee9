//! [`Tokens`], the file with the fencing tokens that were reserved.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::directory::Directory;
use super::range;
use crate::backend::BackendError;
use crate::sync::{Mutex, lock};

/// The number that is added to the counts after each boot of the machine: more tokens than are reserved between two
/// boots. After a crash of the machine, the last counts may not have reached the disk.
const PER_BOOT: u64 = 1 << 40;

/// The offsets of the counts in the file.
const UNKEYED: u64 = 0;
const KEYED: u64 = 8;
/// The offset of the ID of the boot since which the counts are right.
const BOOT: u64 = 16;

/// The byte that a process locks while it changes data that the lock of a caller does not protect.
const CHANGING: i64 = 24;

/// How often a process tries to lock that byte, and how long it waits between attempts.
const ATTEMPTS: usize = 1_000;
const PAUSE: Duration = Duration::from_micros(20);

/// The tokens of a guard.
#[derive(Debug)]
pub(super) struct Tokens {
    file: File,
    /// Locked while this process has locked the byte `CHANGING`, because a lock on a byte does not exclude other
    /// threads.
    changing: Mutex<()>,
}

impl Tokens {
    pub(super) fn open(directory: &Directory, guard: &str) -> Result<Self, BackendError> {
        let tokens = Self { file: directory.open_file(guard, "tokens")?, changing: Mutex::new(()) };
        let failed = |error| BackendError::new("the file of the fencing tokens can't be changed").with_source(error);
        tokens
            .change(|| {
                let boot = boot_id()?;
                if tokens.read(BOOT)? != boot {
                    for count in [UNKEYED, KEYED] {
                        let reserved = match tokens.read(count)? {
                            // The file is new. Another file may have existed before, so the counts follow the clock.
                            0 => now_in_micros(),
                            reserved => reserved.saturating_add(PER_BOOT),
                        };
                        tokens.write(count, reserved)?;
                    }
                    tokens.write(BOOT, boot)?;
                    tokens.file.sync_data()?;
                }
                Ok(())
            })
            .and_then(|changed| changed.ok_or_else(|| io::ErrorKind::WouldBlock.into()))
            .map_err(failed)?;
        Ok(tokens)
    }

    /// Returns `true` if other processes still find this file.
    pub(super) fn is_current(&self, directory: &Directory, guard: &str) -> bool {
        directory.is_current(guard, "tokens", &self.file)
    }

    /// Reserves tokens, and returns the first one. Returns `None` if another process is reserving tokens and does not
    /// finish.
    ///
    /// Without keys, the caller's lock excludes other processes.
    pub(super) fn reserve(&self, tokens: u32, has_keys: bool) -> io::Result<Option<u64>> {
        if has_keys { self.change(|| self.add(KEYED, tokens)) } else { self.add(UNKEYED, tokens).map(Some) }
    }

    fn add(&self, count: u64, tokens: u32) -> io::Result<u64> {
        let reserved = self.read(count)?;
        self.write(count, reserved + u64::from(tokens))?;
        Ok(reserved + 1)
    }

    /// Runs a change that no other process makes at the same time.
    fn change<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
        let _changing = lock(&self.changing);
        for _ in 0..ATTEMPTS {
            if range::try_lock(&self.file, CHANGING)? {
                let changed = change();
                range::unlock(&self.file, CHANGING)?;
                return changed.map(Some);
            }
            thread::sleep(PAUSE);
        }
        Ok(None)
    }

    fn read(&self, offset: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match self.file.read_at(&mut bytes, offset)? {
            8 => Ok(u64::from_le_bytes(bytes)),
            // The file is new.
            0 => Ok(0),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write(&self, offset: u64, value: u64) -> io::Result<()> {
        self.file.write_all_at(&value.to_le_bytes(), offset)
    }
}

fn now_in_micros() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// Identifies the current boot of the machine.
fn boot_id() -> io::Result<u64> {
    let id = fs::read("/proc/sys/kernel/random/boot_id")?;
    Ok(super::guard_files::hash(&id) | 1)
}
