//! [`ReadAheadBody`], a request body that is read while the request waits, and [`ReplayBody`], which replays it from
//! the start.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};

/// Reads the body of a waiting request, up to a limit, so that the server notices when the client disconnects.
#[derive(Debug)]
pub(super) struct ReadAheadBody<B: Body> {
    body: Pin<Box<B>>,
    frames: VecDeque<Frame<B::Data>>,
    /// The number of bytes of data in `frames`.
    buffered: usize,
    /// The number of bytes that count against `limit`.
    charged: usize,
    limit: usize,
    ended: bool,
}

/// A body whose first frames were read ahead.
#[derive(Debug)]
#[expect(unnameable_types, reason = "only sealed traits use it")]
pub struct ReplayBody<B: Body> {
    body: Pin<Box<B>>,
    frames: VecDeque<Frame<B::Data>>,
    /// The number of bytes of data in `frames`.
    buffered: u64,
    ended: bool,
}

impl<B: Body> ReadAheadBody<B> {
    pub(super) fn new(body: B, limit: usize) -> Self {
        Self { body: Box::pin(body), frames: VecDeque::new(), buffered: 0, charged: 0, limit, ended: false }
    }

    /// Reads up to the limit. Completes only if the body fails.
    ///
    /// Reading stops once more than `limit` bytes are buffered, so that a body of exactly `limit` bytes is read to its
    /// end. A frame is charged at least the memory that the frame itself takes, because a client may send any number of
    /// almost empty frames.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Infallible, B::Error>> {
        while !self.ended && self.charged <= self.limit && self.limit > 0 {
            match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(frame) => {
                    let frame = frame?;
                    let bytes = frame.data_ref().map_or(0, Buf::remaining);
                    self.buffered += bytes;
                    self.charged += bytes.max(size_of::<Frame<B::Data>>());
                    self.frames.push_back(frame);
                }
                None => self.ended = true,
            }
        }
        Poll::Pending
    }

    pub(super) fn into_replay(self) -> ReplayBody<B> {
        ReplayBody { body: self.body, frames: self.frames, buffered: self.buffered as u64, ended: self.ended }
    }
}

impl<B: Body> ReplayBody<B> {
    /// Returns the original body if nothing of it has been read.
    #[cfg(feature = "axum")]
    pub(crate) fn into_untouched(self) -> Result<B, Self>
    where
        B: Unpin,
    {
        if self.frames.is_empty() && !self.ended { Ok(*Pin::into_inner(self.body)) } else { Err(self) }
    }
}

impl<B: Body> Body for ReplayBody<B>
where
    B::Data: Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if let Some(frame) = self.frames.pop_front() {
            self.buffered -= frame.data_ref().map_or(0, |data| data.remaining() as u64);
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended {
            return SizeHint::with_exact(self.buffered);
        }
        let unread = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(unread.lower().saturating_add(self.buffered));
        if let Some(upper) = unread.upper().and_then(|upper| upper.checked_add(self.buffered)) {
            hint.set_upper(upper);
        }
        hint
    }
}
