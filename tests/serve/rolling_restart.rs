//! Restarts under load: two generations of a server share one listener, and no client loses a request.
//!
//! The servers are processes with one thread each. Their handlers use the processor, and there are more clients than the
//! servers can serve, so that each queue is full when a server is asked to stop.

use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onelane::ServiceHost;
use onelane::web::axum::serve;
use rustix::process::{Pid, Signal, kill_process};
use support::runtimes::{current_thread, multi_thread};
use support::waiting::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::MS;

const SCENARIO: &str = "ONELANE_TEST_ROLLING";
const CLIENTS_OF_A_KIND: usize = 8;
const WORK: Duration = Duration::from_micros(800);

/// What all clients together have sent and lost.
#[derive(Default)]
struct Tally {
    served: AtomicUsize,
    /// Requests that were lost on new connections, and on connections that had served requests before.
    lost_new: AtomicUsize,
    lost_reused: AtomicUsize,
    has_ended: AtomicBool,
}

impl Tally {
    fn count(&self, is_served: bool, is_reused: bool) {
        let count = match (is_served, is_reused) {
            (true, _) => &self.served,
            (false, false) => &self.lost_new,
            (false, true) => &self.lost_reused,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }

    fn lost(&self) -> usize {
        self.lost_new.load(Ordering::SeqCst) + self.lost_reused.load(Ordering::SeqCst)
    }
}

struct Server(Child);

impl Server {
    /// Starts a server on the listener, and waits until it serves.
    fn start(listener: &std::net::TcpListener, scenario: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "rolling_restart::server_of_the_tests_above", "--nocapture"]).env(SCENARIO, scenario);
        // The listener is the standard input, which is the one that a child inherits without further ado.
        command.stdin(Stdio::from(listener.as_fd().try_clone_to_owned().unwrap())).stdout(Stdio::piped());
        let mut server = Self(command.spawn().unwrap());
        let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("serving")), "the server starts");
        // Read to the end, so that the server can write.
        thread::spawn(move || lines.count());
        server
    }

    /// Stops the server. Returns `true` if its exit code is 0.
    fn stop(mut self) -> bool {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(start.elapsed() < PATIENCE, "the server ends");
            thread::sleep(MS);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends one request over HTTP/1. Returns `Some(true)` if the connection stays open, and `None` if the request is lost.
async fn request(stream: &mut TcpStream, connection: &str) -> Option<bool> {
    let request = format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = Vec::new();
    while !response.ends_with(b"served") {
        if stream.read_buf(&mut response).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&response).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    Some(!head.contains("connection: close"))
}

async fn http1_client(address: SocketAddr, tally: Arc<Tally>, connection: &'static str) {
    while !tally.has_ended.load(Ordering::SeqCst) {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            tally.count(false, false);
            continue;
        };
        let mut is_reused = false;
        loop {
            let kept = request(&mut stream, connection).await;
            tally.count(kept.is_some(), is_reused);
            if kept != Some(true) || tally.has_ended.load(Ordering::SeqCst) {
                break;
            }
            is_reused = true;
        }
    }
}

async fn connect_http2(address: SocketAddr) -> Option<SendRequest<Empty<Bytes>>> {
    let stream = TokioIo::new(TcpStream::connect(address).await.ok()?);
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

async fn http2_client(address: SocketAddr, tally: Arc<Tally>) {
    while !tally.has_ended.load(Ordering::SeqCst) {
        let Some(mut sender) = connect_http2(address).await else {
            tally.count(false, false);
            continue;
        };
        let mut is_reused = false;
        // After a GOAWAY, the connection is never ready again, and nothing was sent.
        while sender.ready().await.is_ok() && !tally.has_ended.load(Ordering::SeqCst) {
            let request = hyper::Request::get("http://test/").body(Empty::new()).unwrap();
            let is_served = match sender.try_send_request(request).await {
                Ok(response) => response.into_body().collect().await.is_ok(),
                Err(error) if is_unprocessed(&error) => break,
                Err(_) => false,
            };
            tally.count(is_served, is_reused);
            is_reused = true;
        }
    }
}

/// Returns `true` if the request was not sent, or if a GOAWAY has said that the server did not process it (RFC 9113,
/// section 6.8). Every client repeats such a request elsewhere.
fn is_unprocessed<T>(error: &TrySendError<T>) -> bool {
    let goaway = error.error().source().and_then(|source| source.downcast_ref::<h2::Error>());
    let is_in_order = |error: &h2::Error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.message().is_some() || goaway.is_some_and(is_in_order)
}

/// Restarts the server under load. Returns what the clients have seen.
fn restart(scenario: &str, restarts: usize, enough: impl Fn(&Tally) -> bool) -> Arc<Tally> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, tally) = (listener.local_addr().unwrap(), Arc::new(Tally::default()));
    let runtime = multi_thread(2);
    let mut server = Server::start(&listener, scenario);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS_OF_A_KIND {
        clients.spawn_on(http1_client(address, Arc::clone(&tally), "close"), runtime.handle());
        clients.spawn_on(http1_client(address, Arc::clone(&tally), "keep-alive"), runtime.handle());
        clients.spawn_on(http2_client(address, Arc::clone(&tally)), runtime.handle());
    }
    for n in 0..restarts {
        let next = Server::start(&listener, scenario);
        let is_clean = std::mem::replace(&mut server, next).stop();
        assert!(is_clean || scenario == "plain", "restart {n}: the exit code says that the stop was not clean");
        if enough(&tally) {
            break;
        }
    }
    tally.has_ended.store(true, Ordering::SeqCst);
    let ended = async { while clients.join_next().await.is_some_and(|client| client.is_ok()) {} };
    runtime.block_on(async { timeout(PATIENCE, ended).await }).expect("every client gets a response or an error");
    assert!(server.stop() || scenario == "plain");
    tally
}

/// How many restarts a test makes.
pub(crate) fn restarts() -> usize {
    env::var("ONELANE_TEST_RESTARTS").map_or(100, |restarts| restarts.parse().unwrap())
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are for a person who runs the test by hand")]
fn no_request_is_lost() {
    let restarts = restarts();
    let tally = restart("serve", restarts, |_| false);
    let [served, new, reused] = [&tally.served, &tally.lost_new, &tally.lost_reused].map(|n| n.load(Ordering::SeqCst));
    println!("{restarts} restarts: {served} served, {new} lost on new connections, {reused} on reused ones");
    assert_eq!((new, reused), (0, 0), "of {}", served + new + reused);
    assert!(served > restarts * CLIENTS_OF_A_KIND, "the clients have sent requests all the time: {served}");
}

/// Without this, the test above might measure nothing.
#[test]
fn graceful_shutdown_of_the_framework_alone_loses_requests() {
    let tally = restart("plain", 100, |tally| tally.lost() > 0);
    assert!(tally.lost() > 0, "of {}", tally.served.load(Ordering::SeqCst));
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::exit, clippy::print_stdout, reason = "its parent reads the exit code and stdout")]
fn server_of_the_tests_above() {
    let Ok(scenario) = env::var(SCENARIO) else { return };
    let work = || async {
        let start = Instant::now();
        while start.elapsed() < WORK {}
        "served"
    };
    let app = Router::new().route("/", get(work));
    let runtime = current_thread();
    let report = runtime.block_on(async {
        let listener = std::net::TcpListener::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let host = ServiceHost::builder().build().unwrap();
        let handle = host.handle();
        tokio::spawn(async move {
            while !handle.status().is_ready() {
                tokio::task::yield_now().await;
            }
            println!("serving");
        });
        if scenario == "serve" {
            return serve(host, listener, app).await.unwrap();
        }
        let draining = host.handle().draining().cancelled_owned();
        let server = axum::serve(listener, app).with_graceful_shutdown(draining);
        host.run_until(server).await.unwrap()
    });
    std::process::exit(report.exit_code().into());
}
