//! [`Channel`], the socket between a server and its zygote, for messages of at most 64 KiB with file descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::system::Ended;
use crate::offload::process::codec;
use crate::offload::process::error::WorkerExit;
use crate::offload::process::function::Function;
#[cfg(feature = "landlock")]
use crate::offload::process::sandbox::SandboxRules;

/// The greatest number of descriptors in a message.
const MAX_DESCRIPTORS: usize = 2;
const MAX_MESSAGE: usize = 64 << 10;

/// A command of a server to its zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Command {
    /// Sets the settings of all workers. This is the first command.
    Configure(WorkerSettings),
    /// Forks a worker. Two descriptors belong to the message: the worker's socket, and its standard error.
    Fork,
    /// Collects the worker with this process identifier, if it has ended.
    Reap(i32),
}

/// The answer of a zygote to a command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The zygote is ready, which no command requests. It runs the executable file with this device and inode.
    Ready {
        device: u64,
        inode: u64,
    },
    Forked(i32),
    /// The worker has ended.
    Ended {
        /// The exit code, or the negative number of a signal.
        exit: i32,
        peak_memory: u64,
    },
    /// The worker has not ended yet.
    Running,
    Failed(String),
}

/// The settings of the workers of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct WorkerSettings {
    /// A function that each worker calls before its first task.
    pub(super) initializer: Option<[u8; Function::LENGTH]>,
    /// The memory limit of a worker, in bytes.
    pub(super) memory_limit: Option<u64>,
    #[cfg(feature = "landlock")]
    pub(super) sandbox: Option<SandboxRules>,
    /// The name that the system shows for the zygote and its workers.
    #[serde(skip)]
    pub(super) name: String,
}

impl Answer {
    pub(super) fn ended(Ended { exit, peak_memory }: Ended) -> Self {
        let exit = match exit {
            WorkerExit::Code(code) => code,
            WorkerExit::Signal(number) => -number,
            WorkerExit::Unknown => i32::MAX,
        };
        Self::Ended { exit, peak_memory }
    }

    /// Returns how a worker ended, if this is the answer.
    pub(super) fn into_ended(self) -> Option<Ended> {
        let Self::Ended { exit, peak_memory } = self else { return None };
        let exit = match exit {
            i32::MAX => WorkerExit::Unknown,
            0.. => WorkerExit::Code(exit),
            _ => WorkerExit::Signal(-exit),
        };
        Some(Ended { exit, peak_memory })
    }
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Creates both ends. Programs that this process executes don't inherit them.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(super) fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::encode(message, &mut bytes).map_err(io::Error::other)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(io::Error::other("the settings of the pool are longer than 64 KiB: use fewer paths"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// Waits for a message. Returns `None` if the other end is closed.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other?.bytes,
            }
        };
        let descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors = descriptors.flatten().collect();
        if length == 0 {
            return Ok(None);
        }
        let message =
            codec::decode(&bytes[..length]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some((message, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
