//! [`ServedListener`], a listener whose connections are counted, limited and drained.

use std::any::{Any, TypeId};
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::debug::impl_debug;
use crate::web::ClientLink;
use crate::web::axum::WatchedStream;
use crate::web::serve::{Connections, ServedStream};

/// How long the listener checks for connections that have arrived, before it closes. The runtime reports such
/// connections once it has nothing else to do, or after a few tasks. A listener that does more than accept connections,
/// such as a TLS handshake, gets as much time as connections get to linger.
const LAST_LOOK: Duration = Duration::from_millis(1);
/// How long the listener accepts connections that arrive during these checks. If several processes share the listener,
/// more connections always arrive, and other processes accept them.
const LAST_LOOKS: Duration = Duration::from_millis(10);

/// A listener whose connections are counted, limited and drained. Created by [`serve`](super::serve()).
pub struct ServedListener<L> {
    /// `None` once the server accepts no more connections.
    listener: Option<L>,
    closes_at: Option<Instant>,
    connections: Arc<Connections>,
}

/// A connection whose client is watched, if it is a TCP stream.
#[derive(Debug)]
pub enum WatchedIo<S> {
    /// A TCP stream.
    Watched(WatchedStream),
    /// Another kind of stream, such as one with TLS.
    Other(S),
}

impl<L> ServedListener<L> {
    pub(super) fn new(listener: L, connections: Arc<Connections>) -> Self {
        Self { listener: Some(listener), closes_at: None, connections }
    }
}

impl<L: Listener> Listener for ServedListener<L> {
    type Io = ServedStream<WatchedIo<L::Io>>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, L::Addr) {
        let Some(listener) = &mut self.listener else { return pending().await };
        if self.connections.is_full() {
            // The limit holds while the server drains, too: all connections that have arrived are served, but no more
            // at a time.
            self.connections.has_room().await;
            self.closes_at = None;
        }
        let accepted = {
            let mut accepted = pin!(listener.accept());
            let mut stopped = pin!(self.connections.stopped_accepting());
            let before_stop = poll_fn(|cx| match stopped.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => accepted.as_mut().poll(cx).map(Some),
            });
            match before_stop.await {
                Some(accepted) => Some(accepted),
                // Closing the listener resets the connections in the queue of the operating system, and the one that
                // the listener is about to accept.
                None => {
                    let last_look = if is_tcp::<L::Io>() { LAST_LOOK } else { self.connections.linger() };
                    let now = Instant::now();
                    let closes_at = *self.closes_at.get_or_insert_with(|| now + last_look.max(LAST_LOOKS));
                    timeout_at(closes_at.min(now + last_look), accepted).await.ok()
                }
            }
        };
        if let Some((stream, address)) = accepted {
            return (ServedStream::new(WatchedIo::new(stream), self.connections.open()), address);
        }
        self.listener = None;
        self.connections.accepted_all();
        pending().await
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the listener is closed: the server drains");
        self.listener.as_ref().ok_or_else(closed)?.local_addr()
    }
}

/// Returns `true` if the streams are connections of a `TcpListener`, which takes no extra time to accept one.
fn is_tcp<S: 'static>() -> bool {
    let kind = TypeId::of::<S>();
    kind == TypeId::of::<TcpStream>() || kind == TypeId::of::<WatchedStream>()
}

impl<S: 'static> WatchedIo<S> {
    fn new(stream: S) -> Self {
        let mut stream = Some(stream);
        let any: &mut dyn Any = &mut stream;
        if let Some(tcp) = any.downcast_mut::<Option<TcpStream>>().and_then(Option::take) {
            return Self::Watched(WatchedStream::new(tcp));
        }
        if let Some(watched) = any.downcast_mut::<Option<WatchedStream>>().and_then(Option::take) {
            return Self::Watched(watched);
        }
        Self::Other(stream.expect("only the two types above are taken"))
    }

    pub(super) fn link(&self) -> Option<ClientLink> {
        match self {
            Self::Watched(stream) => Some(stream.link()),
            Self::Other(_) => None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Watched(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Other(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Watched(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Watched(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Other(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Watched(stream) => stream.is_write_vectored(),
            Self::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Watched(stream) => Pin::new(stream).poll_flush(cx),
            Self::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Watched(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl_debug!([L] ServedListener<L> |this| { connections: this.connections, .. });
