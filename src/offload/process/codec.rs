//! [`encode`] and [`decode`], which convert values to bytes of postcard and back, and [`Message`], which has the bytes
//! and the attachments of arguments or a result.

use std::cell::Cell;

use bytes::Bytes;
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::attachment;
use super::checked::Checked;

/// Arguments or a result, in the form in which they are sent.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) body: Vec<u8>,
    pub(super) attachments: Vec<Bytes>,
}

/// The reason why a worker could not read arguments or write a result. The first field is the type.
#[derive(Debug, Error)]
pub(super) enum CodecError {
    #[error("decoding the arguments `{0}` failed: {1}")]
    Arguments(&'static str, postcard::Error),
    #[error("encoding the result `{0}` failed: {1}")]
    Result(&'static str, EncodeError),
}

/// The reason why a value could not be encoded.
#[derive(Debug, Error)]
pub(super) enum EncodeError {
    #[error("the field `{0}` is left out, as by `skip_serializing_if`, so the receiver would read wrong values")]
    LeftOut(&'static str),
    #[error("{0}")]
    Postcard(postcard::Error),
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
pub(super) fn encode_message<T: Serialize>(value: &T, message: &mut Message) -> Result<(), EncodeError> {
    let left_out = Cell::new(None);
    let checked = Checked { value, left_out: &left_out };
    let (encoded, attachments) = attachment::collect(|| encode(&checked, &mut message.body));
    message.attachments = attachments;
    encoded.map_err(|error| left_out.get().map_or(EncodeError::Postcard(error), EncodeError::LeftOut))
}

/// Reads a user's value that fills all of `body`.
pub(super) fn decode_message<T: DeserializeOwned>(body: &[u8], attachments: Vec<Bytes>) -> postcard::Result<T> {
    attachment::provide(attachments, || decode(body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Unit;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New(f32);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(i8, char);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Choice {
        Unit,
        New(u128),
        Tuple(i64, bool),
        Struct {
            #[serde(skip_serializing_if = "Option::is_none")]
            rare: Option<u8>,
            last: u16,
        },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Options {
        #[serde(skip_serializing_if = "Option::is_none")]
        height: Option<u8>,
        quality: u8,
    }

    fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut message = Message::default();
        encode_message(value, &mut message).map(|()| message.body)
    }

    fn is_the_same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
        let bytes = encoded(value).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(value).unwrap(), "the check changes nothing");
        assert_eq!(decode_message::<T>(&bytes, Vec::new()).unwrap(), *value);
    }

    #[test]
    fn checked_values_of_all_kinds_are_encoded_as_others() {
        is_the_same(&(Unit, New(0.5), Pair(-7, 'é'), ()));
        is_the_same(&vec![Choice::Unit, Choice::New(1 << 100), Choice::Tuple(i64::MIN, true)]);
        is_the_same(&Choice::Struct { rare: Some(1), last: 2 });
        is_the_same(&BTreeMap::from([("a".to_owned(), Some(vec![1_i32, -2])), ("b".to_owned(), None)]));
        is_the_same(&Options { height: Some(1), quality: 2 });
        is_the_same(&(1_i16, 2_u32, 3_u64, 4.0_f64, -5_i128, [6_u8; 3]));
        is_the_same(&Some(Some(())));
    }

    #[test]
    fn field_that_is_left_out_is_an_error_that_names_it() {
        let options = Options { height: None, quality: 7 };
        let choice = Choice::Struct { rare: None, last: 7 };
        let errors = [
            (encoded(&options).unwrap_err(), "height"),
            (encoded(&Some(vec![(1, options)])).unwrap_err(), "height"),
            (encoded(&BTreeMap::from([(1, choice)])).unwrap_err(), "rare"),
        ];
        for (error, field) in errors {
            assert!(matches!(error, EncodeError::LeftOut(name) if name == field), "{error}");
        }
    }
}
