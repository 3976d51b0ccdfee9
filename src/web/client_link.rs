//! [`ClientLink`], a look at whether a client is still there.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How often to look again while unread bytes hide the end of the stream.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A look at whether a client is still there, whatever the server has left unread of its requests.
///
/// A server based on hyper does not notice that a client has left while a part of its request, or a request that it
/// pipelined behind, is unread. With this in the request's extensions, a request that waits for its turn leaves the
/// queue when its client goes, and never runs. In axum a [`WatchedListener`](super::axum::WatchedListener) puts it
/// there; with another server, share the `TcpStream` in an `Arc` and insert a link to it.
///
/// A client that has shut down its sending half counts as gone, as it does for hyper by default. One that closes behind
/// more unread bytes than the kernel has room for can't be seen to go, unless it breaks off: the end of its stream has
/// not arrived. Unix only: elsewhere every client counts as present.
#[derive(Clone, Debug)]
pub struct ClientLink {
    stream: Weak<TcpStream>,
    peer: Option<SocketAddr>,
}

impl ClientLink {
    /// A link to the client at the other end of `stream`. It does not keep the connection open, except while
    /// [`gone`](Self::gone) is waited for: shut the stream down when you are done with it.
    #[must_use]
    pub fn new(stream: &Arc<TcpStream>) -> Self {
        Self { stream: Arc::downgrade(stream), peer: stream.peer_addr().ok() }
    }

    /// The client's address.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether the client has closed the connection, or its sending half. One system call.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.stream.upgrade().is_none_or(|stream| is_gone(&stream))
    }

    /// Waits until the client has gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    ///
    /// # Panics
    ///
    /// If the client has sent what the server leaves unread, outside of a tokio runtime with a timer.
    pub async fn gone(&self) {
        while let Some(stream) = self.stream.upgrade() {
            // Readable: the client has sent something that the server leaves unread, or it has gone.
            let readable = stream.ready(Interest::READABLE).await.is_ok();
            if !readable || is_gone(&stream) {
                return;
            }
            drop(stream);
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// The kernel tells about the end of the stream also while bytes before it are unread.
#[cfg(target_os = "linux")]
fn is_gone(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    let mut look = [PollFd::new(stream, PollFlags::RDHUP)];
    matches!(poll(&mut look, Some(&AT_ONCE)), Ok(events) if events > 0)
}

/// Sees the end of the stream once nothing before it is unread.
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
