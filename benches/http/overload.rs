//! The benefit of a bounded queue under overload.
//!
//! The server has one core, and each request computes for 1 ms in four slices, between which other requests may run.
//! The clients are another process on the other core. They arrive at random and do not wait for each other (an open
//! loop), and each gives up after 500 ms. A good server spends its time on requests whose clients still wait.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::http::StatusCode;
use axum::routing::get;
use onelane::guard::EndpointGuardBuilder;
use onelane::web::axum::GuardLayer;
use onelane::{EndpointGuard, Queue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{LocalSet, yield_now};
use tokio::time::{sleep_until, timeout};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_resilience_bulkhead::{BulkheadLayer, BulkheadServiceError};

use crate::harness::{is_measured, is_selected};
use crate::refusal::load_shed;
use crate::server::{runtime, serve_here};

/// Names the variant that a server process serves.
const VARIANT: &str = "ONELANE_BENCH_VARIANT";
const SLICES: u32 = 4;
const SLICE: Duration = Duration::from_micros(250);
/// The number of concurrent requests that keeps the core busy.
const PERMITS: usize = 2;
const PATIENCE: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_millis(100);
const LOADS: [f64; 3] = [0.5, 3.0, 6.0];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn compute() -> &'static str {
    for _ in 0..SLICES {
        let start = Instant::now();
        while start.elapsed() < SLICE {
            std::hint::spin_loop();
        }
        yield_now().await;
    }
    "done"
}

fn guarded(builder: EndpointGuardBuilder) -> Router {
    app().layer(GuardLayer::new(builder.permits(PERMITS).build()))
}

fn app() -> Router {
    Router::new().route("/", get(compute))
}

fn bulkhead() -> Router {
    let on_error = HandleErrorLayer::new(async |_: BulkheadServiceError<Infallible>| StatusCode::SERVICE_UNAVAILABLE);
    let bulkhead = BulkheadLayer::builder().max_concurrent_calls(PERMITS).max_wait_duration(MAX_WAIT).build();
    app().layer(ServiceBuilder::new().layer(on_error).layer(bulkhead.expect("the limits are valid")))
}

type Variant = (&'static str, fn() -> Router);

const VARIANTS: [Variant; 7] = [
    ("no limit", app),
    ("tower_limit", || app().layer(GlobalConcurrencyLimitLayer::new(PERMITS))),
    ("tower_load_shed", || load_shed(app(), GlobalConcurrencyLimitLayer::new(PERMITS))),
    ("bulkhead", bulkhead),
    ("onelane_queue_64", || guarded(EndpointGuard::builder("work").queue(Queue::Bounded(64)))),
    ("onelane_max_wait", || guarded(EndpointGuard::builder("work").max_wait(MAX_WAIT))),
    ("onelane_reject", || guarded(EndpointGuard::builder("work").queue(Queue::Reject))),
];

/// Serves requests until the process is killed, if this process was started as a server.
pub(crate) fn serve_if_asked() -> bool {
    let Ok(variant) = std::env::var(VARIANT) else { return false };
    let (_, app) = VARIANTS.iter().find(|(name, _)| *name == variant).expect("the parent names a variant");
    pin_to_core(0);
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    println!("{}", listener.local_addr().expect("the listener is bound").port());
    serve_here(&runtime(), listener, app());
    true
}

#[cfg(target_os = "linux")]
fn pin_to_core(core: usize) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut cores = CpuSet::new();
    cores.set(core);
    // Fails on a machine with fewer cores. The benchmark still runs there, but its clients compete with the server.
    let _ = sched_setaffinity(None, &cores);
}

#[cfg(not(target_os = "linux"))]
fn pin_to_core(_: usize) {}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(variant: &str) -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        let mut process =
            Command::new(this).env(VARIANT, variant).stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut port = String::new();
        let output = process.stdout.take().expect("the output is piped");
        BufReader::new(output).read_line(&mut port).expect("the server prints its port");
        let port = port.trim().parse().expect("a port is a number");
        Self { process, address: (Ipv4Addr::LOCALHOST, port).into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("the server runs until it is killed");
        self.process.wait().expect("the server ends");
    }
}

/// The times of the requests that were served in time.
type Served = Rc<RefCell<Vec<Duration>>>;
/// Idle connections, which the next requests reuse.
type Idle = Rc<RefCell<Vec<TcpStream>>>;

/// Sends one request. The client closes its connection if it gives up.
async fn request(address: SocketAddr, idle: Idle, served: Served) {
    let start = Instant::now();
    let exchange = async {
        let unused = idle.borrow_mut().pop();
        let mut stream = match unused {
            Some(stream) => stream,
            None => TcpStream::connect(address).await?,
        };
        stream.write_all(REQUEST).await?;
        let status = read_response(&mut stream).await?;
        idle.borrow_mut().push(stream);
        std::io::Result::Ok(status)
    };
    if let Ok(Ok(200)) = timeout(PATIENCE, exchange).await {
        served.borrow_mut().push(start.elapsed());
    }
}

async fn read_response(stream: &mut TcpStream) -> std::io::Result<u16> {
    let mut response = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&response);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Ok(head[9..12].parse().expect("a status is a number"));
        }
    }
}

/// Sends requests at `rate` per second, and returns the times of those that were served, in order.
fn measure(address: SocketAddr, rate: f64, time: Duration) -> Vec<Duration> {
    let (served, idle) = (Served::default(), Idle::default());
    runtime().block_on(LocalSet::new().run_until(async {
        let (start, mut due) = (tokio::time::Instant::now(), Duration::ZERO);
        while due < time {
            sleep_until(start + due).await;
            tokio::task::spawn_local(request(address, Rc::clone(&idle), Rc::clone(&served)));
            due += Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / rate);
        }
        tokio::time::sleep(PATIENCE).await;
    }));
    let mut served = served.take();
    served.sort();
    served
}

/// Returns the number of requests per second that the server serves to two clients. Each client sends its next request
/// as soon as it has received a response.
fn capacity(time: Duration) -> f64 {
    let server = Server::start("no limit");
    let served = runtime().block_on(async {
        let client = async || {
            let mut stream = TcpStream::connect(server.address).await.expect("the server listens");
            let (start, mut served) = (Instant::now(), 0);
            while start.elapsed() < time {
                stream.write_all(REQUEST).await.expect("the server reads");
                assert_eq!(read_response(&mut stream).await.expect("the server answers"), 200);
                served += 1;
            }
            served
        };
        let (first, second) = tokio::join!(client(), client());
        first + second
    });
    f64::from(served) / time.as_secs_f64()
}

pub(crate) fn overload() {
    if !is_selected("overload") {
        return;
    }
    pin_to_core(1);
    let time = if is_measured() { Duration::from_secs(5) } else { Duration::from_millis(50) };
    let capacity = capacity(time);
    println!("overload: the capacity is {capacity:.0} requests per second; the clients give up after {PATIENCE:?}");
    for load in LOADS {
        for (variant, _) in VARIANTS {
            let server = Server::start(variant);
            let served = measure(server.address, capacity * load, time);
            let rate = served.len() as f64 / time.as_secs_f64();
            let p99 = served.get(served.len() * 99 / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
            println!(
                "overload {load} x {variant:<17}: {rate:>5.0} served in time per second ({:.2} of the capacity), p99 {p99:>4.0} ms",
                rate / capacity
            );
            assert!(load > 1.0 || !served.is_empty(), "{variant} serves requests if the load is low");
        }
    }
}
