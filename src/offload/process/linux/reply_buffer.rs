//! [`ReplyBuffer`], the replies of a worker while they arrive.
//!
//! A task may have damaged the memory of its worker, so nothing that a worker sends is trusted: each length is checked
//! before memory is allocated for it, and at most a chunk is allocated beyond what has arrived.

use std::mem;
use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, recv};

use super::frame::{REPLY_HEADER, ReplyKind, number};
use crate::offload::process::attachment::MIN_BESIDE;

/// The least and the greatest number of bytes for which memory is allocated before they arrive.
pub(super) const SMALL: usize = 4 << 10;
pub(super) const CHUNK: usize = 1 << 20;
/// The greatest length of a panic, an event or an error, even if `max_reply` is smaller. A worker truncates its texts.
const MAX_NOTICE: usize = 64 << 10;
/// How much memory is kept for the next reply, in bytes.
const KEPT: usize = 32 << 20;

/// The replies of one worker while they arrive.
#[derive(Debug, Default)]
pub(super) struct ReplyBuffer {
    /// The bytes that have arrived, without those of attachments.
    bytes: Vec<u8>,
    /// An attachment that has not arrived completely, and its full length.
    attaching: Option<(Vec<u8>, usize)>,
    attachments: Vec<Bytes>,
    /// The total length of the attachments.
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
            let max_body = match kind {
                ReplyKind::Done | ReplyKind::Attachment => max_body.saturating_sub(self.attached),
                _ => max_body.max(MAX_NOTICE),
            };
            // Each attachment takes memory besides its bytes.
            if kind == ReplyKind::Attachment && length < MIN_BESIDE {
                return Arrived::Bad("an attachment is too short");
            }
            if length > max_body.min(isize::MAX as usize - REPLY_HEADER) {
                return Arrived::Bad("it is longer than max_reply allows");
            }
            if kind != ReplyKind::Attachment {
                let is_complete = self.bytes.len() >= REPLY_HEADER + length;
                return if is_complete { Arrived::All(kind, length) } else { Arrived::Part };
            }
            self.attached += length;
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

    /// Takes the attachment out if it is complete.
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

    /// Removes the first reply, which is complete and has a body of this length. Gives back memory that few replies
    /// need.
    pub(super) fn remove(&mut self, length: usize) {
        self.bytes.drain(..REPLY_HEADER + length);
        self.bytes.shrink_to(KEPT);
    }

    /// Returns `true` if something has arrived that belongs to no reply that was removed.
    pub(super) fn has_rest(&self) -> bool {
        !self.bytes.is_empty() || self.attaching.is_some() || !self.attachments.is_empty()
    }

    /// Returns how much memory the buffer has taken, in bytes.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let attached: usize = self.attachments.iter().map(Bytes::len).sum();
        let attached = attached + self.attachments.capacity() * size_of::<Bytes>();
        attached + self.bytes.capacity() + self.attaching.as_ref().map_or(0, |(bytes, _)| bytes.capacity())
    }

    /// Returns the kind and the length of the first body, once its header has arrived.
    fn header(&self) -> Option<(u8, usize)> {
        let header = self.bytes.get(..REPLY_HEADER)?;
        Some((header[0], usize::try_from(number(&header[1..])).unwrap_or(usize::MAX)))
    }
}
