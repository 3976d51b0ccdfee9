//! The worker's loop, which reads requests, calls functions and writes replies.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::channel::WorkerSettings;
use super::events::{self, forward_events};
use super::frame::{REPLY_HEADER, RemotePanic, ReplyKind, RequestHeader, RequestMeta, number, reply_header, truncate};
use super::system;
use crate::offload::job::{AwaitableJob, CallerContext, Job, RunnableJob, TaskContext, TaskOptions, TaskPlace};
use crate::offload::process::codec::{self, Message};
use crate::offload::process::function::{self, Function};
use crate::scope::CallerScopes;

/// How much memory the worker keeps for the arguments and the result of the next task, in bytes.
const KEPT: usize = 32 << 20;

/// The number of bytes in which the length of an attachment is sent.
const LENGTH: usize = size_of::<u64>();

/// Runs tasks until the server closes the socket, and never returns.
pub(super) fn main(socket: OwnedFd, settings: &WorkerSettings) -> ! {
    let code = match serve(&UnixStream::from(socket), settings) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "a worker of a process pool failed: {error}");
            1
        }
    };
    system::exit_now(code)
}

fn serve(mut socket: &UnixStream, settings: &WorkerSettings) -> io::Result<()> {
    let (mut request, mut reply) = (Vec::new(), Message::default());
    let started = settings.initializer.map_or(Ok(()), |initializer| initialize(Function::from_server(initializer)));
    #[cfg(feature = "landlock")]
    settings.sandbox.as_ref().map_or(Ok(()), super::sandbox::enter).map_err(io::Error::other)?;
    match started {
        Ok(()) => reply.body.extend(reply_header(ReplyKind::Ready, 0)),
        Err(panic) => reply = Message::of(ReplyKind::Panicked, |body| codec::encode(&panic, body).is_ok()),
    }
    socket.write_all(&reply.body)?;
    let mut requests = BufReader::new(socket);
    let mut header = [0; RequestHeader::LENGTH];
    loop {
        match requests.read_exact(&mut header) {
            // The server has closed the socket, since it has no more tasks for this worker.
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            other => other?,
        }
        let header = RequestHeader::from_bytes(&header);
        let table = u64::from(header.attachments) * LENGTH as u64;
        request.clear();
        read(&mut requests, header.arguments_length + header.meta_length + table, &mut request)?;
        let arguments_end = request.len() - table as usize;
        let mut attachments = Vec::new();
        for length in request[arguments_end..].chunks(LENGTH) {
            let mut attachment = Vec::new();
            read(&mut requests, number(length), &mut attachment)?;
            attachments.push(attachment.into());
        }
        request.truncate(arguments_end);
        reply.body.clear();
        forward_events(socket, header.level);
        (request, reply) = run(&header, request, attachments, reply);
        events::write_reply(socket, &reply)?;
        reply.attachments.clear();
        [&mut request, &mut reply.body].into_iter().for_each(give_back);
    }
}

/// Runs one task. Returns the buffer of the request, and the reply.
fn run(header: &RequestHeader, request: Vec<u8>, attachments: Vec<Bytes>, reply: Message) -> (Vec<u8>, Message) {
    // This many bytes have been read, so the length fits.
    let arguments_at = header.meta_length as usize;
    let meta = &request[..arguments_at];
    let RequestMeta { label, scopes } = codec::decode(meta).unwrap_or_default();
    let scopes = scopes.into_iter().map(|(distance, number)| (function::address_at(distance), number));
    let (scopes, _hold) = CallerScopes::of(scopes.collect());
    let options = TaskOptions {
        label: (!label.is_empty()).then(|| label.into()),
        deadline: header.budget.and_then(|budget| Instant::now().checked_add(budget)),
        ..TaskOptions::default()
    };
    let function = Function::from_server(header.function);
    let work = move |_: &TaskContext| {
        let mut reply = reply;
        reply.body.resize(REPLY_HEADER, 0);
        let called = function.call((&request[arguments_at..], attachments), &mut reply);
        (called, request, reply)
    };
    match call(options, CallerContext::inside(scopes), work) {
        Ok((Ok(()), request, mut reply)) => {
            let header = reply_header(ReplyKind::Done, reply.body.len() - REPLY_HEADER);
            reply.body[..REPLY_HEADER].copy_from_slice(&header);
            (request, reply)
        }
        Ok((Err(error), request, _)) => {
            (request, Message::of(ReplyKind::Codec, |body| write!(body, "{error}").is_ok()))
        }
        Err(panic) => (Vec::new(), Message::of(ReplyKind::Panicked, |body| codec::encode(&panic, body).is_ok())),
    }
}

fn initialize(initializer: Function) -> Result<(), RemotePanic> {
    call(TaskOptions::default(), CallerContext::default(), move |_| {
        initializer.call((&[], Vec::new()), &mut Message::default()).map_err(|error| error.to_string())
    })?
    .map_err(|message| RemotePanic { message, location: None })
}

/// Calls user code like the task of a pool on threads: with a context, and with its panic caught.
fn call<F, T>(options: TaskOptions, caller: CallerContext, work: F) -> Result<T, RemotePanic>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    let job = Arc::new(Job::new(TaskPlace::default(), options, caller, work));
    Arc::clone(&job).run("worker");
    // The job has no waker yet.
    drop(job.publish());
    let Poll::Ready(result) = job.poll(&Context::from_waker(Waker::noop())) else { unreachable!("the job has run") };
    result.map_err(|error| {
        let mut panic = match error.into_panic() {
            Ok(panic) => {
                RemotePanic { message: panic.message().to_owned(), location: panic.location().map(str::to_owned) }
            }
            Err(error) => RemotePanic { message: error.to_string(), location: None },
        };
        truncate(&mut panic.message);
        panic
    })
}

impl Message {
    /// Creates a reply that is no result. Writing the body to memory does not fail. If it did, the body would be empty.
    fn of(kind: ReplyKind, write_body: impl FnOnce(&mut Vec<u8>) -> bool) -> Self {
        let mut body = vec![0; REPLY_HEADER];
        if !write_body(&mut body) {
            body.truncate(REPLY_HEADER);
        }
        let header = reply_header(kind, body.len() - REPLY_HEADER);
        body[..REPLY_HEADER].copy_from_slice(&header);
        Self { body, attachments: Vec::new() }
    }
}

/// Reads `length` bytes of a request. Memory is allocated for all of them, since the worker trusts the server.
fn read(requests: &mut impl Read, length: u64, to: &mut Vec<u8>) -> io::Result<()> {
    to.reserve(usize::try_from(length).map_err(io::Error::other)?);
    let read = requests.by_ref().take(length).read_to_end(to)?;
    if read as u64 == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn give_back(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEPT);
}
