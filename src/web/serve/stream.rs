//! [`ServedStream`], the I/O of a connection, which reports to its server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::connection_io::ReadEnd;
use super::connections::OpenConnection;
use super::trace;

/// A connection of a server that drains with its host.
#[derive(Debug)]
pub struct ServedStream<S> {
    stream: S,
    open: OpenConnection,
    /// Written bytes are waiting for the client to read them.
    is_writing: bool,
}

impl<S> ServedStream<S> {
    pub(crate) fn new(stream: S, open: OpenConnection) -> Self {
        Self { stream, open, is_writing: false }
    }

    pub(crate) fn connection(&self) -> &std::sync::Arc<Connection> {
        &self.open.connection
    }

    /// Returns the stream that the listener has accepted.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ServedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.open.connection.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            let bytes = &buf.filled()[before..];
            if !bytes.is_empty() {
                this.open.connection.received(bytes);
            }
            return Poll::Ready(result);
        }
        this.open.connection.register_reader(cx.waker());
        // Checked again, because the drain changes this state before it wakes the reader.
        if this.open.connection.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        match this.open.connection.read_end() {
            None => Poll::Pending,
            // The end of the stream: the server closes the connection.
            Some(ReadEnd::Idle) => Poll::Ready(Ok(())),
            Some(end @ (ReadEnd::NoFirstByte | ReadEnd::HeadTooSlow)) => {
                trace::connection_timed_out(end == ReadEnd::HeadTooSlow);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> ServedStream<S> {
    fn set_writing(&mut self, is_writing: bool) {
        if self.is_writing != is_writing {
            self.is_writing = is_writing;
            self.open.connection.set_writing(is_writing);
        }
    }

    /// Writes, and records that the client is slow if the stream does not take all of the `length` bytes at once.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_with(cx, poll);
        if !matches!(written, Poll::Ready(Ok(written)) if written == length) {
            self.set_writing(true);
        }
        if self.open.connection.has_unflushed() && matches!(written, Poll::Ready(Ok(_))) {
            self.open.connection.wrote();
        }
        written
    }

    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.open.connection.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        if let Poll::Ready(result) = poll(Pin::new(&mut self.stream), cx) {
            return Poll::Ready(result);
        }
        self.open.connection.register_writer(cx.waker());
        if self.open.connection.is_cut() { Poll::Ready(Err(cut_off())) } else { Poll::Pending }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ServedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, bytes.len(), |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bytes.iter().map(|bytes| bytes.len()).sum();
        self.poll_write_with(cx, length, |stream, cx| stream.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.poll_with(cx, AsyncWrite::poll_flush);
        if flushed.is_pending() {
            // The stream has buffered bytes that the client has not read.
            self.set_writing(true);
        }
        ready!(flushed)?;
        // The server flushes when it has written everything.
        self.set_writing(false);
        if self.open.connection.has_unflushed() {
            self.open.connection.flushed();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(cx, AsyncWrite::poll_shutdown)
    }
}

#[cold]
fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the server is stopping and no longer waits for this connection")
}
