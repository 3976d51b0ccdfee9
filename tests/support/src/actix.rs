//! What the tests of the actix-web adapter share: a server on real sockets, and handlers that can be held.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use actix_web::dev::{self, ServerHandle};
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, ServiceConfig};
use actix_web::{App, HttpServer, rt};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::{RawClient, web_client};

/// More than the buffers of both kernels and both processes hold, so that a client that does not read blocks the
/// writer.
pub const LARGE: usize = 16 << 20;

pub const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A server in its own threads, on its own port. Dropping it stops it.
pub struct Server {
    pub address: SocketAddr,
    pub handle: ServerHandle,
}

impl Server {
    /// Starts a server with two workers on which a client that closes its connection counts as disconnected.
    pub fn start(configure: impl Fn(&mut ServiceConfig) + Send + Clone + 'static) -> Self {
        Self::start_with(2, false, configure)
    }

    pub fn start_with(
        workers: usize,
        half_closed: bool,
        configure: impl Fn(&mut ServiceConfig) + Send + Clone + 'static,
    ) -> Self {
        Self::serve(move || {
            let server = HttpServer::new(move || App::new().configure(configure.clone()))
                .workers(workers)
                .h1_allow_half_closed(half_closed)
                .disable_signals()
                .bind("127.0.0.1:0")
                .expect("a port is free");
            (server.addrs()[0], server.run())
        })
    }

    /// Starts the server that `run` creates.
    pub fn serve(run: impl FnOnce() -> (SocketAddr, dev::Server) + Send + 'static) -> Self {
        let (started, starts) = mpsc::channel();
        thread::spawn(move || rt::System::new().block_on(run_server(run, started)));
        starts.recv().expect("the server starts")
    }

    /// Like [`serve`](Self::serve), but on tokio's runtime instead of actix-web's own, as in a `#[tokio::main]`.
    pub fn serve_in_tokio(run: impl FnOnce() -> (SocketAddr, dev::Server) + Send + 'static) -> Self {
        let (started, starts) = mpsc::channel();
        let runtime = tokio::runtime::Runtime::new().expect("the machine has a thread left");
        thread::spawn(move || runtime.block_on(run_server(run, started)));
        starts.recv().expect("the server starts")
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a GET request in its own task.
    pub fn get(&self, path: &str) -> JoinHandle<Response> {
        ask(web_client().get(self.url(path)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The call itself sends the command. Waiting for its execution would need a runtime.
        drop(self.handle.stop(false));
    }
}

async fn run_server(run: impl FnOnce() -> (SocketAddr, dev::Server), started: mpsc::Sender<Server>) {
    let (address, running) = run();
    started.send(Server { address, handle: running.handle() }).expect("the test waits");
    running.await.expect("the server accepts until it is stopped");
}

/// Sends a request in its own task.
pub fn ask(request: RequestBuilder) -> JoinHandle<Response> {
    tokio::spawn(async move { request.send().await.expect("the server responds") })
}

/// The work of handlers, which a test counts and holds until it lets them finish.
pub struct Work {
    counts: Mutex<Counts>,
    may_finish: Semaphore,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    inside: usize,
    most_inside: usize,
    started: usize,
    finished: usize,
}

impl Default for Work {
    fn default() -> Self {
        Self { counts: Mutex::default(), may_finish: Semaphore::new(0) }
    }
}

impl Work {
    pub async fn run(&self) {
        struct Exit<'a>(&'a Work);
        impl Drop for Exit<'_> {
            fn drop(&mut self) {
                lock(&self.0.counts).inside -= 1;
            }
        }

        {
            let mut counts = lock(&self.counts);
            counts.started += 1;
            counts.inside += 1;
            counts.most_inside = counts.most_inside.max(counts.inside);
        }
        let _exit = Exit(self);
        // Long enough for other requests to run concurrently, if they are admitted.
        sleep(Duration::from_millis(2)).await;
        self.may_finish.acquire().await.expect("the semaphore is never closed").forget();
        lock(&self.counts).finished += 1;
    }

    /// Lets that many runs, current or future ones, finish.
    pub fn let_finish(&self, runs: usize) {
        self.may_finish.add_permits(runs);
    }

    /// Holds the runs that were not let finish yet, and future ones.
    pub fn hold_all(&self) {
        self.may_finish.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn inside(&self) -> usize {
        lock(&self.counts).inside
    }

    pub fn most_inside(&self) -> usize {
        lock(&self.counts).most_inside
    }

    pub fn started(&self) -> usize {
        lock(&self.counts).started
    }

    pub fn finished(&self) -> usize {
        lock(&self.counts).finished
    }

    /// Runs that were dropped before their end.
    pub fn cut(&self) -> usize {
        let counts = *lock(&self.counts);
        counts.started - counts.finished - counts.inside
    }
}

pub type Chunk = io::Result<Bytes>;

pub fn chunk(text: &'static str) -> Chunk {
    Ok(Bytes::from(text))
}

/// Bodies that the test writes, in the order in which they were opened.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<VecDeque<UnboundedReceiver<Chunk>>>>);

impl Streams {
    pub fn open(&self) -> UnboundedSender<Chunk> {
        let (parts, body) = unbounded();
        lock(&self.0).push_back(body);
        parts
    }

    pub fn take(&self) -> UnboundedReceiver<Chunk> {
        lock(&self.0).pop_front().expect("the test opens a stream for each request")
    }
}

/// Checks status, headers and members of a refusal, and returns its body.
pub async fn assert_problem(response: Response, status: u16, retry_after: Option<&str>, kind: &str) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[CONTENT_TYPE.as_str()], "application/problem+json");
    let message = response.headers().get("retry-after").map(|value| value.to_str().expect("the header is ASCII"));
    assert_eq!(message, retry_after);
    let problem: Value = response.json().await.expect("a problem is JSON");
    let members: Vec<_> = problem.as_object().expect("a problem is an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["detail", "status", "title", "type"]);
    assert_eq!((&problem["type"], &problem["status"]), (&json!(kind), &json!(status)));
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem:#}");
    problem
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics with the mutex held")
}

impl Server {
    /// Sends a GET request with the `host` header that the other client sends too.
    pub async fn raw_get(&self) -> RawClient {
        RawClient::send(self.address, format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", self.address)).await
    }

    pub fn post(&self, path: &str, user: &str) -> RequestBuilder {
        web_client().post(self.url(path)).header("x-user", user)
    }

    /// Sends a POST request for a user in its own task.
    pub fn work_for(&self, user: &str) -> JoinHandle<Response> {
        ask(self.post("/", user))
    }
}
