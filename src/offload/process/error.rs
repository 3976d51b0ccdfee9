//! [`ProcessError`], the reason why a task of a process pool has no result.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::offload::error::OffloadError;
use crate::panic::Panic;
use crate::rounded::rounded;

/// The reason why a task of a [`ProcessPool`](super::ProcessPool) has no result.
///
/// The `Display` text is for the developer's log. Don't send it to clients: it may contain what the worker wrote to its
/// standard error. The [refusal](crate::web#refusals) that an error becomes has a text for clients.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The task never started: the pool was full or closed, the task waited too long, or it was cancelled. The source
    /// gives the reason.
    #[error("the task never started")]
    NotStarted(#[source] OffloadError),
    /// The task was still running at the end of its [`timeout`](super::ProcessTask::timeout), and its worker was
    /// killed.
    #[error("the task ran longer than its timeout, so its worker was killed: let it do less, or raise timeout; {0}")]
    Timeout(WorkerDeath),
    /// The task was cancelled through its handle while it ran, and its worker was killed.
    #[error("the task was cancelled, so its worker was killed; {0}")]
    Cancelled(WorkerDeath),
    /// The task panicked. Its worker continues with the next task.
    #[error("the task panicked: {0}")]
    Panicked(Panic),
    /// The worker ended while it ran the task: by a crash, a call of `exit`, or a signal from another process.
    #[error("the worker died while it ran the task: {0}")]
    WorkerDied(WorkerDeath),
    /// The worker used more memory than [`memory_limit`](super::ProcessPoolBuilder::memory_limit) allows.
    #[error("the task needed more memory than memory_limit allows: let it use less, or raise the limit; {0}")]
    MemoryLimit(WorkerDeath),
    /// The task used more processor time than [`cpu_limit`](super::ProcessPoolBuilder::cpu_limit) allows.
    #[error("the task needed more processor time than cpu_limit allows: let it do less, or raise the limit; {0}")]
    CpuLimit(WorkerDeath),
    /// No worker could be started in several attempts.
    #[error("no worker could be started in {attempts} attempts: {reason}")]
    NoWorker {
        /// The number of attempts.
        attempts: u32,
        /// The reason why the last attempt failed, including what the worker wrote to its standard error.
        reason: String,
    },
    /// The arguments or the result can't be converted to bytes or back: their `Serialize` or `Deserialize` fails, or
    /// uses a [feature that postcard lacks](super#what-a-function-may-do).
    #[error("{0}: use types that postcard can represent")]
    Codec(String),
    /// The function is not part of the executable file: it comes from a dynamic library, where workers can't find it.
    #[error("the function is in a dynamic library, where a worker can't find it: pass a function of the executable")]
    ForeignFunction,
    /// The worker sent bytes that are no reply, or a reply longer than
    /// [`max_reply`](super::ProcessPoolBuilder::max_reply), and was killed.
    #[error("the worker sent a bad reply, so it was killed: {reason}; {death}")]
    BadReply {
        /// What was wrong with the reply.
        reason: &'static str,
        /// How the worker ended.
        death: WorkerDeath,
    },
}

impl ProcessError {
    /// Returns how the worker ended, if the task has ended with its worker.
    #[must_use]
    pub fn death(&self) -> Option<&WorkerDeath> {
        match self {
            Self::Timeout(death)
            | Self::Cancelled(death)
            | Self::WorkerDied(death)
            | Self::MemoryLimit(death)
            | Self::CpuLimit(death)
            | Self::BadReply { death, .. } => Some(death),
            Self::NotStarted(_)
            | Self::Panicked(_)
            | Self::NoWorker { .. }
            | Self::Codec(_)
            | Self::ForeignFunction => None,
        }
    }

    /// Returns `true` if the pool had too much work, so that a later attempt may succeed.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        match self {
            Self::NotStarted(error) => error.is_overload(),
            _ => false,
        }
    }
}

/// How a worker ended while it was running a task.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerDeath(Box<DeathParts>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeathParts {
    pub(super) exit: WorkerExit,
    pub(super) ran_for: Duration,
    pub(super) peak_memory: Option<u64>,
    pub(super) stderr: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerExit {
    /// The process exited with this code.
    Code(i32),
    /// The signal with this number ended the process. Its own fault raised the signal, such as `SIGSEGV`, or another
    /// process sent it.
    Signal(i32),
    /// The system did not report how the process ended.
    Unknown,
}

impl WorkerDeath {
    pub(super) fn new(parts: DeathParts) -> Self {
        Self(Box::new(parts))
    }

    /// Returns how the process ended. For a worker that the pool has killed, this is `SIGKILL`.
    #[must_use]
    pub fn exit(&self) -> WorkerExit {
        self.0.exit
    }

    /// Returns how long the task had run.
    #[must_use]
    pub fn ran_for(&self) -> Duration {
        self.0.ran_for
    }

    /// Returns the most physical memory that the worker has used at a time, in bytes, if the system reported it.
    /// Earlier tasks of the worker count too.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        self.0.peak_memory
    }

    /// Returns the last bytes that the worker wrote to its standard error during the task, at most 4 KiB. Bytes that
    /// are not UTF-8 are replaced.
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.0.stderr
    }
}

impl fmt::Debug for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeathParts { exit, ran_for, peak_memory, stderr } = &*self.0;
        let mut debug = f.debug_struct("WorkerDeath");
        debug.field("exit", exit).field("ran_for", ran_for).field("peak_memory", peak_memory);
        debug.field("stderr", stderr).finish()
    }
}

/// Writes all details in one sentence: the exit, the time, the memory, and the standard error.
impl fmt::Display for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeathParts { exit, ran_for, peak_memory, stderr } = &*self.0;
        write!(f, "{exit} after {:?}", rounded(*ran_for))?;
        if let Some(bytes) = peak_memory {
            write!(f, ", with {} MiB of memory at its peak", bytes.div_ceil(1 << 20))?;
        }
        match stderr.trim_end() {
            "" => Ok(()),
            stderr => write!(f, ", and wrote: {stderr}"),
        }
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it exited with code {code}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "it was ended by {name}"),
                None => write!(f, "it was ended by signal {number}"),
            },
            Self::Unknown => f.write_str("it ended in an unknown way"),
        }
    }
}

/// Returns the name of a signal that commonly ends a process.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}
