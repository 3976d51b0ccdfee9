//! [`ItemSize`], how much memory an item of a stream takes.

use std::any::Any;
use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::mem;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::offload::error::OffloadError;

/// How to measure the items of a stream.
pub(super) enum ItemSize<T> {
    /// Every item takes this many bytes.
    Fixed(usize),
    Measured(Box<MeasureFn<T>>),
    /// The items may have memory of any size elsewhere.
    Unknown,
}

type MeasureFn<T> = dyn Fn(&T) -> usize + Send;

impl<T> ItemSize<T> {
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    #[inline]
    pub(super) fn of(&self, item: &T) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Measured(measure) => measure(item),
            Self::Unknown => 0,
        }
    }
}

impl<T: 'static> ItemSize<T> {
    /// Finds out what is known of a type. A type without a destructor has no memory of its own elsewhere.
    pub(super) fn of_type() -> Self {
        if !mem::needs_drop::<T>() {
            return Self::Fixed(size_of::<T>());
        }
        let bytes = bytes_of::<T>();
        let bytes = bytes.or_else(results_of::<T, Infallible>).or_else(results_of::<T, io::Error>);
        let bytes = bytes.or_else(results_of::<T, OffloadError>).or_else(results_of::<T, Box<dyn Error + Send + Sync>>);
        bytes.map_or(Self::Unknown, |measure| Self::Measured(Box::new(measure)))
    }
}

/// A function that measures items of type `T`, if that is the type `Known`.
fn as_function_of<T: 'static, Known: 'static>(measure: fn(&Known) -> usize) -> Option<fn(&T) -> usize> {
    (&measure as &dyn Any).downcast_ref::<fn(&T) -> usize>().copied()
}

/// Tries the types that hold bytes or text, each with an expression for its size.
macro_rules! first_of {
    ($item:ident: $($known:ty => $size:expr),+ $(,)?) => {{
        let known = None;
        $(let known = known.or_else(|| as_function_of::<T, $known>(|$item| $size));)+
        known
    }};
}

fn bytes_of<T: 'static>() -> Option<fn(&T) -> usize> {
    first_of! { item:
        Vec<u8> => item.capacity(),
        String => item.capacity(),
        Bytes => item.len(),
        BytesMut => item.capacity(),
        Box<[u8]> => item.len(),
        Box<str> => item.len(),
        Arc<[u8]> => item.len(),
        Arc<str> => item.len(),
        Cow<'static, [u8]> => item.len(),
        Cow<'static, str> => item.len(),
    }
}

/// Tries the results with these errors, whose own size does not count.
fn results_of<T: 'static, E: 'static>() -> Option<fn(&T) -> usize> {
    first_of! { item:
        Result<Vec<u8>, E> => item.as_ref().map_or(0, Vec::capacity),
        Result<String, E> => item.as_ref().map_or(0, String::capacity),
        Result<Bytes, E> => item.as_ref().map_or(0, Bytes::len),
        Result<BytesMut, E> => item.as_ref().map_or(0, BytesMut::capacity),
        Result<Box<[u8]>, E> => item.as_ref().map_or(0, |bytes| bytes.len()),
        Result<Box<str>, E> => item.as_ref().map_or(0, |text| text.len()),
        Result<Arc<[u8]>, E> => item.as_ref().map_or(0, |bytes| bytes.len()),
        Result<Arc<str>, E> => item.as_ref().map_or(0, |text| text.len()),
        Result<Cow<'static, [u8]>, E> => item.as_ref().map_or(0, |bytes| bytes.len()),
        Result<Cow<'static, str>, E> => item.as_ref().map_or(0, |text| text.len()),
    }
}
