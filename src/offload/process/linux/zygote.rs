//! The zygote: a process of the program with a single thread, which forks workers.
//!
//! A fork of the server itself would copy the page tables, which takes tens of milliseconds for a large server, and
//! would inherit the locks that other threads hold. The zygote is small and has one thread, so a fork of the zygote
//! takes less than a millisecond and is safe.
//!
//! # Invariants
//!
//! 1. The process has one thread. Otherwise a fork fails.
//! 2. A worker that has ended stays a zombie until the server requests its collection. Until then the server can send
//!    signals to the worker's process group, because the system gives the identifier to no other process.
//! 3. If the server ends, the zygote kills the process groups of all workers. If the zygote ends, the system kills the
//!    workers.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getppid, getrlimit, kill_process_group, pidfd_open,
    set_parent_process_death_signal, setpgid, setrlimit,
};

use super::channel::{Answer, Channel, Command, WorkerSettings};
use super::serve;
use super::system::{self, Forked};

/// The size to which the stack of a worker may grow, in bytes: the same as for the threads of other pools.
const STACK_SIZE: u64 = 64 << 20;

/// Serves as a zygote until the server ends, and as a worker in each fork. Never returns.
pub(super) fn main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "a process pool failed to make workers: {error}");
            1
        }
    };
    system::exit_now(code)
}

fn run() -> io::Result<()> {
    let mut zygote = Zygote::prepare()?;
    match zygote.serve() {
        Ok(Some(worker)) => {
            let settings = zygote.into_settings();
            worker.run(&settings)
        }
        other => {
            for child in &zygote.children {
                let _ = kill_process_group(*child, Signal::KILL);
            }
            other.map(drop)
        }
    }
}

struct Zygote {
    channel: Channel,
    /// Readable once the server has ended. The channel would stay open while a fork of the server is alive.
    server: OwnedFd,
    settings: WorkerSettings,
    /// The workers that the server has not collected yet.
    children: Vec<Pid>,
}

/// The parts of a new worker, in the fork.
struct NewWorker {
    zygote: Pid,
    socket: OwnedFd,
    stderr: OwnedFd,
}

/// The side of the fork on which this process is.
enum Fork {
    Zygote(Answer),
    Worker(NewWorker),
}

impl Zygote {
    /// Replaces the standard streams, signals and limits that the process has inherited from the server. Other files
    /// are already closed.
    fn prepare() -> io::Result<Self> {
        let channel = Channel::new(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        // The server may have closed its standard output. No file that is opened later must get that descriptor.
        if rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err() {
            rustix::stdio::dup2_stdout(&nothing)?;
        }
        drop(nothing);
        let server = getppid().ok_or_else(|| io::Error::other("the server has ended"))?;
        let server = pidfd_open(server, PidfdFlags::empty())?;
        system::name_process(c"onelane-zygote");
        system::restore_signals();
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT].into_iter().for_each(system::survive);
        lower_limit(Resource::Core, 0)?;
        raise_stack_limit();
        let executable = rustix::fs::stat("/proc/self/exe")?;
        channel.send(&Answer::Ready { device: executable.st_dev, inode: executable.st_ino }, &[])?;
        Ok(Self { channel, server, settings: WorkerSettings::default(), children: Vec::new() })
    }

    /// Executes the server's commands until the server ends. In a fork, returns the worker.
    fn serve(&mut self) -> io::Result<Option<NewWorker>> {
        loop {
            let mut events = [PollFd::new(&self.channel, PollFlags::IN), PollFd::new(&self.server, PollFlags::IN)];
            match poll(&mut events, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let [channel, server] = events.map(|event| event.revents());
            if !server.is_empty() {
                return Ok(None);
            }
            if channel.is_empty() {
                continue;
            }
            let Some((command, descriptors)) = self.channel.receive::<Command>()? else { return Ok(None) };
            let answer = match command {
                Command::Configure(settings) => {
                    self.settings = settings;
                    continue;
                }
                Command::Fork => match self.fork(descriptors) {
                    Ok(Fork::Zygote(answer)) => Ok(answer),
                    Ok(Fork::Worker(worker)) => return Ok(Some(worker)),
                    Err(error) => Err(error),
                },
                Command::Reap(pid) => self.reap(pid),
            };
            self.channel.send(&answer.unwrap_or_else(|error| Answer::Failed(error.to_string())), &[])?;
        }
    }

    /// Forks a worker. Returns the answer in the zygote, and the worker in the fork.
    fn fork(&mut self, descriptors: Vec<OwnedFd>) -> io::Result<Fork> {
        let Ok([socket, stderr]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(io::Error::other("a fork needs two file descriptors"));
        };
        let zygote = getpid();
        match system::fork()? {
            Forked::Parent(pid) => {
                // The worker does the same. Whichever call comes first, the group exists before the server gets the
                // identifier.
                let _ = setpgid(Some(pid), Some(pid));
                self.children.push(pid);
                Ok(Fork::Zygote(Answer::Forked(pid.as_raw_nonzero().get())))
            }
            Forked::Child => Ok(Fork::Worker(NewWorker { zygote, socket, stderr })),
        }
    }

    /// Closes the zygote's descriptors. Called in a worker.
    fn into_settings(self) -> WorkerSettings {
        self.settings
    }

    fn reap(&mut self, pid: i32) -> io::Result<Answer> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is no process identifier"))?;
        let reaped = system::try_reap(pid);
        if let Ok(None) = reaped {
            return Ok(Answer::Running);
        }
        self.children.retain(|child| *child != pid);
        reaped.map(|ended| ended.map_or(Answer::Running, Answer::ended))
    }
}

impl NewWorker {
    fn run(self, settings: &WorkerSettings) -> ! {
        let Self { zygote, socket, stderr } = self;
        let prepare = || -> io::Result<()> {
            system::name_process(c"onelane-worker");
            setpgid(None, None)?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            rustix::stdio::dup2_stderr(&stderr)?;
            if let Some(bytes) = settings.memory_limit {
                lower_limit(Resource::Data, bytes)?;
            }
            Ok(())
        };
        if let Err(error) = prepare() {
            let _ = writeln!(io::stderr(), "preparing a worker failed: {error}");
            system::exit_now(1);
        }
        drop(stderr);
        // The zygote may have ended before the call above requested the signal.
        if getppid() != Some(zygote) {
            system::exit_now(1);
        }
        serve::main(socket, settings)
    }
}

fn lower_limit(resource: Resource, to: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum.map_or(to, |maximum| maximum.min(to));
    Ok(setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })?)
}

/// Raises the limit up to which the stack of the main thread grows. The system reserved the address space when it
/// executed the program.
fn raise_stack_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Stack);
    let size = maximum.map_or(STACK_SIZE, |maximum| maximum.min(STACK_SIZE));
    if current.is_some_and(|current| current < size) {
        let _ = setrlimit(Resource::Stack, Rlimit { current: Some(size), maximum });
    }
}
