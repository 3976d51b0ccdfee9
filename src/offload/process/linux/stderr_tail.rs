//! [`StderrTail`], what a worker writes to its standard error.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;

use crate::panic::catch;

/// How many of the last bytes are kept.
const KEPT: usize = 4 << 10;
/// How the standard library reports that the system has refused memory, before it aborts the program.
const OUT_OF_MEMORY: &[u8] = b"memory allocation of ";
/// How many bytes are read at a time.
const READ: usize = 4 << 10;
/// How many reads follow each other, so that a worker that floods the pipe does not keep its server from everything
/// else.
const MAX_READS: usize = 16;

/// The reading end of the pipe. All bytes are passed on to this process's standard error, and the last ones are kept for
/// errors.
#[derive(Debug)]
pub(super) struct StderrTail {
    /// `None` once no process has the writing end any more.
    pipe: Option<OwnedFd>,
    kept: VecDeque<u8>,
    is_forwarded: bool,
    /// The system has refused memory, says the standard library.
    is_out_of_memory: bool,
}

impl StderrTail {
    /// Creates the pipe. Returns the writing end too, which blocks when the pipe is full.
    pub(super) fn new(is_forwarded: bool) -> io::Result<(Self, OwnedFd)> {
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok((Self { pipe: Some(pipe), kept: VecDeque::new(), is_forwarded, is_out_of_memory: false }, writer))
    }

    /// Returns the pipe, to wait for bytes.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what has been written.
    pub(super) fn read(&mut self) {
        let mut buffer = [0; READ];
        for _ in 0..MAX_READS {
            let Some(pipe) = &self.pipe else { return };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(length) if length > 0 => self.keep(&buffer[..length]),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }

    /// Returns the last bytes, and forgets them.
    pub(super) fn take(&mut self) -> String {
        self.read();
        let (first, second) = self.kept.as_slices();
        let text = String::from_utf8_lossy(&[first, second].concat()).into_owned();
        self.kept.clear();
        text
    }

    /// Returns `true` if the worker has reported that the system has refused memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.is_out_of_memory
    }

    /// Forgets what was written before the next task.
    pub(super) fn forget(&mut self) {
        self.is_out_of_memory = false;
        self.kept.clear();
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_forwarded {
            // The standard error of this process may be closed, or full.
            let _ = catch(|| io::stderr().write_all(bytes));
        }
        self.kept.extend(bytes);
        // A backtrace may follow that is longer than what is kept.
        let kept = self.kept.make_contiguous();
        self.is_out_of_memory |= kept.windows(OUT_OF_MEMORY.len()).any(|part| part == OUT_OF_MEMORY);
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
    }
}
