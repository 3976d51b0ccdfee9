//! [`Attachment`], bytes that travel beside the arguments or the result.

use std::cell::RefCell;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The least length of an attachment that travels beside the message, in bytes. A shorter one is part of the message.
pub(super) const MIN_BESIDE: usize = 16 << 10;

thread_local! {
    /// The attachments of the message that this thread is converting, if any.
    static BESIDE: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
}

/// Bytes that are sent to a worker, or back from it, without a conversion: an image, a file, a buffer.
///
/// Other types are copied into the message and out of it, and a `Vec<u8>` is copied byte by byte. A large attachment is
/// written to the socket from its own memory, and becomes the [`Bytes`] of the receiver. An attachment may be a part of
/// any type:
///
/// ```
/// use onelane::ProcessPool;
/// use onelane::offload::process::Attachment;
///
/// fn invert((image, mask): (Attachment, u8)) -> Attachment {
///     image.iter().map(|byte| byte ^ mask).collect::<Vec<u8>>().into()
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), onelane::ProcessError> {
/// let pool = ProcessPool::new("images");
/// let inverted = pool.run(invert, (vec![0; 1_000_000].into(), 0xff)).await?;
/// assert!(inverted.iter().all(|byte| *byte == 0xff));
/// # Ok(())
/// # }
/// ```
///
/// In other formats of serde, an attachment is serialized as a byte array.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attachment(pub Bytes);

/// An attachment in a message.
#[derive(Serialize, Deserialize)]
enum Attached {
    Inside(Bytes),
    /// The index among the attachments of the message.
    Beside(u32),
}

/// Calls `convert`, which converts a value to bytes. Returns the attachments that travel beside the bytes.
pub(super) fn collect<T>(convert: impl FnOnce() -> T) -> (T, Vec<Bytes>) {
    with_beside(Vec::new(), convert)
}

/// Calls `convert`, which converts bytes to a value that contains `attachments`.
pub(super) fn provide<T>(attachments: Vec<Bytes>, convert: impl FnOnce() -> T) -> T {
    with_beside(attachments, convert).0
}

fn with_beside<T>(attachments: Vec<Bytes>, convert: impl FnOnce() -> T) -> (T, Vec<Bytes>) {
    /// Restores the outer conversion, since user code may panic here, and may send values to another pool.
    struct Restore(Option<Vec<Bytes>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            BESIDE.replace(self.0.take());
        }
    }

    let restore = Restore(BESIDE.replace(Some(attachments)));
    let converted = convert();
    let attachments = BESIDE.replace(None).unwrap_or_default();
    drop(restore);
    (converted, attachments)
}

impl Serialize for Attachment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A value of the message may contain an attachment that it serializes in another format.
        if serializer.is_human_readable() || BESIDE.with_borrow(Option::is_none) {
            return serializer.serialize_bytes(&self.0);
        }
        let attached = BESIDE.with_borrow_mut(|beside| match beside {
            Some(beside) if self.0.len() >= MIN_BESIDE => {
                beside.push(self.0.clone());
                Attached::Beside(u32::try_from(beside.len() - 1).unwrap_or(u32::MAX))
            }
            _ => Attached::Inside(self.0.clone()),
        });
        attached.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attachment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() || BESIDE.with_borrow(Option::is_none) {
            return Bytes::deserialize(deserializer).map(Self);
        }
        let index = match Attached::deserialize(deserializer)? {
            Attached::Inside(bytes) => return Ok(Self(bytes)),
            Attached::Beside(index) => index as usize,
        };
        // Each attachment belongs to one value, so it is moved out.
        let taken = BESIDE.with_borrow_mut(|beside| beside.as_mut()?.get_mut(index).map(std::mem::take));
        taken.map(Self).ok_or_else(|| D::Error::custom("an attachment is missing"))
    }
}

impl Deref for Attachment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Attachment {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Attachment {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Attachment {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Attachment> for Bytes {
    fn from(attachment: Attachment) -> Self {
        attachment.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use super::*;
    use crate::offload::process::codec::{self, Message};

    fn attachment(length: usize) -> Attachment {
        vec![7; length].into()
    }

    #[test]
    fn large_attachments_are_beside_the_message_and_are_not_copied() {
        let value = (attachment(10), vec![Some(attachment(MIN_BESIDE)), None], attachment(1 << 20));
        let mut message = Message::default();
        codec::encode_message(&value, &mut message).unwrap();
        assert!(message.body.len() < 100 && message.attachments.len() == 2);
        assert_eq!(message.attachments[1].as_ptr(), value.2.as_ptr());
        let beside = message.attachments[1].as_ptr();
        let read: (Attachment, Vec<Option<Attachment>>, Attachment) =
            codec::decode_message(&message.body, message.attachments).unwrap();
        assert_eq!(read, value);
        assert_eq!(read.2.as_ptr(), beside);
    }

    #[test]
    fn other_formats_have_byte_arrays() {
        let text = serde_json::to_string(&attachment(2)).unwrap();
        assert_eq!(text, "[7,7]");
        // The same holds for text inside a message.
        let large = attachment(MIN_BESIDE);
        let (text, beside) = collect(|| serde_json::to_string(&large).unwrap());
        assert!(beside.is_empty());
        assert_eq!(serde_json::from_str::<Vec<u8>>(&text).unwrap(), large.to_vec());
    }

    #[test]
    fn missing_attachment_is_an_error() {
        let mut message = Message::default();
        codec::encode_message(&attachment(MIN_BESIDE), &mut message).unwrap();
        assert!(codec::decode_message::<Attachment>(&message.body, Vec::new()).is_err());
    }
}
