//! [`HandshakeListener`], a listener whose connections begin with a handshake, such as that of TLS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::debug::impl_debug;

/// A listener whose connections begin with a handshake, such as that of TLS.
///
/// The handshake takes place when the server reads from the connection for the first time. The handshake therefore
/// delays no other client, and [`serve`](super::serve()) limits, counts and drains the connection like one without a
/// handshake.
///
/// # Examples
///
/// With TLS, `acceptor` is a `tokio_rustls::TlsAcceptor`. Its configuration lists `h2` and `http/1.1` as ALPN
/// protocols.
///
/// ```no_run
/// # use axum::Router;
/// # use onelane::ServiceHost;
/// # use onelane::background::{BoxError, ShutdownReport};
/// # use tokio::net::{TcpListener, TcpStream};
/// use onelane::web::axum::{HandshakeListener, serve};
///
/// # struct Acceptor;
/// # impl Acceptor {
/// #     fn accept(&self, stream: TcpStream) -> std::future::Ready<std::io::Result<TcpStream>> {
/// #         std::future::ready(Ok(stream))
/// #     }
/// # }
/// # async fn run(host: ServiceHost, app: Router, acceptor: Acceptor) -> Result<ShutdownReport, BoxError> {
/// let listener = TcpListener::bind("0.0.0.0:443").await?;
/// let listener = HandshakeListener::new(listener, move |stream| acceptor.accept(stream));
/// Ok(serve(host, listener, app).await?)
/// # }
/// ```
pub struct HandshakeListener<L, F> {
    listener: L,
    handshake: F,
}

/// A connection of a [`HandshakeListener`].
pub struct HandshakeStream<S>(HandshakeState<S>);

enum HandshakeState<S> {
    InProgress(Pin<Box<dyn Future<Output = io::Result<S>> + Send>>),
    Open(S),
    Failed,
}

impl<L, F> HandshakeListener<L, F> {
    /// Creates a listener that calls `handshake` with each connection that `listener` accepts.
    pub fn new(listener: L, handshake: F) -> Self {
        Self { listener, handshake }
    }
}

impl<L, F, R, S> Listener for HandshakeListener<L, F>
where
    L: Listener,
    F: FnMut(L::Io) -> R + Send + 'static,
    R: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = HandshakeStream<S>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (HandshakeStream<S>, L::Addr) {
        let (stream, address) = self.listener.accept().await;
        (HandshakeStream(HandshakeState::InProgress(Box::pin((self.handshake)(stream)))), address)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

impl<S: Unpin> HandshakeStream<S> {
    /// Waits until the handshake has ended.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut S>>> {
        if let HandshakeState::InProgress(handshake) = &mut self.0 {
            let result = ready!(handshake.as_mut().poll(cx));
            self.0 = HandshakeState::Failed;
            self.0 = HandshakeState::Open(result?);
        }
        Poll::Ready(match &mut self.0 {
            HandshakeState::Open(stream) => Ok(Pin::new(stream)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HandshakeStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HandshakeStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        // The server asks before the handshake, and the streams of rustls support vectored writes.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            HandshakeState::Open(stream) => Pin::new(stream).poll_flush(cx),
            // Nothing has been written.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            HandshakeState::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl_debug!([L: std::fmt::Debug, F] HandshakeListener<L, F> |this| { listener: this.listener, .. });

impl_debug!([S] HandshakeStream<S> |this| { is_open: matches!(this.0, HandshakeState::Open(_)), .. });
