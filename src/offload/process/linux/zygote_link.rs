//! [`ZygoteLink`], the server's connection to its zygote.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Pid;

use super::boot::{VARIABLE, VARIABLE_VALUE};
use super::channel::{Answer, Channel, Command, WorkerSettings};
use super::stderr_tail::StderrTail;
use super::system::Ended;
use super::wait::poll_until;
use crate::sync::{Mutex, lock};

/// The executable file of this process, even if its path was removed or leads to another file.
const EXECUTABLE: &str = "/proc/self/exe";

/// How long a zygote may take to answer. An answer takes less than a millisecond, unless the zygote is stopped.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A zygote that is running. Dropping the link ends the zygote and the workers that are left.
#[derive(Debug)]
pub(super) struct ZygoteLink {
    channel: Mutex<Channel>,
    process: Child,
    /// `true` once an exchange has failed: the zygote has ended, or an answer to an earlier command may follow.
    is_broken: AtomicBool,
    /// Workers that had not ended when they should have been collected.
    left: Mutex<Vec<Pid>>,
}

impl ZygoteLink {
    /// Starts a zygote.
    pub(super) fn start(settings: &WorkerSettings, clears_environment: bool, limit: Duration) -> Result<Self, String> {
        let deadline = Instant::now().checked_add(limit);
        let started =
            Self::execute(settings, clears_environment).map_err(|error| format!("starting a process failed: {error}"));
        let (link, mut stderr) = started?;
        match link.wait_until_ready(&mut stderr, deadline) {
            Ok(()) => {}
            Err(why) => {
                drop(link);
                return Err(with_stderr(why, &stderr.take()));
            }
        }
        let configure = Command::Configure(settings.clone());
        lock(&link.channel).send(&configure, &[]).map_err(|error| error.to_string())?;
        Ok(link)
    }

    fn execute(settings: &WorkerSettings, clears_environment: bool) -> io::Result<(Self, StderrTail)> {
        let (channel, theirs) = Channel::pair()?;
        let (stderr, writer) = StderrTail::new(false)?;
        let mut command = std::process::Command::new(EXECUTABLE);
        if clears_environment {
            command.env_clear();
        }
        // The zygote has a process group of its own, so that Ctrl-C in a terminal reaches only the server, which drains
        // its pools. A `pre_exec` is avoided, because the standard library would then fork this process.
        command
            .arg0(format!("{}: process pool", settings.name.replace('\0', "")))
            .env(VARIABLE, VARIABLE_VALUE)
            .process_group(0);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::inherit()).stderr(Stdio::from(writer));
        let process = command.spawn()?;
        Ok((
            Self { channel: Mutex::new(channel), process, is_broken: AtomicBool::new(false), left: Mutex::default() },
            stderr,
        ))
    }

    /// Waits until the zygote reports that it is ready, and checks that it runs the executable file of this process.
    fn wait_until_ready(&self, stderr: &mut StderrTail, deadline: Option<Instant>) -> Result<(), String> {
        let channel = lock(&self.channel);
        loop {
            let mut events = vec![PollFd::new(&*channel, PollFlags::IN)];
            let pipe = stderr.pipe();
            events.extend(pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            poll_until(&mut events, deadline).map_err(|error| error.to_string())?;
            let is_answered = !events[0].revents().is_empty();
            drop(events);
            stderr.read();
            if is_answered {
                break;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err("the program did not become a worker in time: call worker_guard() first in main".to_owned());
            }
        }
        let own = rustix::fs::stat(EXECUTABLE).map_err(|error| error.to_string())?;
        check_first_answer(channel.receive(), (own.st_dev, own.st_ino))
    }

    /// Returns `true` if the zygote can't be used any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Forks a worker, which gets its socket and its standard error.
    pub(super) fn fork(&self, socket: &OwnedFd, stderr: &OwnedFd) -> io::Result<Pid> {
        let left = mem::take(&mut *lock(&self.left));
        for pid in left {
            if self.try_reap(pid)?.is_none() {
                self.reap_later(pid);
            }
        }
        match self.exchange(&Command::Fork, &[socket.as_fd(), stderr.as_fd()])? {
            Answer::Forked(pid) => Pid::from_raw(pid).ok_or_else(|| unexpected(&Answer::Forked(pid))),
            other => Err(unexpected(&other)),
        }
    }

    /// Collects a worker. Returns `None` if the worker has not ended.
    pub(super) fn try_reap(&self, pid: Pid) -> io::Result<Option<Ended>> {
        match self.exchange(&Command::Reap(pid.as_raw_nonzero().get()), &[])? {
            Answer::Running => Ok(None),
            answer @ Answer::Ended { .. } => Ok(answer.into_ended()),
            other => Err(unexpected(&other)),
        }
    }

    /// Records a worker that has not ended yet, so that it is collected before the next worker is forked.
    pub(super) fn reap_later(&self, pid: Pid) {
        lock(&self.left).push(pid);
    }

    fn exchange(&self, command: &Command, descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<Answer> {
        let channel = lock(&self.channel);
        // An exchange of another thread may have failed while this thread waited for the lock.
        if self.is_broken() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let exchanged = channel.send(command, descriptors).and_then(|()| {
            let mut events = [PollFd::new(&*channel, PollFlags::IN)];
            let is_late = poll_until(&mut events, Some(Instant::now() + ANSWER_LIMIT))?;
            if is_late { Err(io::ErrorKind::TimedOut.into()) } else { channel.receive() }
        });
        match exchanged {
            Ok(Some((answer, _))) => Ok(answer),
            other => {
                // An answer that arrives later would be mistaken for the answer to another command.
                self.is_broken.store(true, Ordering::Relaxed);
                Err(other.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))
            }
        }
    }
}

impl Drop for ZygoteLink {
    fn drop(&mut self) {
        // The groups of all workers were killed before. The zygote is killed, because a stopped one would not react.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    match answer {
        Answer::Failed(why) => io::Error::other(why.clone()),
        other => io::Error::other(format!("unexpected answer {other:?}")),
    }
}

/// Appends the standard error of a process to the reason why the process can't be used.
pub(super) fn with_stderr(why: String, stderr: &str) -> String {
    match stderr.trim_end() {
        "" => why,
        stderr => format!("{why}; it wrote: {stderr}"),
    }
}

/// Checks the first answer of a zygote: the zygote must run the executable file with this device and inode, because
/// functions are sent as distances in that file.
fn check_first_answer(answer: io::Result<Option<(Answer, Vec<OwnedFd>)>>, own: (u64, u64)) -> Result<(), String> {
    match answer {
        Ok(Some((Answer::Ready { device, inode }, _))) if (device, inode) == own => Ok(()),
        Ok(Some((Answer::Ready { .. }, _))) => {
            Err("the system executed another file than that of this program".to_owned())
        }
        Ok(Some((other, _))) => Err(format!("the program answered {other:?}")),
        Ok(None) => Err("the program ended before it became a worker".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zygote_of_another_file_is_refused() {
        let check = |answer| check_first_answer(Ok(answer), (1, 2));
        let ready = |device, inode| Some((Answer::Ready { device, inode }, Vec::new()));
        assert_eq!(check(ready(1, 2)), Ok(()));
        for other in [ready(1, 3), ready(2, 2)] {
            assert!(check(other).is_err_and(|error| error.contains("another file")));
        }
        assert!(check(Some((Answer::Running, Vec::new()))).is_err());
        assert!(check(None).is_err());
        assert!(check_first_answer(Err(io::ErrorKind::InvalidData.into()), (1, 2)).is_err());
    }
}
