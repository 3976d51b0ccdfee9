//! [`Worker`], a worker process as its server sees it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use super::frame::{RemoteEvent, RemotePanic, ReplyKind};
use super::group::ProcessGroup;
use super::limits::{CallLimits, LimitWatch};
use super::reply_buffer::{Arrived, ReplyBuffer};
use super::stderr_tail::StderrTail;
use super::system::Ended;
use super::trace;
use super::wait::poll_until;
use super::zygote_link::{ZygoteLink, with_stderr};
use crate::debug::impl_debug;
use crate::offload::process::codec::{self, Message};
use crate::offload::process::error::{DeathParts, WorkerDeath, WorkerExit};
use crate::random;

/// How long a killed worker may take to end. The system needs less than a millisecond, unless a device does not answer.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How many times bytes are received before the limits of a task are checked again.
const MAX_RECEIVED: u32 = 16;

/// A worker that waits for a task, or runs one.
///
/// Dropping the value kills all processes of the worker's group, and collects the worker.
pub(super) struct Worker {
    group: Arc<ProcessGroup>,
    /// The socket for requests and replies, on which no call blocks.
    socket: OwnedFd,
    stderr: StderrTail,
    replies: ReplyBuffer,
    zygote: Arc<ZygoteLink>,
    is_collected: bool,
    /// How many tasks the worker has run.
    tasks: u64,
    /// A random number of this worker, which decides how many tasks the worker runs.
    luck: u64,
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum CallEnd {
    /// The worker has sent a reply. The number is the length of its body.
    Reply(ReplyKind, usize),
    /// The worker had ended before it received a part of the request.
    NotStarted,
    /// The worker ended, or closed its socket.
    Died,
    TimedOut,
    OutOfMemory,
    /// The task has used up its processor time.
    OutOfTime,
    BadReply(&'static str),
}

impl Worker {
    /// Starts a worker and waits until it is ready.
    pub(super) fn start(zygote: Arc<ZygoteLink>, forwards_stderr: bool, limit: Duration) -> Result<Self, String> {
        let deadline = Instant::now().checked_add(limit);
        let mut worker = Self::fork(zygote, forwards_stderr).map_err(|error| error.to_string())?;
        let limits = CallLimits { kill_at: deadline, memory: None, cpu: None, max_reply: 64 << 10 };
        let why = match worker.call(&Message::default(), &limits) {
            CallEnd::Reply(ReplyKind::Ready, length) => {
                worker.replies.remove(length);
                return Ok(worker);
            }
            CallEnd::Reply(ReplyKind::Panicked, length) => match worker.panic(length) {
                Ok(panic) => format!("its initializer panicked: {}", panic.message),
                Err(error) => error.to_string(),
            },
            CallEnd::TimedOut => "its initializer took too long: let it do less, or raise start_timeout".to_owned(),
            other => {
                let exit = worker.collect().map_or(WorkerExit::Unknown, |ended| ended.exit);
                match other {
                    CallEnd::BadReply(why) => format!("the worker sent a bad reply: {why}"),
                    _ => format!("the worker died before it was ready: {exit}"),
                }
            }
        };
        worker.collect();
        Err(with_stderr(why, &worker.stderr.take()))
    }

    fn fork(zygote: Arc<ZygoteLink>, forwards_stderr: bool) -> io::Result<Self> {
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        let (stderr, writer) = StderrTail::new(forwards_stderr)?;
        let pid = zygote.fork(&theirs, &writer)?;
        // The zygote collects the worker only at the server's request, so the identifier stays valid until then.
        let group = match ProcessGroup::new(pid) {
            Ok(group) => Arc::new(group),
            Err(error) => {
                let _ = kill_process(pid, Signal::KILL);
                zygote.reap_later(pid);
                return Err(error);
            }
        };
        let replies = ReplyBuffer::default();
        Ok(Self { group, socket, stderr, replies, zygote, is_collected: false, tasks: 0, luck: random::bits() })
    }

    pub(super) fn pid(&self) -> Pid {
        self.group.leader()
    }

    pub(super) fn group(&self) -> &Arc<ProcessGroup> {
        &self.group
    }

    /// Returns `true` if the worker seems to wait for a request: it is running, and has sent nothing.
    pub(super) fn is_idle(&mut self) -> bool {
        let Ok(Ready { socket, process, stderr }) = self.wait(false, Some(Instant::now())) else { return false };
        // What the worker has written since its last task does not belong to the next one.
        if stderr {
            self.stderr.read();
        }
        self.stderr.forget();
        !socket && !process
    }

    /// Returns `true` if the process has ended.
    pub(super) fn has_ended(&self) -> bool {
        let mut events = [PollFd::new(&*self.group, PollFlags::IN)];
        poll_until(&mut events, Some(Instant::now())).is_ok_and(|is_running| !is_running)
    }

    /// Sends a request and waits for the reply.
    pub(super) fn call(&mut self, request: &Message, limits: &CallLimits) -> CallEnd {
        match self.exchange(request, limits) {
            Ok(end) => end,
            Err(_) => CallEnd::Died,
        }
    }

    fn exchange(&mut self, request: &Message, limits: &CallLimits) -> io::Result<CallEnd> {
        let mut unsent = Unsent::of(request);
        let mut watch = LimitWatch::new(self, *limits);
        loop {
            if let Some(part) = unsent.next() {
                match send(&self.socket, part, SendFlags::NOSIGNAL) {
                    Ok(length) => unsent.advance(length),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) if unsent.is_whole => return Ok(CallEnd::NotStarted),
                    // The worker has ended, or has replied before it read everything. The code below finds out which.
                    Err(_) => unsent = Unsent::default(),
                }
            }
            let Ready { socket, stderr, process } = self.wait(unsent.next().is_some(), watch.next_check())?;
            if stderr {
                self.stderr.read();
            }
            if socket || process {
                match self.next_reply(limits.max_reply)? {
                    Next::Reply(..) if unsent.next().is_some() => {
                        return Ok(CallEnd::BadReply("it came before the worker had read the request"));
                    }
                    Next::Reply(kind, length) => return Ok(CallEnd::Reply(kind, length)),
                    Next::Bad(why) => return Ok(CallEnd::BadReply(why)),
                    Next::Closed => return Ok(CallEnd::Died),
                    Next::Pending if process => return Ok(CallEnd::Died),
                    // The limits are checked before more is received.
                    Next::Pending | Next::Busy => {}
                }
            }
            if let Some(exceeded) = watch.check(self) {
                return Ok(exceeded);
            }
        }
    }

    fn wait(&self, writes: bool, until: Option<Instant>) -> io::Result<Ready> {
        let interest = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let socket = PollFd::new(&self.socket, interest);
        let process = PollFd::new(&*self.group, PollFlags::IN);
        let is_ready = |event: &PollFd<'_>| !event.revents().is_empty();
        let is_readable = |event: &PollFd<'_>| event.revents().intersects(!PollFlags::OUT);
        match self.stderr.pipe() {
            Some(pipe) => {
                let mut events = [socket, process, PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
                poll_until(&mut events, until)?;
                Ok(Ready {
                    socket: is_readable(&events[0]),
                    process: is_ready(&events[1]),
                    stderr: is_ready(&events[2]),
                })
            }
            None => {
                let mut events = [socket, process];
                poll_until(&mut events, until)?;
                Ok(Ready { socket: is_readable(&events[0]), process: is_ready(&events[1]), stderr: false })
            }
        }
    }

    /// Receives until a reply is complete, and emits the events that come before it.
    fn next_reply(&mut self, max_reply: usize) -> io::Result<Next> {
        let mut received = 0;
        loop {
            match self.replies.first(max_reply) {
                Arrived::All(ReplyKind::Event, length) => {
                    if let Ok(event) = codec::decode::<RemoteEvent>(self.replies.body(length)) {
                        trace::worker_event(self.pid().as_raw_nonzero().get(), &event);
                    }
                    self.replies.remove(length);
                    continue;
                }
                Arrived::All(kind, length) => return Ok(Next::Reply(kind, length)),
                Arrived::Bad(why) => return Ok(Next::Bad(why)),
                Arrived::Part if received == MAX_RECEIVED => return Ok(Next::Busy),
                Arrived::Part => received += 1,
            }
            match self.replies.receive(&self.socket) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(Next::Closed),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(Next::Pending),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the body of a complete reply.
    pub(super) fn body(&self, length: usize) -> &[u8] {
        self.replies.body(length)
    }

    /// Takes the attachments of a complete reply.
    pub(super) fn take_attachments(&mut self) -> Vec<Bytes> {
        self.replies.take_attachments()
    }

    /// Returns the panic of a complete reply.
    pub(super) fn panic(&self, length: usize) -> postcard::Result<RemotePanic> {
        codec::decode(self.replies.body(length))
    }

    /// Prepares the worker for the next task. Returns `false` if the worker has sent more than one reply.
    pub(super) fn finish_call(&mut self, length: usize) -> bool {
        self.tasks += 1;
        self.replies.remove(length);
        !self.replies.has_rest()
    }

    /// Returns `true` if the worker has run this many tasks, or up to a tenth fewer. Workers that start together would
    /// otherwise also end together.
    pub(super) fn has_run(&self, tasks: u64) -> bool {
        self.tasks >= tasks - self.luck % (tasks / 10 + 1)
    }

    /// Returns how much physical memory the worker uses, in bytes.
    pub(super) fn resident_memory(&self) -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid().as_raw_nonzero().get())).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages.saturating_mul(rustix::param::page_size() as u64))
    }

    /// Kills the worker, unless it has already ended, and returns how it ended.
    pub(super) fn end(&mut self, ran_for: Duration) -> WorkerDeath {
        let ended = self.collect();
        WorkerDeath::new(DeathParts {
            exit: ended.map_or(WorkerExit::Unknown, |ended| ended.exit),
            ran_for,
            peak_memory: ended.map(|ended| ended.peak_memory),
            stderr: self.stderr.take(),
        })
    }

    /// Returns `true` if the worker aborted because the system refused an allocation.
    pub(super) fn is_out_of_memory(&self, death: &WorkerDeath) -> bool {
        death.exit() == WorkerExit::Signal(libc::SIGABRT) && self.stderr.is_out_of_memory()
    }

    /// Kills all processes of the worker's group, and collects the worker. Returns `None` if the worker was collected
    /// before, or if it does not end in time.
    fn collect(&mut self) -> Option<Ended> {
        if self.is_collected {
            return None;
        }
        self.is_collected = true;
        self.group.kill();
        let mut events = [PollFd::new(&*self.group, PollFlags::IN)];
        let _ = poll_until(&mut events, Some(Instant::now() + END_LIMIT));
        let ended = self.zygote.try_reap(self.pid()).ok()?;
        if ended.is_none() {
            self.zygote.reap_later(self.pid());
        }
        ended
    }
}

/// The unsent rest of a request: the message, then each attachment.
#[derive(Default)]
struct Unsent<'a> {
    /// The parts in reverse order: the last one is sent next.
    parts: Vec<&'a [u8]>,
    /// `true` if nothing has been sent yet.
    is_whole: bool,
}

impl<'a> Unsent<'a> {
    fn of(request: &'a Message) -> Self {
        let attachments = request.attachments.iter().rev().map(|attachment| &attachment[..]);
        let mut parts: Vec<&[u8]> = attachments.collect();
        parts.push(&request.body);
        parts.retain(|part| !part.is_empty());
        Self { parts, is_whole: true }
    }

    fn next(&self) -> Option<&'a [u8]> {
        self.parts.last().copied()
    }

    fn advance(&mut self, length: usize) {
        self.is_whole = false;
        if let Some(part) = self.parts.last_mut() {
            *part = &part[length..];
            if part.is_empty() {
                self.parts.pop();
            }
        }
    }
}

/// The result of receiving from a worker.
enum Next {
    Reply(ReplyKind, usize),
    Bad(&'static str),
    /// The reply is not complete, and no more bytes have arrived.
    Pending,
    /// The reply is not complete, and more bytes may have arrived.
    Busy,
    /// The reply is not complete, and never will be: the worker has closed its socket.
    Closed,
}

/// The descriptors that are ready.
struct Ready {
    socket: bool,
    stderr: bool,
    process: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.collect();
    }
}

impl_debug!(Worker |this| { pid: this.pid().as_raw_nonzero().get(), tasks: this.tasks, .. });
