//! The messages between a server and a worker: a header of fixed length, then a body.
//!
//! The worker trusts the server. The server does not trust the worker, whose memory a task may have overwritten. So the
//! server checks each header, and allocates memory only in proportion to the bytes that have arrived.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::offload::process::function::Function;

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

pub(super) fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a number has eight bytes"))
}
