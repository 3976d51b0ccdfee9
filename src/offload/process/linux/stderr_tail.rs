//! [`StderrTail`], which reads what a worker writes to its standard error.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;

use crate::panic::catch;

/// How many of the last bytes are kept for errors.
const KEPT: usize = 4 << 10;
/// The text with which the standard library reports a refused allocation before it aborts the program.
const OUT_OF_MEMORY: &[u8] = b"memory allocation of ";
/// How many bytes are read at a time.
const READ: usize = 4 << 10;
/// How many reads may follow each other, so that a worker that floods the pipe does not keep the server from checking
/// the limits of the task.
const MAX_READS: usize = 16;

/// The reading end of the pipe. The bytes are copied to this process's standard error if that is wanted, and the last
/// bytes are kept for errors.
#[derive(Debug)]
pub(super) struct StderrTail {
    /// `None` once no process has the writing end.
    pipe: Option<OwnedFd>,
    kept: VecDeque<u8>,
    is_forwarded: bool,
    /// `true` once the standard library has reported a refused allocation.
    is_out_of_memory: bool,
}

impl StderrTail {
    /// Creates the pipe. Also returns the writing end, where a write blocks while the pipe is full.
    pub(super) fn new(is_forwarded: bool) -> io::Result<(Self, OwnedFd)> {
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok((Self { pipe: Some(pipe), kept: VecDeque::new(), is_forwarded, is_out_of_memory: false }, writer))
    }

    /// Returns the pipe, so that a caller can wait for bytes.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads the bytes that have been written, up to a limit.
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

    /// Takes the last bytes as text.
    pub(super) fn take(&mut self) -> String {
        self.read();
        let (first, second) = self.kept.as_slices();
        let text = String::from_utf8_lossy(&[first, second].concat()).into_owned();
        self.kept.clear();
        text
    }

    /// Returns `true` if the worker has reported a refused allocation since the last [`forget`](Self::forget).
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.is_out_of_memory
    }

    /// Forgets the bytes of earlier tasks, before the next task starts.
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
        // The text is searched now, because a backtrace that follows it may be longer than what is kept.
        let kept = self.kept.make_contiguous();
        self.is_out_of_memory |= kept.windows(OUT_OF_MEMORY.len()).any(|part| part == OUT_OF_MEMORY);
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
    }
}
