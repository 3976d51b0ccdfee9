//! Thousands of connections that are opened and abandoned. The server is a separate process, whose memory and
//! descriptors are measured.

#![cfg(target_os = "linux")]

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::{App, web};
use axum::Router;
use axum::routing::get;
use futures::future::join_all;
use onelane::ServiceHost;
use onelane::web::{ServeConfig, actix, axum as web_axum};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use support::http::{self, Client, eventually};
use support::process::Example;
use support::runtimes::multi_thread;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::MutexGuard;
use tokio::time::{sleep, timeout};

use super::{ALONE, MS};

const PROGRAM: &str = "ONELANE_TEST_MANY";
const MANY: usize = 10_000;
const LIMIT: usize = 200;
/// How much more memory the server may have after 40,000 further connections: 100 bytes for each.
const GROWTH: usize = 4 << 20;
/// How much memory an open connection may take. It was 3 KiB in axum and 12 KiB in actix-web.
const EACH: usize = 16 << 10;

struct Server(Example, #[allow(dead_code, reason = "held by one test at a time")] MutexGuard<'static, ()>);

impl Server {
    async fn start(kind: &str) -> Self {
        let alone = ALONE.lock().await;
        // Inherited by the server. The limit of many systems is 1,024 unless a process raises it.
        let limit = getrlimit(Resource::Nofile);
        let enough = Some(limit.maximum.unwrap_or(u64::MAX).min(MANY as u64 * 2));
        setrlimit(Resource::Nofile, Rlimit { current: enough, ..limit }).unwrap();
        Self(Example::of_test("many_connections::program_of_the_tests_above", &[(PROGRAM, kind)]).await, alone)
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap().count()
    }

    /// Returns the resident memory in bytes.
    fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// Stops the server, and checks that it has lost track of no connection.
    async fn stop(mut self) {
        self.0.signal(Signal::TERM);
        assert_eq!(self.0.exit_code().await, Some(0), "{}", self.0.printed());
    }
}

/// Sends requests on one connection and on new ones, and counts the responses.
async fn use_service(address: SocketAddr, served: &AtomicUsize) {
    loop {
        let mut client = Client::connect(address).await;
        for _ in 0..3 {
            client.send(http::get("/")).await;
            assert_eq!(client.response().await.text(), "hello");
            served.fetch_add(1, Ordering::SeqCst);
            sleep(MS * 5).await;
        }
    }
}

/// Opens connections that send nothing.
async fn open(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    while open.len() < count {
        // No more than the queue of the operating system holds.
        open.extend(join_all((0..100).map(|_| TcpStream::connect(address))).await.into_iter().map(Result::unwrap));
    }
    open
}

async fn many_connections_leave_nothing(kind: &str) {
    let server = Server::start(kind).await;
    let (address, served) = (server.0.address, AtomicUsize::new(0));
    let rounds = async {
        let before = server.memory();
        let mut after = Vec::new();
        for round in 0..10 {
            let already_served = served.load(Ordering::SeqCst);
            let open = open(address, MANY).await;
            if round == 0 {
                eventually("all are open", || server.descriptors() > MANY).await;
                let each = server.memory().saturating_sub(before) / MANY;
                assert!(each < EACH, "{each} bytes each");
                eventually("the server closes them", || server.descriptors() < 100).await;
            }
            // In the other rounds, the clients leave and reset their connections, which leaves no state in the kernel.
            for stream in &open {
                stream.set_zero_linger().unwrap();
            }
            drop(open);
            eventually("the connections are gone", || server.descriptors() < 100).await;
            assert!(served.load(Ordering::SeqCst) > already_served, "others were served meanwhile");
            after.push(server.memory());
        }
        // In the first rounds, the allocator keeps more each time.
        assert!(after[9] < after[5] + GROWTH, "{kind}: {before} before, {after:?} after each round");
    };
    tokio::select! {
        () = rounds => {}
        () = use_service(address, &served) => {}
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_connections_take_no_memory_and_others_are_served_in_axum() {
    many_connections_leave_nothing("axum").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_connections_take_no_memory_and_others_are_served_in_actix() {
    many_connections_leave_nothing("actix").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_wait_and_are_all_served() {
    let server = Server::start("limited").await;
    let (address, served) = (server.0.address, AtomicUsize::new(0));
    // Not until the last connection is closed, because the system forgets connections for which its own queue has no
    // room.
    let left = async {
        let each = (0..MANY / 5).map(|_| async {
            let mut client = TcpStream::connect(address).await.unwrap();
            let _ = client.read(&mut [0]).await;
        });
        let _ = timeout(MS * 5000, join_all(each)).await;
    };
    let watch = async {
        loop {
            let open = server.descriptors();
            assert!(open < LIMIT + 40, "{open} descriptors");
            sleep(MS * 5).await;
        }
    };
    tokio::select! {
        () = left => {}
        () = watch => {}
        () = use_service(address, &served) => {}
    }
    assert!(served.load(Ordering::SeqCst) > 0, "others were served meanwhile");
    server.stop().await;
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::exit, clippy::print_stdout, reason = "the parent reads the exit code and stdout")]
fn program_of_the_tests_above() {
    let Ok(kind) = std::env::var(PROGRAM) else { return };
    let (host, left) = (ServiceHost::default(), MS * 8000);
    let report = multi_thread(2).block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // If its queue is full, the system forgets connections whose clients send nothing.
        let listener = socket.listen(4096).unwrap();
        println!("listening on http://{}", listener.local_addr().unwrap());
        if kind == "actix" {
            let listener = listener.into_std().unwrap();
            let app = || App::new().route("/", web::get().to(async || "hello"));
            let serving = actix::serve(host, move |drain| {
                drain.http_server(app).workers(2).client_request_timeout(left).listen(listener)
            });
            return serving.await.unwrap();
        }
        let app = Router::new().route("/", get(async || "hello"));
        let config = match &*kind {
            "limited" => ServeConfig::new().max_connections(LIMIT).first_byte_timeout(Some(MS * 300)),
            // A connection that is counted after its end would take the place of one in a later round.
            _ => ServeConfig::new().max_connections(MANY + 100).first_byte_timeout(Some(left)),
        };
        web_axum::serve(host, listener, app).config(config).await.unwrap()
    });
    std::process::exit(report.exit_code().into());
}
