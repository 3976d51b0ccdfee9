//! Clients that notice which of their requests are lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use support::client::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A request, and how it ended.
#[derive(Debug)]
pub(super) struct Sent {
    /// `None` if the connection was refused.
    pub(super) at: Option<Instant>,
    /// `None` if the connection ended without a response.
    pub(super) response: Option<(u16, Value)>,
}

/// Sends a request over a new connection.
pub(super) async fn post_limit(address: SocketAddr) -> Sent {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Sent { at: None, response: None } };
    let request = "POST /limit HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let written: io::Result<()> = stream.write_all(request.as_bytes()).await;
    let at = written.is_ok().then(Instant::now);
    let mut text = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("the request is answered");
    let response = read.ok().and_then(|_| {
        let status = text.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n")?.1;
        // A body in chunks would not be JSON here, but actix-web sends none.
        Some((status, serde_json::from_str(body).unwrap_or_else(|_| json!(body))))
    });
    Sent { at, response }
}

/// Clients that send one request after the other to a server, until they are stopped or the server is gone.
pub(super) struct Clients {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Sent>>>,
}

impl Clients {
    pub(super) fn start(address: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !stop.load(Ordering::SeqCst) && all.last().is_none_or(|sent: &Sent| sent.response.is_some()) {
                    all.push(post_limit(address).await);
                }
                all
            })
        };
        Self { clients: (0..count).map(client).collect(), stop }
    }

    pub(super) async fn end(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for client in self.clients {
            all.extend(client.await.expect("the client does not panic"));
        }
        all
    }
}

/// Checks that each request that was sent before `stopped` was answered, and returns the tokens of the responses.
pub(super) fn check_responses(requests: &[Sent], stopped: Option<Instant>) -> Vec<u64> {
    let mut tokens = Vec::new();
    for request in requests {
        match &request.response {
            Some((status, body)) => {
                assert_eq!(*status, 200, "{body}");
                tokens.push(body["token"].as_u64().unwrap_or_else(|| panic!("{body}")));
            }
            None => {
                let stopped = stopped.unwrap_or_else(|| panic!("{request:?} is not answered"));
                assert!(request.at.is_none_or(|at| at >= stopped), "{request:?} is not answered, {stopped:?}");
            }
        }
    }
    tokens
}
