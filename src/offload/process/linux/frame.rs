//! The messages between a server and a worker: a header of fixed length, then a body.
//!
//! The worker trusts the server. The server does not trust the worker, whose memory a task may have overwritten: it
//! checks each header, and takes memory only for bytes that have arrived.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::offload::process::function::Function;

/// The least and the greatest number of bytes for which memory is taken before they arrive.
const SMALL: usize = 4 << 10;
const CHUNK: usize = 1 << 20;
/// How much memory is kept for the next reply.
const KEPT: usize = 32 << 20;

/// What comes first in a request. The rest is a [`RequestMeta`], unless its length is 0, and the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub(super) function: [u8; Function::LENGTH],
    /// How long the caller waits.
    pub(super) budget: Option<Duration>,
    /// The greatest level of `tracing` events that the server wants, from 1 for errors to 5. 0 for none.
    pub(super) level: u8,
    pub(super) meta_length: u64,
    pub(super) arguments_length: u64,
}

impl RequestHeader {
    pub(super) const LENGTH: usize = Function::LENGTH + 8 + 1 + 8 + 8;

    pub(super) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let budget = self.budget.map_or(u64::MAX, |budget| u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX));
        let mut bytes = [0; Self::LENGTH];
        bytes[..16].copy_from_slice(&self.function);
        bytes[16..24].copy_from_slice(&budget.to_le_bytes());
        bytes[24] = self.level;
        bytes[25..33].copy_from_slice(&self.meta_length.to_le_bytes());
        bytes[33..].copy_from_slice(&self.arguments_length.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let budget = number(&bytes[16..24]);
        Self {
            function: bytes[..16].try_into().expect("a function has this length"),
            budget: (budget != u64::MAX).then(|| Duration::from_nanos(budget)),
            level: bytes[24],
            meta_length: number(&bytes[25..33]),
            arguments_length: number(&bytes[33..]),
        }
    }
}

/// What the worker knows of a task, besides its function and its arguments.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RequestMeta {
    /// Empty if the task has no label.
    pub(super) label: String,
    /// The guards and flights that the task's caller is inside: the distance of each, and a number within it.
    pub(super) scopes: Vec<(i64, u64)>,
}

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ReplyKind {
    /// The worker is ready for its first task.
    Ready = 1,
    /// The result of the function.
    Done = 2,
    /// A [`RemotePanic`].
    Panicked = 3,
    /// A text: the arguments or the result can't be converted.
    Codec = 4,
    /// A [`RemoteEvent`]. The task goes on.
    Event = 5,
}

/// A panic in a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RemotePanic {
    pub(super) message: String,
    pub(super) location: Option<String>,
}

/// A `tracing` event in a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RemoteEvent {
    /// From 1 for errors to 5.
    pub(super) level: u8,
    pub(super) target: String,
    pub(super) message: String,
    /// All other fields, as `name=value`.
    pub(super) fields: String,
}

/// Returns the number of a level: from 1 for errors to 5.
pub(super) fn level_number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// The length of the header of a reply: its kind, and the length of its body.
pub(super) const REPLY_HEADER: usize = 1 + 8;

pub(super) fn reply_header(kind: ReplyKind, length: usize) -> [u8; REPLY_HEADER] {
    let mut bytes = [0; REPLY_HEADER];
    bytes[0] = kind as u8;
    bytes[1..].copy_from_slice(&(length as u64).to_le_bytes());
    bytes
}

/// The replies of one worker while they arrive.
#[derive(Debug, Default)]
pub(super) struct ReplyBuffer {
    bytes: Vec<u8>,
    /// How many of the bytes have arrived.
    filled: usize,
}

/// What is known of the first reply in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// More bytes must arrive.
    Part,
    /// The reply is complete, and its body has this length.
    All(ReplyKind, usize),
    Bad(&'static str),
}

impl ReplyBuffer {
    /// Returns the place for the next bytes, which is never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let missing = match self.header() {
            None => 0,
            Some((_, length)) => length.saturating_add(REPLY_HEADER).saturating_sub(self.filled),
        };
        let end = self.filled + missing.clamp(SMALL, CHUNK);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..end]
    }

    /// Records that `length` bytes have been written to the [`space`](Self::space).
    pub(super) fn advance(&mut self, length: usize) {
        self.filled += length;
    }

    /// Examines the first reply. A body above `max_body` is bad.
    pub(super) fn first(&self, max_body: usize) -> Arrived {
        let Some((kind, length)) = self.header() else { return Arrived::Part };
        let kind = match kind {
            1 => ReplyKind::Ready,
            2 => ReplyKind::Done,
            3 => ReplyKind::Panicked,
            4 => ReplyKind::Codec,
            5 => ReplyKind::Event,
            _ => return Arrived::Bad("no reply begins like this"),
        };
        if length > max_body {
            return Arrived::Bad("it is longer than max_reply allows");
        }
        if self.filled < REPLY_HEADER + length { Arrived::Part } else { Arrived::All(kind, length) }
    }

    /// Returns the body of the first reply, which is complete and has this length.
    pub(super) fn body(&self, length: usize) -> &[u8] {
        &self.bytes[REPLY_HEADER..REPLY_HEADER + length]
    }

    /// Removes the first reply, which is complete and has a body of this length. Gives back memory that few replies
    /// need.
    pub(super) fn remove(&mut self, length: usize) {
        let end = REPLY_HEADER + length;
        self.bytes.copy_within(end..self.filled, 0);
        self.filled -= end;
        if self.bytes.len() > KEPT {
            self.bytes.truncate(KEPT.max(self.filled));
            self.bytes.shrink_to(KEPT);
        }
    }

    /// Returns `true` if bytes have arrived that belong to no reply that was removed.
    pub(super) fn has_rest(&self) -> bool {
        self.filled > 0
    }

    /// Returns the kind and the length of the first body, once its header has arrived.
    fn header(&self) -> Option<(u8, usize)> {
        (self.filled >= REPLY_HEADER)
            .then(|| (self.bytes[0], usize::try_from(number(&self.bytes[1..REPLY_HEADER])).unwrap_or(usize::MAX)))
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a number has eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MAX_BODY: usize = 3 * CHUNK;

    /// Feeds bytes in pieces until the first reply is complete or bad. Returns what is known of it.
    fn feed(buffer: &mut ReplyBuffer, mut bytes: &[u8], piece: usize) -> Arrived {
        loop {
            match buffer.first(MAX_BODY) {
                Arrived::Part if !bytes.is_empty() => {}
                other => return other,
            }
            let space = buffer.space();
            let length = space.len().min(piece).min(bytes.len());
            space[..length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            buffer.advance(length);
        }
    }

    fn done(body: &[u8]) -> Vec<u8> {
        [&reply_header(ReplyKind::Done, body.len())[..], body].concat()
    }

    proptest! {
        #[test]
        fn garbage_neither_panics_nor_takes_memory(bytes in vec(any::<u8>(), 0..64), piece in 1_usize..64) {
            let mut buffer = ReplyBuffer::default();
            feed(&mut buffer, &bytes, piece);
            prop_assert!(buffer.bytes.capacity() <= bytes.len() + 2 * CHUNK);
        }

        #[test]
        fn reply_arrives_in_any_pieces(body in vec(any::<u8>(), 0..10_000), piece in 1_usize..12_000) {
            let mut buffer = ReplyBuffer::default();
            prop_assert_eq!(feed(&mut buffer, &done(&body), piece), Arrived::All(ReplyKind::Done, body.len()));
            prop_assert_eq!(buffer.body(body.len()), &body[..]);
        }

        #[test]
        fn request_header_survives_the_way(
            function in any::<[u8; 16]>(),
            budget in proptest::option::of(0..u64::MAX),
            level in any::<u8>(),
            meta_length in any::<u64>(),
            arguments_length in any::<u64>(),
        ) {
            let budget = budget.map(Duration::from_nanos);
            let header = RequestHeader { function, budget, level, meta_length, arguments_length };
            prop_assert_eq!(RequestHeader::from_bytes(&header.to_bytes()), header);
        }
    }

    #[test]
    fn reply_above_the_limit_is_bad_before_it_takes_memory() {
        for length in [MAX_BODY + 1, usize::MAX] {
            let mut buffer = ReplyBuffer::default();
            let arrived = feed(&mut buffer, &reply_header(ReplyKind::Done, length), 64);
            assert_eq!(arrived, Arrived::Bad("it is longer than max_reply allows"));
            assert!(buffer.bytes.capacity() < 2 * SMALL, "{}", buffer.bytes.capacity());
        }
    }

    #[test]
    fn replies_that_arrive_together_are_read_one_by_one() {
        let mut buffer = ReplyBuffer::default();
        let bytes = [done(&[1; 5_000]), done(&[]), done(&[2; 3])].concat();
        assert_eq!(feed(&mut buffer, &bytes, 100_000), Arrived::All(ReplyKind::Done, 5_000));
        buffer.remove(5_000);
        let rest = &bytes[REPLY_HEADER + 5_000 + buffer.filled..];
        assert_eq!(feed(&mut buffer, rest, 100_000), Arrived::All(ReplyKind::Done, 0));
        buffer.remove(0);
        assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 3));
        assert_eq!(buffer.body(3), [2; 3]);
        assert!(buffer.has_rest());
        buffer.remove(3);
        assert!(!buffer.has_rest());
    }
}
