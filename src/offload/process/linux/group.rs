//! [`ProcessGroup`], a worker with the processes that it has started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// The process group of a worker, which leads it.
#[derive(Debug)]
pub(super) struct ProcessGroup {
    leader: Pid,
    /// Readable once the leader has ended.
    pidfd: OwnedFd,
}

impl ProcessGroup {
    /// Creates a handle to the group of a worker that has not been collected.
    pub(super) fn new(leader: Pid) -> io::Result<Self> {
        Ok(Self { leader, pidfd: pidfd_open(leader, PidfdFlags::empty())? })
    }

    pub(super) fn leader(&self) -> Pid {
        self.leader
    }

    /// Kills all processes of the group. Does nothing once the leader has been collected, because the system may have
    /// given its identifier to another process.
    pub(super) fn kill(&self) {
        // The leader may have moved to another group, where the signal to the group does not reach it. The signal to
        // the leader succeeds until the leader is collected, even after its end.
        if pidfd_send_signal(&self.pidfd, Signal::KILL).is_ok() {
            let _ = kill_process_group(self.leader, Signal::KILL);
        }
    }
}

impl AsFd for ProcessGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
