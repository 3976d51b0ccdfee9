//! [`SentResponse`], the form in which a worker process sends a response to the server.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::offload::process::Attachment;

/// A response of a worker. The server must check every part of the response, because a function may have damaged the
/// memory of its worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SentResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Bytes)>,
    /// `None` means no body at all, not an empty one.
    pub(crate) body: Option<Attachment>,
}

impl SentResponse {
    pub(crate) fn new<'a>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: Option<Bytes>,
    ) -> Self {
        let headers = headers.map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value))).collect();
        Self { status, headers, body: body.map(Attachment) }
    }
}
