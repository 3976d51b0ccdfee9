//! What the guard costs per request, over real sockets: an axum echo without a layer, with a layer that does nothing,
//! behind the guard, and behind tower's limit. Ids are `group/variant`; one element is one request.
//!
//! `cargo bench --features full --bench http`
//!
//! The machine's noise is larger than the layer's cost. So after criterion's own figures the variants take turns in
//! short rounds, and the line `axum_echo ratio` prints the median of the ratios of all rounds.

#![allow(clippy::print_stdout, reason = "it prints the ratios")]

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use criterion::{Criterion, Throughput};
use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tower::Service;
use tower::limit::GlobalConcurrencyLimitLayer;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 150;
const ROUND: u64 = 4_000;
const REQUEST: &[u8] = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";

static GUARD: EndpointGuard = EndpointGuard::builder("echo").permits(1024).build();

fn echo() -> Router {
    Router::new().route("/echo", post(|body: String| async move { body }))
}

/// A layer that does nothing: the cost of any layer in axum.
#[derive(Clone)]
struct NoOp<S>(S);

impl<S: Service<R>, R> Service<R> for NoOp<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

/// Serves `app` on its own thread, so that the server limits the rate.
fn serve(app: Router) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let address = listener.local_addr().expect("the listener is bound");
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).expect("it is non-blocking");
            axum::serve(listener, app).await
        })
    });
    address
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A client with open connections.
struct Client {
    runtime: Runtime,
    connections: Vec<TcpStream>,
    /// The length of a response, which is the same for all.
    length: usize,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let runtime = runtime();
        let (connections, length) = runtime.block_on(async {
            let mut connections = Vec::new();
            let mut length = 0;
            for _ in 0..CONNECTIONS {
                let mut connection = TcpStream::connect(address).await.expect("the server listens");
                connection.set_nodelay(true).expect("a TCP socket");
                connection.write_all(REQUEST).await.expect("the server reads");
                let mut response = [0; 1024];
                length = connection.read(&mut response).await.expect("the server answers");
                assert!(response[..length].ends_with(b"\r\n\r\nhello"), "one read brings one response");
                connections.push(connection);
            }
            (connections, length)
        });
        Self { runtime, connections, length }
    }

    /// Sends `requests` over all connections and waits for the responses.
    fn run(&mut self, requests: u64) -> Duration {
        let each = requests.div_ceil(CONNECTIONS as u64);
        let length = self.length;
        let connections = &mut self.connections;
        self.runtime.block_on(async {
            let start = Instant::now();
            let clients = connections.iter_mut().map(|connection| async move {
                let mut response = vec![0; length];
                for _ in 0..each {
                    connection.write_all(REQUEST).await.expect("the server reads");
                    connection.read_exact(&mut response).await.expect("the server answers");
                    assert!(response.starts_with(b"HTTP/1.1 200") && response.ends_with(b"hello"));
                }
            });
            futures::future::join_all(clients).await;
            start.elapsed()
        })
    }
}

fn axum_echo(c: &mut Criterion) {
    let variants = [
        ("no_layer", echo()),
        ("no_op_layer", echo().layer(tower::layer::layer_fn(NoOp))),
        ("onelane", echo().layer(GuardLayer::new(&GUARD))),
        ("tower_concurrency_limit", echo().layer(GlobalConcurrencyLimitLayer::new(1024))),
    ];
    let mut clients: Vec<_> = variants.map(|(name, app)| (name, Client::connect(serve(app)))).into();
    let mut group = c.benchmark_group("axum_echo");
    group.throughput(Throughput::Elements(1));
    for (name, client) in &mut clients {
        group.bench_function(*name, |b| b.iter_custom(|requests| client.run(requests)));
    }
    group.finish();
    // Not if the benches are only listed or tested.
    if std::env::args().any(|argument| argument == "--bench") {
        print_ratios(&mut clients);
    }
}

/// Requests per second of each variant, relative to the first one.
fn print_ratios(clients: &mut [(&str, Client)]) {
    let mut ratios = vec![Vec::new(); clients.len()];
    for round in 0..ROUNDS {
        let mut times = vec![0.0; clients.len()];
        // Each round starts with another variant, so that none profits from its position.
        for i in 0..clients.len() {
            let i = (i + round) % clients.len();
            times[i] = clients[i].1.run(ROUND).as_secs_f64();
        }
        for (ratios, time) in ratios.iter_mut().zip(&times) {
            ratios.push(times[0] / time);
        }
    }
    for ((name, _), ratios) in clients.iter().zip(&mut ratios).skip(1) {
        ratios.sort_by(f64::total_cmp);
        let quantile = |q: f64| ratios[((ratios.len() - 1) as f64 * q) as usize];
        println!(
            "axum_echo ratio {name}/no_layer: {:.4} (requests a second; median of {ROUNDS} rounds of {ROUND}; quartiles {:.4} to {:.4})",
            quantile(0.5),
            quantile(0.25),
            quantile(0.75),
        );
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    axum_echo(&mut criterion);
    criterion.final_summary();
    // Every request held a permit, and all permits are released now.
    assert_eq!(GUARD.stats().held, 0);
}
