//! [`ProbeServer`], the probes on a port of their own, beside the supervisor. The one file that names hyper.
//!
//! # Invariants
//!
//! 1. Each connection is a task, and makes one answer in a turn at most. So between two turns of the supervisor there are as
//!    many answers at most as its runtime takes tasks in a row, whatever clients do.
//! 2. A client that connects is served: where there are too many, the oldest connection makes room. It is the one that had
//!    the most time to send its request.
//! 3. When the server ends, its connections do.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::control::HostShared;
use super::probe::ProbeAnswer;
use crate::background::trace;

/// How many connections there are at most.
pub(super) const CONNECTIONS: usize = 64;
/// How long a client may take to send the head of its request, the first as well as the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the head of a request may be: room for some names to exclude. It is the least that hyper takes.
const HEAD_SIZE: usize = 8192;
/// How long to wait where the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(250);

/// A port on which nothing but probes is answered.
pub(crate) struct ProbeServer {
    listener: TcpListener,
}

impl ProbeServer {
    /// Takes a listener over, for the runtime that this is called in.
    pub(super) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(|listener| Self { listener })
    }

    /// Answers until the host has ended.
    pub(super) async fn serve(self, host: Arc<HostShared>) {
        tokio::select! {
            _ = host.ended() => {}
            () = self.accept(&host) => {}
        }
    }

    async fn accept(&self, host: &Arc<HostShared>) {
        let mut connections = VecDeque::with_capacity(CONNECTIONS);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.retain(|connection: &AbortOnDropHandle<()>| !connection.is_finished());
                    if connections.len() == CONNECTIONS {
                        connections.pop_front();
                    }
                    let connection = tokio::spawn(answer_all(stream, Arc::clone(host)));
                    connections.push_back(AbortOnDropHandle::new(connection));
                    // The connection's turn, before the next one is taken.
                    yield_now().await;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    trace::no_connection(&error);
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Whether the client has left before it was accepted. The next one may be there already.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn answer_all(stream: TcpStream, host: Arc<HostShared>) {
    let service = service_fn(|request| answer(request, &host));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_SIZE);
    // Without it, an answer may wait for the client's acknowledgement of the one before. It fails where the client has left.
    let _ = stream.set_nodelay(true);
    // Its error is of the client: it left, was too slow, or sent something else than HTTP.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, host: &HostShared) -> Result<Response<String>, Infallible> {
    // The turn of the others: hyper would answer 16 pipelined requests in one.
    yield_now().await;
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let Some(ProbeAnswer { status, body }) = host.status().probe(target) else {
        return Ok(plain(StatusCode::NOT_FOUND, String::new()));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, String::new());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        return Ok(response);
    }
    Ok(plain(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), body))
}

fn plain(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in ProbeAnswer::HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
