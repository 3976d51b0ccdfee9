//! [`ClientLink`], which reports if a client is still connected.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// The interval at which the connection is checked while unread bytes hide the end of the stream.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Reports if a client is still connected, even if the server has not read all of the client's requests.
///
/// A server based on hyper does not notice that a client has disconnected while a part of its request, or a request
/// pipelined behind it, is unread. With a link in its extensions, a request that waits for a permit leaves the queue
/// when its client disconnects, and never runs. In axum a [`WatchedListener`](super::axum::WatchedListener) inserts the
/// link. With another server, share the `TcpStream` in an `Arc` and insert a link to it.
///
/// Behind a flight layer, a request that leads a run represents several clients. The link of that request still has the
/// address of the leader's client, but reports that client as connected as long as the run lasts, because the layer
/// watches each client itself.
///
/// A client that has shut down its sending half counts as disconnected, as it does for hyper by default. If a client
/// closes the connection after sending more unread bytes than the kernel buffers, this is not noticed unless the client
/// resets the connection, because the end of the stream has not arrived. Unix only: on other platforms every client
/// counts as connected.
#[derive(Clone, Debug)]
pub struct ClientLink {
    /// `None` if the link belongs to a request that several clients share. The flight layer watches their connections.
    stream: Option<Weak<TcpStream>>,
    peer: Option<SocketAddr>,
}

impl ClientLink {
    /// Creates a link to the client at the other end of `stream`. The link does not keep the connection open, except
    /// while a caller waits for [`gone`](Self::gone): shut down the stream when you no longer need it.
    #[must_use]
    pub fn new(stream: &Arc<TcpStream>) -> Self {
        Self { stream: Some(Arc::downgrade(stream)), peer: stream.peer_addr().ok() }
    }

    /// Returns the client's address.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Returns `true` if the client has closed the connection or its sending half. Costs one system call.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.upgrade().is_none_or(|stream| is_gone(&stream)))
    }

    /// Waits until the client has disconnected.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with a timer, if the client has sent something that the server leaves unread.
    pub async fn gone(&self) {
        let Some(connection) = &self.stream else { return pending().await };
        while let Some(stream) = connection.upgrade() {
            // The stream is readable if the client has sent something that the server leaves unread, or has
            // disconnected.
            let readable = stream.ready(Interest::READABLE).await.is_ok();
            if !readable || is_gone(&stream) {
                return;
            }
            drop(stream);
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Releases the connection: from now on, the client counts as connected. The link keeps the address.
    pub(crate) fn unlink(&mut self) {
        self.stream = None;
    }
}

/// Returns `true` if the stream has ended. Linux reports the end even while bytes before it are unread.
#[cfg(target_os = "linux")]
fn is_gone(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    matches!(poll(&mut fds, Some(&NO_WAIT)), Ok(events) if events > 0)
}

/// Returns `true` if the stream has ended and nothing before its end is unread.
#[cfg(all(unix, not(target_os = "linux")))]
fn is_gone(stream: &TcpStream) -> bool {
    use rustix::io::Errno;
    use rustix::net::{RecvFlags, recv};

    let mut byte = [0_u8; 1];
    match recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, length)) => length == 0,
        Err(error) => error != Errno::AGAIN && error != Errno::INTR,
    }
}

#[cfg(not(unix))]
fn is_gone(_: &TcpStream) -> bool {
    false
}
