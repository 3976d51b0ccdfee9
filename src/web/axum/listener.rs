//! [`WatchedListener`], a listener whose connections report whether their client is still connected.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener, TapIo};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::web::ClientLink;

/// Readiness is edge-triggered (epoll, kqueue): it is reported when it begins, not for as long as it lasts.
const HAS_EDGES: bool = cfg!(any(target_os = "linux", target_os = "android", target_vendor = "apple"));

/// A `TcpListener` whose connections report whether their client is still connected. Unix only.
///
/// Pass the listener to `axum::serve`, together with `into_make_service_with_connect_info::<ClientLink>()`, or with a
/// [`MakeLinkedService`](super::MakeLinkedService) if the app extracts `ConnectInfo<SocketAddr>`, too. A request that
/// waits for a permit then leaves the queue when its client disconnects, even if hyper has left bytes unread, such as a
/// pipelined request, or a body that the layer did not read to its end. Without that connect info, the listener has no
/// effect.
///
/// If a client closes the connection after sending more unread bytes than the kernel buffers (about 100 kB), the
/// disconnect is noticed only if the client resets the connection, because the end of the stream has not arrived.
///
/// Handlers get the client's address from `ConnectInfo<ClientLink>`, with [`ClientLink::peer_addr`].
///
/// axum's `tap_io` can be applied before or after the conversion, for instance to set `TCP_NODELAY`:
///
/// ```no_run
/// # use axum::serve::ListenerExt;
/// # use onelane::web::axum::WatchedListener;
/// # use tokio::net::TcpListener;
/// # async fn listen() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:3000").await?.tap_io(|stream| {
///     let _ = stream.set_nodelay(true);
/// });
/// let listener = WatchedListener::from(listener);
/// # drop(listener);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WatchedListener<L = TcpListener>(L);

/// A connection of a [`WatchedListener`]. It gives access to its `TcpStream`, to set socket options.
#[derive(Debug)]
pub struct WatchedStream(Arc<TcpStream>);

impl<L: Listener<Io = TcpStream, Addr = SocketAddr>> From<L> for WatchedListener<L> {
    fn from(listener: L) -> Self {
        Self(listener)
    }
}

impl<L: Listener<Io = TcpStream, Addr = SocketAddr>> Listener for WatchedListener<L> {
    type Io = WatchedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (WatchedStream, SocketAddr) {
        // axum's own implementation waits a moment if the process has run out of file descriptors.
        let (stream, peer) = self.0.accept().await;
        (WatchedStream::new(stream), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl<L> Connected<IncomingStream<'_, WatchedListener<L>>> for ClientLink
where
    L: Listener<Io = TcpStream, Addr = SocketAddr>,
{
    fn connect_info(stream: IncomingStream<'_, WatchedListener<L>>) -> Self {
        stream.io().link()
    }
}

impl<L, F> Connected<IncomingStream<'_, TapIo<WatchedListener<L>, F>>> for ClientLink
where
    L: Listener<Io = TcpStream, Addr = SocketAddr>,
    F: FnMut(&mut WatchedStream) + Send + 'static,
{
    fn connect_info(stream: IncomingStream<'_, TapIo<WatchedListener<L>, F>>) -> Self {
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
        // A link that waits for the client to disconnect shares the stream. The connection must end here nevertheless.
        let _ = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.try_read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Returns a link to the client, for servers other than axum's, which insert it into the requests' extensions.
    #[must_use]
    pub fn link(&self) -> ClientLink {
        ClientLink::new(&self.0)
    }

    /// Reads what has arrived. A short read has emptied the socket, as tokio's own stream assumes too. The stream then
    /// counts as not readable, so that the next read waits without a system call.
    fn try_read(&self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut has_read = false;
        let result = self.0.try_io(Interest::READABLE, || {
            let room = buf.remaining();
            let read = self.0.try_read_buf(buf)?;
            has_read = true;
            // The error clears the readiness that was seen before the read, but none that has been reported since.
            if HAS_EDGES && 0 < read && read < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if has_read { Ok(()) } else { result }
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
        // The kernel has all bytes already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            // The client closed first. tokio's own stream ignores this error too (tokio-rs/tokio#4665).
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
