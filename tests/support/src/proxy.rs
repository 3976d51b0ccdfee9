//! [`Proxy`], a TCP proxy that disturbs its connections.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// What a proxy does with its connections, old and new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Bytes pass.
    Nothing,
    /// Connections are closed.
    Closed,
    /// Connections stay open, and no byte passes, until this ends.
    Silent,
    /// As `Silent`, but the connections of this time stay silent until the client closes them.
    Lost,
    /// The server's bytes don't reach the client, which reads the end of the stream. The client's bytes pass.
    HalfClosed,
    /// Each piece of data is late.
    Late(Duration),
}

/// A proxy on a free port. Dropping it closes its connections.
pub struct Proxy {
    pub address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    disturbance: watch::Sender<Disturbance>,
    requests: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let (disturbance, receiver) = watch::channel(Disturbance::Nothing);
        let requests = Arc::new(AtomicUsize::new(0));
        let (counter, target) = (Arc::clone(&requests), Arc::new(Mutex::new(target)));
        let current_target = Arc::clone(&target);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let target = *current_target.lock().expect("no thread panics with the mutex held");
                tokio::spawn(forward(client, target, receiver.clone(), Arc::clone(&counter)));
            }
        });
        Self { address, target, disturbance, requests, accepting: accepting.abort_handle() }
    }

    pub fn disturb(&self, disturbance: Disturbance) {
        self.disturbance.send_replace(disturbance);
    }

    /// Sends new connections to another server.
    pub fn redirect(&self, target: SocketAddr) {
        *self.target.lock().expect("no thread panics with the mutex held") = target;
    }

    /// Returns how many pieces of data clients have sent. A client that waits for each response sends one per round trip.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.disturbance.send_replace(Disturbance::Closed);
        self.accepting.abort();
    }
}

async fn forward(
    client: TcpStream,
    target: SocketAddr,
    disturbance: watch::Receiver<Disturbance>,
    requests: Arc<AtomicUsize>,
) -> io::Result<()> {
    if *disturbance.borrow() == Disturbance::Closed {
        return Ok(());
    }
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let requested = copy(from_client, to_server, disturbance.clone(), Some(requests));
    // The end of one direction ends the other one.
    tokio::select! {
        result = requested => result,
        result = copy(from_server, to_client, disturbance, None) => result,
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut disturbance: watch::Receiver<Disturbance>,
    requests: Option<Arc<AtomicUsize>>,
) -> io::Result<()> {
    let mut data = vec![0; 64 << 10];
    loop {
        let now = *disturbance.borrow_and_update();
        match now {
            Disturbance::Closed => return Ok(()),
            Disturbance::HalfClosed if requests.is_none() => to.shutdown().await?,
            Disturbance::Lost if requests.is_some() => {
                // Reads only to notice that the client closes the connection.
                while from.read(&mut data).await? > 0 {}
                return Ok(());
            }
            Disturbance::Lost => pending().await,
            _ => {}
        }
        tokio::select! {
            changed = disturbance.changed() => if changed.is_err() { return Ok(()) },
            length = from.read(&mut data), if now != Disturbance::Silent => {
                let length = length?;
                if length == 0 {
                    return Ok(());
                }
                if let Disturbance::Late(delay) = now {
                    sleep(delay).await;
                }
                if let Some(requests) = &requests {
                    requests.fetch_add(1, Ordering::SeqCst);
                }
                if now == Disturbance::HalfClosed && requests.is_none() {
                    continue;
                }
                to.write_all(&data[..length]).await?;
            }
        }
    }
}
