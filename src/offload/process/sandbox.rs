//! [`Sandbox`], what the functions of a process pool may not do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the functions of a [`ProcessPool`](crate::ProcessPool) may not do, for code that handles data from strangers.
///
/// Each worker enters the sandbox after its [initializer](super::ProcessPoolBuilder::initializer) and before its first
/// task, and cannot leave it. In the sandbox
///
/// - files can be opened only beneath the paths of [`read`](Self::read) and [`write`](Self::write), by default none;
///   files that the initializer has opened stay open
/// - no socket can be created, unless [`allow_network`](Self::allow_network) is set
/// - no program can be executed, unless [`allow_execute`](Self::allow_execute) is set, and none gains privileges
/// - other processes can't be debugged or read, and with Linux 6.12 they get no signals
///
/// Computing, memory, threads and the standard output and error are not restricted. A thread that the initializer has
/// started is outside of the sandbox, so a [required](Self::required) sandbox refuses such an initializer. The files are restricted by
/// Landlock, and the rest by seccomp.
///
/// ```
/// use onelane::ProcessPool;
/// use onelane::offload::process::Sandbox;
///
/// let pool = ProcessPool::builder("thumbnails").sandbox(Sandbox::best_effort().read("/usr/share/fonts")).build();
/// # drop(pool);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a sandbox does nothing until it is passed to ProcessPoolBuilder::sandbox"]
pub struct Sandbox(pub(super) SandboxRules);

/// A [`Sandbox`] as workers get it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SandboxRules {
    pub(super) is_required: bool,
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) allows_network: bool,
    pub(super) allows_execute: bool,
}

impl Sandbox {
    /// Creates a sandbox that restricts workers as far as the system can.
    pub fn best_effort() -> Self {
        Self(SandboxRules::default())
    }

    /// Creates a sandbox without which no worker runs. If the system cannot restrict files and system calls, tasks fail
    /// with [`NoWorker`](super::ProcessError::NoWorker). That takes Linux 6.2 or later with Landlock enabled.
    pub fn required() -> Self {
        Self(SandboxRules { is_required: true, ..SandboxRules::default() })
    }

    /// Lets workers read a file, or all files of a directory. No worker can be started if the path does not exist.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.read.push(path.into());
        self
    }

    /// Lets workers read and write a file, or read, write, create and remove all files of a directory. No worker can be
    /// started if the path does not exist.
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.write.push(path.into());
        self
    }

    /// Lets workers create sockets.
    pub fn allow_network(mut self) -> Self {
        self.0.allows_network = true;
        self
    }

    /// Lets workers execute programs beneath the paths that they may [read](Self::read). The programs are in the same
    /// sandbox.
    pub fn allow_execute(mut self) -> Self {
        self.0.allows_execute = true;
        self
    }
}
