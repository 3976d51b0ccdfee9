//! Locks on single bytes of a file, which belong to the open file and not to a thread or process ("open file description
//! locks" of `fcntl(2)`).

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{self, F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET};

fn range(kind: libc::c_int, offset: i64) -> libc::flock {
    let (kind, whence) = (kind as libc::c_short, SEEK_SET as libc::c_short);
    libc::flock { l_type: kind, l_whence: whence, l_start: offset, l_len: 1, l_pid: 0 }
}

/// Locks a byte for this open file. Returns `false` if another open file has locked the byte.
pub(super) fn try_lock(file: &File, offset: i64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(F_WRLCK, offset))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks a byte for reading, as other open files may do at the same time.
pub(super) fn share(file: &File, offset: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(F_RDLCK, offset)))?;
    Ok(())
}

/// Releases a byte.
pub(super) fn unlock(file: &File, offset: i64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(F_UNLCK, offset)))?;
    Ok(())
}

/// Counts the bytes of a range that other open files have locked. Each of these locks must cover one byte.
pub(super) fn count_locked_by_others(file: &File, offset: i64, length: i64) -> io::Result<usize> {
    if length <= 0 {
        return Ok(0);
    }
    let mut found = libc::flock { l_len: length, ..range(F_WRLCK, offset) };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    if libc::c_int::from(found.l_type) == F_UNLCK {
        return Ok(0);
    }
    let end = found.l_start + 1;
    let before = count_locked_by_others(file, offset, found.l_start - offset)?;
    let after = count_locked_by_others(file, end, offset + length - end)?;
    Ok(before + 1 + after)
}
