//! A client that keeps connections open and sends the same request repeatedly.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::server::runtime;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 150;
const ROUND: u64 = 4_000;
const REQUEST: &[u8] = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello";

/// A client with open connections.
pub(crate) struct Client {
    runtime: Runtime,
    connections: Vec<TcpStream>,
    /// The beginning of every response.
    status: &'static str,
    /// The length of a response. All responses have the same length.
    length: usize,
}

impl Client {
    /// Connects to a server whose responses begin with `status`.
    pub(crate) fn connect(address: SocketAddr, status: &'static str) -> Self {
        let runtime = runtime();
        let (connections, length) = runtime.block_on(async {
            let mut connections = Vec::new();
            let mut length = 0;
            for _ in 0..CONNECTIONS {
                let mut connection = TcpStream::connect(address).await.expect("the server listens");
                connection.set_nodelay(true).expect("a TCP socket");
                connection.write_all(REQUEST).await.expect("the server reads");
                let mut response = [0; 2048];
                length = connection.read(&mut response).await.expect("the server answers");
                assert!(response.starts_with(status.as_bytes()), "the server answers with {status}");
                connections.push(connection);
            }
            (connections, length)
        });
        Self { runtime, connections, status, length }
    }

    /// Sends `requests` over all connections and waits for the responses.
    pub(crate) fn run(&mut self, requests: u64) -> Duration {
        let each = requests.div_ceil(CONNECTIONS as u64);
        let Self { runtime, connections, status, length } = self;
        runtime.block_on(async {
            let start = Instant::now();
            let clients = connections.iter_mut().map(|connection| async {
                let mut response = vec![0; *length];
                for _ in 0..each {
                    connection.write_all(REQUEST).await.expect("the server reads");
                    connection.read_exact(&mut response).await.expect("the server answers");
                    assert!(response.starts_with(status.as_bytes()), "the server answers with {status}");
                }
            });
            futures::future::join_all(clients).await;
            start.elapsed()
        })
    }
}

/// Prints the requests per second of each variant, relative to the first one.
pub(crate) fn print_ratios(group: &str, clients: &mut [(&str, Client)]) {
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
    let base = clients[0].0;
    for ((name, _), ratios) in clients.iter().zip(&mut ratios).skip(1) {
        ratios.sort_by(f64::total_cmp);
        let quantile = |q: f64| ratios[((ratios.len() - 1) as f64 * q) as usize];
        println!(
            "{group} ratio {name}/{base}: {:.4} (requests per second; median of {ROUNDS} rounds of {ROUND}; quartiles {:.4} to {:.4})",
            quantile(0.5),
            quantile(0.25),
            quantile(0.75),
        );
    }
}
