//! [`ProbeServer`], which serves the probes on a dedicated port, on the supervisor's runtime. Only this file uses
//! hyper.
//!
//! # Invariants
//!
//! 1. Each connection is a task that sends at most one response per poll. So whatever clients do, the number of
//!    responses between two polls of the supervisor is at most the number of tasks that its runtime polls in a row.
//! 2. Every client that connects is served. If there are too many connections, the oldest one is closed: its client had
//!    the most time to send a request.
//! 3. When the server ends, its connections are closed.

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

/// The maximum number of connections.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send the head of a request. The limit applies to the first request and to every later
/// one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a request's head: enough for several `exclude` parameters. hyper accepts no smaller limit.
const HEAD_SIZE: usize = 8192;
/// The pause after an error such as having no file descriptors left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(250);

/// Serves the probes, and nothing else, on one port.
pub(crate) struct ProbeServer {
    listener: TcpListener,
}

impl ProbeServer {
    /// Creates the server from a bound listener. Must be called inside the runtime that serves it.
    pub(super) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(|listener| Self { listener })
    }

    /// Serves probes until the host has ended.
    pub(super) async fn serve(self, host: Arc<HostShared>) {
        tokio::select! {
            _ = host.ended() => {}
            () = self.accept(&host) => {}
        }
    }

    async fn accept(&self, host: &Arc<HostShared>) {
        let mut connections = VecDeque::with_capacity(MAX_CONNECTIONS);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.retain(|connection: &AbortOnDropHandle<()>| !connection.is_finished());
                    if connections.len() == MAX_CONNECTIONS {
                        connections.pop_front();
                    }
                    let connection = tokio::spawn(serve_connection(stream, Arc::clone(host)));
                    connections.push_back(AbortOnDropHandle::new(connection));
                    // Let the connection run before the next one is accepted.
                    yield_now().await;
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    trace::probe_accept_failed(&error);
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
}

/// Returns `true` if the client disconnected before it was accepted. The next client may already be waiting.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_connection(stream: TcpStream, host: Arc<HostShared>) {
    let service = service_fn(|request| respond(request, &host));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_SIZE);
    // Without `TCP_NODELAY`, a response may wait for the client to acknowledge the previous one. The call fails if the
    // client disconnected.
    let _ = stream.set_nodelay(true);
    // The client caused the error: it disconnected, was too slow, or did not send valid HTTP.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: Request<Incoming>, host: &HostShared) -> Result<Response<String>, Infallible> {
    // Let other tasks run: hyper would respond to 16 pipelined requests in one poll.
    yield_now().await;
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let Some(ProbeAnswer { status, body }) = host.status().probe(target) else {
        return Ok(plain_text(StatusCode::NOT_FOUND, String::new()));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain_text(StatusCode::METHOD_NOT_ALLOWED, String::new());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
        return Ok(response);
    }
    Ok(plain_text(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), body))
}

fn plain_text(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in ProbeAnswer::HEADERS {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    response
}
