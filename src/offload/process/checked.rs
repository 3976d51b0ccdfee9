//! [`Checked`], a value that is not serialized if it leaves out a field.
//!
//! postcard writes the fields of a struct one after the other, without their names. If a field is left out, as
//! `#[serde(skip_serializing_if = "…")]` does, the receiver takes the next field for it, and reads wrong values without
//! an error.

use std::cell::Cell;

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// Serializes a value, and fails if the value leaves out a field.
pub(super) struct Checked<'a, T: ?Sized> {
    pub(super) value: &'a T,
    /// Set to the name of the field.
    pub(super) left_out: &'a Cell<Option<&'static str>>,
}

/// The serializer of a checked value, or of a part of the value.
struct CheckedPart<'a, S> {
    inner: S,
    left_out: &'a Cell<Option<&'static str>>,
}

impl<T: Serialize + ?Sized> Serialize for Checked<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(CheckedPart { inner: serializer, left_out: self.left_out })
    }
}

/// Passes values on that have no parts.
macro_rules! pass_on {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for CheckedPart<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = CheckedPart<'a, S::SerializeSeq>;
    type SerializeTuple = CheckedPart<'a, S::SerializeTuple>;
    type SerializeTupleStruct = CheckedPart<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = CheckedPart<'a, S::SerializeTupleVariant>;
    type SerializeMap = CheckedPart<'a, S::SerializeMap>;
    type SerializeStruct = CheckedPart<'a, S::SerializeStruct>;
    type SerializeStructVariant = CheckedPart<'a, S::SerializeStructVariant>;

    pass_on! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_f32: f32, serialize_f64: f64, serialize_char: char, serialize_str: &str,
        serialize_bytes: &[u8], serialize_unit_struct: &'static str,
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let value = Checked { value, left_out: self.left_out };
        self.inner.serialize_some(&value)
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        let value = Checked { value, left_out: self.left_out };
        self.inner.serialize_newtype_struct(name, &value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let value = Checked { value, left_out: self.left_out };
        self.inner.serialize_newtype_variant(name, index, variant, &value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_seq(length).map(|inner| CheckedPart { inner, left_out })
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_tuple(length).map(|inner| CheckedPart { inner, left_out })
    }

    fn serialize_tuple_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_tuple_struct(name, length).map(|inner| CheckedPart { inner, left_out })
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_tuple_variant(name, index, variant, length).map(|inner| CheckedPart { inner, left_out })
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_map(length).map(|inner| CheckedPart { inner, left_out })
    }

    fn serialize_struct(self, name: &'static str, length: usize) -> Result<Self::SerializeStruct, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_struct(name, length).map(|inner| CheckedPart { inner, left_out })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let left_out = self.left_out;
        self.inner.serialize_struct_variant(name, index, variant, length).map(|inner| CheckedPart { inner, left_out })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Implements a trait for values with parts, each of which one method adds.
macro_rules! check_parts {
    ($($trait:ident: $($method:ident)+;)*) => {
        $(impl<S: $trait> $trait for CheckedPart<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            $(fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
                let value = Checked { value, left_out: self.left_out };
                self.inner.$method(&value)
            })+

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        })*
    };
}

check_parts! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeMap: serialize_key serialize_value;
}

/// Implements a trait for values with named fields.
macro_rules! check_fields {
    ($($trait:ident)*) => {
        $(impl<S: $trait> $trait for CheckedPart<'_, S> {
            type Ok = S::Ok;
            type Error = S::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), S::Error> {
                let value = Checked { value, left_out: self.left_out };
                self.inner.serialize_field(name, &value)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
                self.left_out.set(Some(name));
                Err(S::Error::custom("a field is left out"))
            }

            fn end(self) -> Result<S::Ok, S::Error> {
                self.inner.end()
            }
        })*
    };
}

check_fields!(SerializeStruct SerializeStructVariant);
