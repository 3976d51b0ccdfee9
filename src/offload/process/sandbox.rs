//! [`Sandbox`], which restricts what the functions of a process pool may do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Restricts what the functions of a [`ProcessPool`](crate::ProcessPool) may do, for code that handles untrusted data.
///
/// Each worker enters the sandbox after its [initializer](super::ProcessPoolBuilder::initializer) and before its first
/// task, and can't leave it. In the sandbox:
///
/// - Only the paths of [`read`](Self::read) and [`write`](Self::write), and what is beneath them, can be opened. By
///   default nothing can. Files that the initializer has opened stay open.
/// - No socket can be created, except for pairs of sockets that are connected to each other, unless
///   [`allow_network`](Self::allow_network) is set.
/// - No program can be executed, unless [`allow_execute`](Self::allow_execute) is set. No program gains privileges.
/// - Other processes can't be debugged, and their memory can't be read. On Linux 6.12 and later, processes outside of
///   the sandbox can't be sent signals.
///
/// Computations, memory, threads, the standard output and the standard error are not restricted. A thread that the
/// initializer has started is outside of the sandbox, so a [required](Self::required) sandbox refuses such an
/// initializer. Landlock restricts files and signals, and seccomp restricts system calls.
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

/// The rules of a [`Sandbox`], as they are sent to workers.
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

    /// Creates a sandbox without which no worker runs. It needs Linux 6.2 or later with Landlock enabled. Where the
    /// system can't restrict files and system calls, tasks fail with [`NoWorker`](super::ProcessError::NoWorker).
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

    /// Lets workers execute programs beneath the paths that they may [read](Self::read) or [write](Self::write). The
    /// programs are in the same sandbox.
    pub fn allow_execute(mut self) -> Self {
        self.0.allows_execute = true;
        self
    }
}
