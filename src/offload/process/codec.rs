//! [`encode`] and [`decode`], which convert values to bytes of postcard and back, and [`Message`], which has the bytes
//! and the attachments of arguments or a result.

use bytes::Bytes;
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::attachment;

/// Arguments or a result, in the form in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) body: Vec<u8>,
    pub(super) attachments: Vec<Bytes>,
}

/// The reason why a worker could not read arguments or write a result.
#[derive(Debug, Error)]
pub(super) enum CodecError {
    #[error("decoding the arguments failed: {0}")]
    Arguments(postcard::Error),
    #[error("encoding the result failed: {0}")]
    Result(postcard::Error),
}

/// Appends to a reusable buffer, many bytes at a time. The output of postcard itself appends each byte separately.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends a value to `output`.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T, output: &mut Vec<u8>) -> postcard::Result<()> {
    postcard::serialize_with_flavor(value, Appended(output))
}

/// Reads a value that fills all of `bytes`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> postcard::Result<T> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// Appends a user's value to a message.
pub(super) fn encode_message<T: Serialize>(value: &T, message: &mut Message) -> postcard::Result<()> {
    let (encoded, attachments) = attachment::collect(|| encode(value, &mut message.body));
    message.attachments = attachments;
    encoded
}

/// Reads a user's value that fills all of `body`.
pub(super) fn decode_message<T: DeserializeOwned>(body: &[u8], attachments: Vec<Bytes>) -> postcard::Result<T> {
    attachment::provide(attachments, || decode(body))
}
