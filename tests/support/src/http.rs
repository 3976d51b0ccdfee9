//! What the tests of the web adapters share: a handler that can be held, a server, and a client that can disconnect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use onelane::web::ClientLink;
use onelane::web::axum::WatchedListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::client::PATIENCE;
pub use crate::client::{Disconnect, eventually};

/// Waits for `work`, which is expected to take almost no time.
pub async fn soon<F: Future>(work: F) -> F::Output {
    timeout(PATIENCE, work).await.expect("the work completes in time")
}

/// Work that continues until the test releases it, and counts how its visits end.
#[derive(Debug)]
pub struct Probe {
    started: AtomicUsize,
    finished: AtomicUsize,
    cut_off: AtomicUsize,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
    gate: Semaphore,
}

struct Visit<'a> {
    probe: &'a Probe,
    finished: bool,
}

impl Probe {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            cut_off: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            most_inside: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        })
    }

    /// A probe that holds no visit.
    pub fn open() -> Arc<Self> {
        let probe = Self::new();
        probe.release(Semaphore::MAX_PERMITS);
        probe
    }

    /// Continues until the test releases it.
    pub async fn visit(&self) {
        let mut visit = Visit::enter(self);
        self.gate.acquire().await.expect("the gate is never closed").forget();
        visit.finished = true;
    }

    /// Like [`visit`](Self::visit), but leaves time for another visit to overlap.
    pub async fn visit_for(&self, length: Duration) {
        let mut visit = Visit::enter(self);
        sleep(length).await;
        visit.finished = true;
    }

    /// Lets `n` visits end.
    pub fn release(&self, n: usize) {
        self.gate.add_permits(n);
    }

    pub fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    /// Visits that were dropped before their end.
    pub fn cut_off(&self) -> usize {
        self.cut_off.load(Ordering::SeqCst)
    }

    pub fn most_inside(&self) -> usize {
        self.most_inside.load(Ordering::SeqCst)
    }
}

impl<'a> Visit<'a> {
    fn enter(probe: &'a Probe) -> Self {
        probe.started.fetch_add(1, Ordering::SeqCst);
        let inside = probe.inside.fetch_add(1, Ordering::SeqCst) + 1;
        probe.most_inside.fetch_max(inside, Ordering::SeqCst);
        Self { probe, finished: false }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.probe.inside.fetch_sub(1, Ordering::SeqCst);
        let outcome = if self.finished { &self.probe.finished } else { &self.probe.cut_off };
        outcome.fetch_add(1, Ordering::SeqCst);
    }
}

/// The listener of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// With a plain `TcpListener`.
    Plain,
    /// With a `WatchedListener`.
    Watched,
}

/// Serves `app` on its own port until the test's runtime ends.
pub async fn serve(listening: Listening, app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    match listening {
        Listening::Plain => tokio::spawn(axum::serve(listener, app).into_future()),
        Listening::Watched => {
            let app = app.into_make_service_with_connect_info::<ClientLink>();
            tokio::spawn(axum::serve(WatchedListener::from(listener), app).into_future())
        }
    };
    address
}

/// A client that sends exactly the bytes it is given.
#[derive(Debug)]
pub struct Client {
    stream: Option<TcpStream>,
    unread: Vec<u8>,
}

/// A response of a server.
#[derive(Debug)]
pub struct ClientResponse {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("the socket is a TCP socket");
        Self { stream: Some(stream), unread: Vec::new() }
    }

    /// Connects and sends.
    pub async fn sending(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut client = Self::connect(address).await;
        client.send(bytes).await;
        client
    }

    pub fn local_addr(&self) -> SocketAddr {
        let stream = self.stream.as_ref().expect("the client has not disconnected");
        stream.local_addr().expect("the client is connected")
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream().write_all(bytes.as_ref())).await.expect("the server is connected");
    }

    /// Sends as much as the server and the kernels in between accept at once.
    pub async fn send_what_fits(&mut self, bytes: &[u8]) {
        // No event reports that the last buffer is full: it is when nothing moves for a while.
        let _ = timeout(Duration::from_millis(200), self.stream().write_all(bytes)).await;
    }

    pub async fn disconnect(&mut self, how: Disconnect) {
        match how {
            // Not dropped: unread bytes, such as those of a 100 Continue, would make it reset the connection.
            Disconnect::Fin => self.stream().shutdown().await.expect("the server is connected"),
            Disconnect::Rst => {
                self.stream().set_zero_linger().expect("the socket is a TCP socket");
                self.stream = None;
            }
        }
    }

    /// Returns the next response, whose length its head must state.
    pub async fn response(&mut self) -> ClientResponse {
        let head = self.head().await;
        let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a length is a number"));
        while self.unread.len() < length {
            self.receive().await;
        }
        let body = self.unread.drain(..length).collect();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line has a status");
        ClientResponse { status, head, body }
    }

    /// Returns the next head. The bytes after it stay unread.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            self.receive().await;
        }
    }

    /// Reads until `text` has arrived.
    pub async fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.unread).contains(text) {
            self.receive().await;
        }
    }

    /// Reads until the server closes or resets the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let Self { stream, unread } = self;
        let read = stream.as_mut().expect("the client has not disconnected").read_to_end(unread);
        let _ = soon(read).await;
        std::mem::take(unread)
    }

    async fn receive(&mut self) {
        let Self { stream, unread } = self;
        let read = stream.as_mut().expect("the client has not disconnected").read_buf(unread);
        let length = soon(read).await.expect("the server is connected");
        assert!(length > 0, "the server closed the connection, after {:?}", String::from_utf8_lossy(unread));
    }

    fn stream(&mut self) -> &mut TcpStream {
        self.stream.as_mut().expect("the client has not disconnected")
    }
}

impl ClientResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
}

/// A request without a body.
pub fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

pub fn get(path: &str) -> String {
    request("GET", path)
}

/// The head of a request with a body of `length` bytes.
pub fn post_head(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n")
}

/// A request with a body whose length its head states.
pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = post_head(path, body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// A request with a body in chunks, and a trailer.
pub fn post_chunked(path: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let head = "host: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n";
    let mut request = format!("POST {path} HTTP/1.1\r\n{head}").into_bytes();
    for chunk in chunks {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\nx-sum: 42\r\n\r\n");
    request
}

/// Bytes in which swapped neighbours are noticed.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}
