//! [`RawClient`], a client whose bytes and disconnects the test controls, and waiting for conditions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a test waits for an expected event. Long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A client that sends bytes as they are.
pub struct RawClient(TcpStream);

/// How a client disconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// It closes the connection in order: the server sees the end of the stream.
    Fin,
    /// It resets the connection, like a process that crashed or lost its network.
    Rst,
}

impl RawClient {
    /// Connects and sends `bytes`.
    pub async fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("the server accepts");
        stream.write_all(bytes.as_ref()).await.expect("the server's kernel accepts the bytes");
        Self(stream)
    }

    /// Reads until `text` has arrived, and returns everything that was read.
    pub async fn read_until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&read).contains(text) {
            let length = timeout(PATIENCE, self.0.read(&mut buffer)).await;
            let length = length.unwrap_or_else(|_| panic!("no {text:?} in {:?}", String::from_utf8_lossy(&read)));
            let length = length.expect("the connection is not reset");
            assert_ne!(length, 0, "the server closed without {text:?}, after {:?}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Sends more on the same connection.
    pub async fn send_again(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the server's kernel accepts the bytes");
    }

    /// Reads and discards until the server closes or resets the connection.
    pub async fn until_closed(&mut self) {
        let mut buffer = [0; 1024];
        let read = async { while self.0.read(&mut buffer).await.is_ok_and(|length| length > 0) {} };
        timeout(PATIENCE, read).await.expect("the server closes the connection");
    }

    /// Shuts down the sending half, which most servers treat as a disconnect, and continues to read.
    pub async fn shut_down(&mut self) {
        self.0.shutdown().await.expect("the client is connected");
    }

    /// Disconnects.
    pub async fn disconnect(mut self, how: Disconnect) {
        match how {
            // Closing alone would reset the connection if a response is unread.
            Disconnect::Fin => self.0.shutdown().await.expect("the client is connected"),
            Disconnect::Rst => self.0.set_zero_linger().expect("the client is connected"),
        }
    }
}

/// A client that opens a connection for each request, and never uses a proxy.
pub fn web_client() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(PATIENCE);
    builder.build().expect("the client needs nothing that may be missing")
}

/// Waits until `condition` holds.
///
/// In real time: with sockets the kernel sets the pace, and a paused clock would run ahead of it.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "timed out: {what}");
        // The condition changes in other threads and processes.
        sleep(Duration::from_millis(2)).await;
    }
}
