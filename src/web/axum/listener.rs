//! [`WatchedListener`], a listener whose connections tell whether their client is still there.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::web::ClientLink;

/// A `TcpListener` whose connections tell whether their client is still there. Unix only.
///
/// Serve with it and `into_make_service_with_connect_info::<ClientLink>()`, and a request that waits for its turn
/// leaves the queue when its client leaves, though hyper has left something unread: a pipelined request, a body that the
/// layer did not read to its end. (A client that closes behind more than the kernel's buffers hold, some 100 kB, is seen
/// only if it breaks off: the end of its stream has not arrived.) Served without that connect info, it does nothing.
///
/// Handlers find the client's address in `ConnectInfo<ClientLink>`, as [`ClientLink::peer_addr`]; what extracts
/// `ConnectInfo<SocketAddr>` finds nothing there.
#[derive(Debug)]
pub struct WatchedListener(TcpListener);

/// A connection of a [`WatchedListener`]. Its `TcpStream` is at hand, to set options.
#[derive(Debug)]
pub struct WatchedStream(Arc<TcpStream>);

impl From<TcpListener> for WatchedListener {
    fn from(listener: TcpListener) -> Self {
        Self(listener)
    }
}

impl Listener for WatchedListener {
    type Io = WatchedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (WatchedStream, SocketAddr) {
        // axum's own listener: it waits a moment where the process has run out of file descriptors.
        let (stream, peer) = Listener::accept(&mut self.0).await;
        (WatchedStream(Arc::new(stream)), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, WatchedListener>> for ClientLink {
    fn connect_info(stream: IncomingStream<'_, WatchedListener>) -> Self {
        stream.io().link()
    }
}

impl AsRef<TcpStream> for WatchedStream {
    fn as_ref(&self) -> &TcpStream {
        &self.0
    }
}

impl Drop for WatchedStream {
    fn drop(&mut self) {
        // A link that waits for the client to go shares the stream: the connection ends here all the same.
        let _ = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

impl WatchedStream {
    /// A link to the client, for servers other than axum's, which insert it into the requests' extensions.
    #[must_use]
    pub fn link(&self) -> ClientLink {
        ClientLink::new(&self.0)
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has every byte already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            // The client was quicker. tokio's own stream makes nothing of it either (tokio-rs/tokio#4665).
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
