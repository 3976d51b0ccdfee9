//! The messages between a server and a worker: a header of fixed length, then a body.
//!
//! The worker trusts the server. The server does not trust the worker, whose memory a task may have overwritten. So the
//! server checks each header, and allocates memory only in proportion to the bytes that have arrived.

use std::mem;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::offload::process::function::Function;

/// The least and the greatest number of bytes for which memory is allocated before they arrive.
const SMALL: usize = 4 << 10;
const CHUNK: usize = 1 << 20;
/// The greatest length of a panic, an event or an error, even if `max_reply` is smaller. A worker truncates its texts.
const MAX_NOTICE: usize = 64 << 10;
/// How much memory is kept for the next reply, in bytes.
const KEPT: usize = 32 << 20;

/// The start of a request. A [`RequestMeta`] follows, unless its length is 0, and then the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub(super) function: [u8; Function::LENGTH],
    /// How long the caller still waits.
    pub(super) budget: Option<Duration>,
    /// The greatest level of `tracing` events that the server wants, from 1 for errors to 5, or 0 for no events.
    pub(super) level: u8,
    pub(super) meta_length: u64,
    pub(super) arguments_length: u64,
    /// The number of attachments. The lengths of all attachments follow the arguments, and then their bytes.
    pub(super) attachments: u32,
}

impl RequestHeader {
    pub(super) const LENGTH: usize = Function::LENGTH + 8 + 1 + 8 + 8 + 4;

    pub(super) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let budget = self.budget.map_or(u64::MAX, |budget| u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX));
        let mut bytes = [0; Self::LENGTH];
        bytes[..16].copy_from_slice(&self.function);
        bytes[16..24].copy_from_slice(&budget.to_le_bytes());
        bytes[24] = self.level;
        bytes[25..33].copy_from_slice(&self.meta_length.to_le_bytes());
        bytes[33..41].copy_from_slice(&self.arguments_length.to_le_bytes());
        bytes[41..].copy_from_slice(&self.attachments.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let budget = number(&bytes[16..24]);
        Self {
            function: bytes[..16].try_into().expect("a function has this length"),
            budget: (budget != u64::MAX).then(|| Duration::from_nanos(budget)),
            level: bytes[24],
            meta_length: number(&bytes[25..33]),
            arguments_length: number(&bytes[33..41]),
            attachments: u32::from_le_bytes(bytes[41..].try_into().expect("a number has four bytes")),
        }
    }
}

/// The details of a task that the worker needs besides its function and its arguments.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RequestMeta {
    /// Empty if the task has no label.
    pub(super) label: String,
    /// The guards that the task's caller is inside: for each, the distance of its address, and the number of its scope.
    pub(super) scopes: Vec<(i64, u64)>,
}

/// The kind of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ReplyKind {
    /// The worker is ready for its first task.
    Ready = 1,
    /// The result of the function.
    Done = 2,
    /// A [`RemotePanic`].
    Panicked = 3,
    /// A text that says why the arguments or the result can't be converted.
    Codec = 4,
    /// A [`RemoteEvent`]. The task continues.
    Event = 5,
    /// An attachment of a result that comes later.
    Attachment = 6,
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
    /// The level, from 1 for errors to 5.
    pub(super) level: u8,
    pub(super) target: String,
    pub(super) message: String,
    /// All other fields, as `name=value`.
    pub(super) fields: String,
}

/// Shortens a text of a panic or an event, so that the reply stays within [`MAX_NOTICE`].
pub(super) fn truncate(text: &mut String) {
    const LONGEST: usize = 16 << 10;
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

/// Returns the number of a level, from 1 for errors to 5.
pub(super) fn level_number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// The length of a reply's header, which has the kind of the reply and the length of its body.
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
    /// The bytes that have arrived, without those of attachments.
    bytes: Vec<u8>,
    /// An attachment that has not arrived completely, and its full length.
    attaching: Option<(Vec<u8>, usize)>,
    attachments: Vec<Bytes>,
    /// The total length of the attachments, with their headers.
    attached: usize,
}

/// The state of the first reply in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// More bytes must arrive.
    Part,
    /// The reply is complete, and its body has this length.
    All(ReplyKind, usize),
    Bad(&'static str),
}

impl ReplyBuffer {
    /// Receives bytes. Returns the number of bytes, which is 0 at the end. Allocates memory for a chunk at most, or for
    /// as many bytes as have arrived already.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> rustix::io::Result<usize> {
        let (bytes, missing) = match &mut self.attaching {
            Some((bytes, length)) => {
                let missing = *length - bytes.len();
                (bytes, missing)
            }
            None => {
                let missing = self.header().map_or(0, |(_, length)| length.saturating_sub(self.bytes.len()));
                (&mut self.bytes, missing)
            }
        };
        if bytes.capacity() - bytes.len() < missing.clamp(SMALL, CHUNK) {
            bytes.reserve(missing.clamp(SMALL, CHUNK.max(bytes.len())));
        }
        let (_, received) = recv(socket, spare_capacity(bytes), RecvFlags::empty())?;
        self.end_attachment();
        Ok(received)
    }

    /// Examines the first reply that is no attachment. A body is bad if it is longer than `max_body`, together with its
    /// attachments.
    pub(super) fn first(&mut self, max_body: usize) -> Arrived {
        loop {
            if self.attaching.is_some() {
                return Arrived::Part;
            }
            let Some((kind, length)) = self.header() else { return Arrived::Part };
            let kind = match kind {
                1 => ReplyKind::Ready,
                2 => ReplyKind::Done,
                3 => ReplyKind::Panicked,
                4 => ReplyKind::Codec,
                5 => ReplyKind::Event,
                6 => ReplyKind::Attachment,
                _ => return Arrived::Bad("no reply begins like this"),
            };
            // `attached` counts a header for each attachment, so that empty attachments reach the limit too.
            let max_body = match kind {
                ReplyKind::Done | ReplyKind::Attachment => max_body.saturating_sub(self.attached),
                _ => max_body.max(MAX_NOTICE),
            };
            if length > max_body.min(isize::MAX as usize - REPLY_HEADER) {
                return Arrived::Bad("it is longer than max_reply allows");
            }
            if kind != ReplyKind::Attachment {
                let is_complete = self.bytes.len() >= REPLY_HEADER + length;
                return if is_complete { Arrived::All(kind, length) } else { Arrived::Part };
            }
            self.attached = self.attached.saturating_add(length + REPLY_HEADER);
            if let Some(body) = self.bytes.get(REPLY_HEADER..REPLY_HEADER + length) {
                self.attachments.push(Bytes::copy_from_slice(body));
                self.remove(length);
                continue;
            }
            let rest = self.bytes.split_off(REPLY_HEADER);
            self.bytes.clear();
            self.attaching = Some((rest, length));
        }
    }

    /// Moves the arriving attachment to the others if it is complete.
    fn end_attachment(&mut self) {
        if let Some((mut bytes, length)) = self.attaching.take_if(|(bytes, length)| bytes.len() >= *length) {
            self.bytes.extend(bytes.drain(length..));
            self.attachments.push(bytes.into());
        }
    }

    /// Returns the body of the first reply, which is complete and has this length.
    pub(super) fn body(&self, length: usize) -> &[u8] {
        &self.bytes[REPLY_HEADER..REPLY_HEADER + length]
    }

    /// Takes the attachments that came before the first reply.
    pub(super) fn take_attachments(&mut self) -> Vec<Bytes> {
        self.attached = 0;
        mem::take(&mut self.attachments)
    }

    /// Removes the first reply, which is complete and has a body of this length. Frees memory above [`KEPT`], which few
    /// replies need.
    pub(super) fn remove(&mut self, length: usize) {
        self.bytes.drain(..REPLY_HEADER + length);
        self.bytes.shrink_to(KEPT);
    }

    /// Returns `true` if the buffer has bytes or attachments after the replies that were removed.
    pub(super) fn has_rest(&self) -> bool {
        !self.bytes.is_empty() || self.attaching.is_some() || !self.attachments.is_empty()
    }

    /// Returns the kind of the first reply and the length of its body, if the header has arrived.
    fn header(&self) -> Option<(u8, usize)> {
        let header = self.bytes.get(..REPLY_HEADER)?;
        Some((header[0], usize::try_from(number(&header[1..])).unwrap_or(usize::MAX)))
    }
}

pub(super) fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a number has eight bytes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::offload::process::attachment::Attachment;
    use crate::offload::process::codec::{self, Message};

    const MAX_BODY: usize = 3 * CHUNK;

    /// Sends bytes in pieces until the first reply is complete or bad. Returns the state of that reply.
    fn send(buffer: &mut ReplyBuffer, bytes: &[u8], piece: usize) -> Arrived {
        let (mut worker, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        for piece in bytes.chunks(piece) {
            worker.write_all(piece).unwrap();
            while buffer.first(MAX_BODY) == Arrived::Part && buffer.receive(&server).is_ok() {}
        }
        buffer.first(MAX_BODY)
    }

    fn reply(kind: ReplyKind, body: &[u8]) -> Vec<u8> {
        [&reply_header(kind, body.len())[..], body].concat()
    }

    fn capacity(buffer: &ReplyBuffer) -> usize {
        let attached: usize = buffer.attachments.iter().map(Bytes::len).sum();
        attached + buffer.bytes.capacity() + buffer.attaching.as_ref().map_or(0, |(bytes, _)| bytes.capacity())
    }

    proptest! {
        #[test]
        fn garbage_neither_panics_nor_takes_memory(
            mut bytes in vec(any::<u8>(), 0..64),
            kind in 0_u8..9,
            piece in 1_usize..64,
        ) {
            bytes.first_mut().into_iter().for_each(|first| *first = kind);
            let mut buffer = ReplyBuffer::default();
            send(&mut buffer, &bytes, piece);
            prop_assert!(capacity(&buffer) <= bytes.len() + 2 * CHUNK);
        }

        #[test]
        fn reply_arrives_in_any_pieces_after_its_attachments(
            attachments in vec(vec(any::<u8>(), 0..9_000), 0..3),
            body in vec(any::<u8>(), 0..10_000),
            piece in 1_usize..12_000,
        ) {
            let mut bytes: Vec<u8> =
                attachments.iter().flat_map(|attachment| reply(ReplyKind::Attachment, attachment)).collect();
            bytes.extend(reply(ReplyKind::Done, &body));
            let mut buffer = ReplyBuffer::default();
            for piece in bytes.chunks(piece) {
                prop_assert_eq!(buffer.first(MAX_BODY), Arrived::Part);
                send(&mut buffer, piece, piece.len());
            }
            prop_assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, body.len()));
            prop_assert_eq!(buffer.body(body.len()), &body[..]);
            prop_assert_eq!(buffer.take_attachments(), attachments);
            buffer.remove(body.len());
            prop_assert!(!buffer.has_rest());
        }

        #[test]
        fn request_header_survives_the_way(
            function in any::<[u8; 16]>(),
            budget in proptest::option::of(0..u64::MAX),
            level in any::<u8>(),
            lengths in any::<[u64; 2]>(),
            attachments in any::<u32>(),
        ) {
            let budget = budget.map(Duration::from_nanos);
            let [meta_length, arguments_length] = lengths;
            let header = RequestHeader { function, budget, level, meta_length, arguments_length, attachments };
            prop_assert_eq!(RequestHeader::from_bytes(&header.to_bytes()), header);
        }
    }

    /// Changes some bytes of a valid reply, or cuts it off.
    fn mutate(bytes: &mut Vec<u8>, random: &mut impl FnMut(usize) -> usize) {
        for _ in 0..random(4) {
            let index = random(bytes.len());
            bytes[index] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
        }
        if random(3) == 0 {
            bytes.truncate(random(bytes.len()));
        }
    }

    /// The variable `ONELANE_FUZZ_CASES` sets the number of cases.
    #[test]
    fn mutated_replies_neither_panic_nor_take_memory() {
        type Value = (String, Vec<u64>, Option<Attachment>);
        let cases = std::env::var("ONELANE_FUZZ_CASES").map_or(20_000, |cases| cases.parse().unwrap());
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        let encoded = |encode: &dyn Fn(&mut Vec<u8>) -> postcard::Result<()>| {
            let mut body = Vec::new();
            encode(&mut body).unwrap();
            body
        };
        let value: Value = ("name".to_owned(), vec![1, 1 << 40], Some(vec![7; 20_000].into()));
        let mut message = Message::default();
        codec::encode_message(&value, &mut message).unwrap();
        let panic = RemotePanic { message: "no".to_owned(), location: Some("x.rs:1".to_owned()) };
        let event = RemoteEvent { level: 3, target: "t".to_owned(), message: "m".to_owned(), fields: "a=1".to_owned() };
        let replies = [
            [reply(ReplyKind::Attachment, &message.attachments[0][..99]), reply(ReplyKind::Done, &message.body)]
                .concat(),
            reply(ReplyKind::Panicked, &encoded(&|body| codec::encode(&panic, body))),
            [reply(ReplyKind::Event, &encoded(&|body| codec::encode(&event, body))), reply(ReplyKind::Done, &[])]
                .concat(),
        ];
        let (mut worker, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut outcomes = [0_u64; 3];
        for _ in 0..cases {
            let mut bytes = replies[random(replies.len())].clone();
            mutate(&mut bytes, &mut random);
            worker.write_all(&bytes).unwrap();
            let mut buffer = ReplyBuffer::default();
            loop {
                match buffer.first(MAX_BODY) {
                    Arrived::Part if buffer.receive(&server).is_err() => break outcomes[0] += 1,
                    Arrived::Part => {}
                    Arrived::Bad(_) => break outcomes[1] += 1,
                    Arrived::All(_, length) => {
                        let body = buffer.body(length).to_vec();
                        let _ = codec::decode::<RemotePanic>(&body);
                        let _ = codec::decode::<RemoteEvent>(&body);
                        let _ = codec::decode_message::<Value>(&body, buffer.take_attachments());
                        buffer.remove(length);
                        outcomes[2] += 1;
                    }
                }
            }
            assert!(capacity(&buffer) <= bytes.len() + 2 * CHUNK, "{}", capacity(&buffer));
            // Bytes that the buffer has not read must not reach the next case.
            while rustix::io::read(&server, &mut [0; 4_096]).is_ok() {}
        }
        assert!(outcomes.iter().all(|outcome| *outcome > cases / 50), "{outcomes:?}");
    }

    #[test]
    fn reply_above_the_limit_is_bad_before_it_takes_memory() {
        for kind in [ReplyKind::Done, ReplyKind::Attachment] {
            for length in [MAX_BODY + 1, usize::MAX - REPLY_HEADER, usize::MAX] {
                let mut buffer = ReplyBuffer::default();
                let arrived = send(&mut buffer, &reply_header(kind, length), 64);
                assert_eq!(arrived, Arrived::Bad("it is longer than max_reply allows"));
                assert!(capacity(&buffer) <= 2 * SMALL, "{}", capacity(&buffer));
            }
        }
        let mut buffer = ReplyBuffer::default();
        let bytes =
            [reply(ReplyKind::Attachment, &[1; 9]), reply_header(ReplyKind::Done, MAX_BODY - 8).into()].concat();
        assert!(matches!(send(&mut buffer, &bytes, 100), Arrived::Bad(_)), "the attachment counts too");
    }

    #[test]
    fn replies_that_arrive_together_are_read_one_by_one() {
        let mut buffer = ReplyBuffer::default();
        let done = |body: &[u8]| reply(ReplyKind::Done, body);
        let bytes = [done(&[1; 5_000]), done(&[]), done(&[2; 3])].concat();
        let (mut worker, server) = UnixStream::pair().unwrap();
        worker.write_all(&bytes).unwrap();
        assert_eq!(buffer.receive(&server), Ok(4_096));
        assert_eq!(buffer.first(MAX_BODY), Arrived::Part);
        assert_eq!(buffer.receive(&server), Ok(bytes.len() - 4_096));
        assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 5_000));
        buffer.remove(5_000);
        assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 0));
        buffer.remove(0);
        assert_eq!(buffer.first(MAX_BODY), Arrived::All(ReplyKind::Done, 3));
        assert_eq!(buffer.body(3), [2; 3]);
        assert!(buffer.has_rest());
        buffer.remove(3);
        assert!(!buffer.has_rest());
    }
}
