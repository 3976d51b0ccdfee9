//! [`Function`], a function of this program in a form that another process of the program can call.

#![allow(unsafe_code, reason = "an address from another process becomes a function again")]

use std::any::type_name;
use std::mem::{size_of, transmute};
use std::ptr;

use bytes::Bytes;

use super::codec::{self, CodecError, Message};
use super::conversion::Conversion;

/// A function `fn(A) -> R`, with the code that decodes `A`, calls the function, and encodes the converted result.
///
/// Each process maps the program at a different address, so both addresses are sent as distances from a static of this
/// file. A distance is the same in all processes that run the same executable file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    runner: i64,
    target: i64,
}

/// The arguments of a call: the body of a message, and its attachments.
pub(super) type Arguments<'a> = (&'a [u8], Vec<Bytes>);

/// Calls the function at `target`.
type Runner = fn(target: *const (), arguments: Arguments<'_>, output: &mut Message) -> Result<(), CodecError>;

impl Function {
    /// The number of bytes that [`to_bytes`](Self::to_bytes) returns.
    pub(super) const LENGTH: usize = 2 * size_of::<i64>();

    pub(super) fn new<A, R, C: Conversion<A, R>>(target: fn(A) -> R) -> Self {
        let runner: Runner = run::<A, R, C>;
        Self::of(runner, target as *const ())
    }

    /// Creates the function of an initializer, which has neither arguments nor a result.
    pub(super) fn of_initializer(target: fn()) -> Self {
        let runner: Runner = run_initializer;
        Self::of(runner, target as *const ())
    }

    fn of(runner: Runner, target: *const ()) -> Self {
        let distance = |code: *const ()| distance(code.expose_provenance());
        Self { runner: distance(runner as *const ()), target: distance(target) }
    }

    /// Returns the addresses of the runner and of the function in this process.
    pub(super) fn addresses(self) -> [usize; 2] {
        [self.runner, self.target].map(|distance| at(distance).addr())
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.runner.to_le_bytes());
        bytes[8..].copy_from_slice(&self.target.to_le_bytes());
        bytes
    }

    /// Reads a function that a server has sent to this worker.
    ///
    /// The bytes must come from [`to_bytes`](Self::to_bytes) in a process that runs the same executable file. The
    /// server compares the files before it sends the first message, and the worker reads only from the socket that the
    /// server has passed to it.
    pub(super) fn from_server(bytes: [u8; Self::LENGTH]) -> Self {
        let number = |half: &[u8]| i64::from_le_bytes(half.try_into().expect("each half has eight bytes"));
        Self { runner: number(&bytes[..8]), target: number(&bytes[8..]) }
    }

    /// Decodes the arguments, calls the function, and appends its result to `output`.
    pub(super) fn call(self, arguments: Arguments<'_>, output: &mut Message) -> Result<(), CodecError> {
        // SAFETY: The distances come from a process that runs the same file: see `from_server`. In that process, the
        // distance leads from `ANCHOR` to a `Runner`, so it does in this one.
        let runner = unsafe { transmute::<*const (), Runner>(at(self.runner)) };
        runner(at(self.target), arguments, output)
    }
}

/// The runner of all functions `fn(A) -> R` with the conversion `C`.
fn run<A, R, C: Conversion<A, R>>(
    target: *const (),
    (body, attachments): Arguments<'_>,
    output: &mut Message,
) -> Result<(), CodecError> {
    // SAFETY: `Function::new` pairs this runner only with functions of the type `fn(A) -> R`.
    let target = unsafe { transmute::<*const (), fn(A) -> R>(target) };
    let arguments = codec::decode_message(body, attachments)
        .map_err(|error| CodecError::Arguments(type_name::<C::Arguments>(), error))?;
    let result = C::send_result(target(C::receive_arguments(arguments)));
    codec::encode_message(&result, output).map_err(|error| CodecError::Result(type_name::<C::Result>(), error))
}

/// The runner of all functions `fn()`.
fn run_initializer(target: *const (), _: Arguments<'_>, _: &mut Message) -> Result<(), CodecError> {
    // SAFETY: `Function::of_initializer` pairs this runner only with functions of the type `fn()`.
    let target = unsafe { transmute::<*const (), fn()>(target) };
    target();
    Ok(())
}

/// The point from which every distance is measured. A static has one address, whereas the compiler may copy a function
/// into each crate that uses it.
static ANCHOR: u8 = 0;

/// Returns the distance from [`ANCHOR`] to an address of this program. It is the same in all processes of the program.
pub(super) fn distance(address: usize) -> i64 {
    address.wrapping_sub((&raw const ANCHOR).addr()).cast_signed() as i64
}

/// Returns the address at this distance from [`ANCHOR`].
pub(super) fn address_at(distance: i64) -> usize {
    (&raw const ANCHOR).addr().wrapping_add_signed(distance as isize)
}

fn at(distance: i64) -> *const () {
    ptr::with_exposed_provenance(address_at(distance))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::offload::process::conversion::Unconverted;

    fn largest<T: Ord + Default>(values: Vec<T>) -> T {
        values.into_iter().max().unwrap_or_default()
    }

    /// Calls a function as a worker does.
    fn call<A, R>(f: fn(A) -> R, arguments: &A) -> R
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let (mut sent, mut output) = (Message::default(), Message::default());
        codec::encode_message(arguments, &mut sent).unwrap();
        let function = Function::from_server(Function::new::<A, R, Unconverted>(f).to_bytes());
        function.call((&sent.body, sent.attachments), &mut output).unwrap();
        codec::decode_message(&output.body, output.attachments).unwrap()
    }

    #[test]
    fn generic_functions_and_closures_are_called_with_their_own_types() {
        assert_eq!(call(largest::<String>, &["b", "c", "a"].map(str::to_owned).to_vec()), "c");
        assert_eq!(call(largest::<u64>, &vec![3, 9, 4]), 9);
        assert_eq!(call(|n: u32| n + 1, &20), 21);
    }

    #[test]
    fn arguments_that_do_not_decode_call_nothing() {
        fn unreachable(_: String) {
            unreachable!("the arguments are garbage");
        }
        let mut output = Message::default();
        let error =
            Function::new::<_, _, Unconverted>(unreachable).call((&[0xff; 12], Vec::new()), &mut output).unwrap_err();
        assert!(matches!(error, CodecError::Arguments(..)) && output.body.is_empty());
    }
}
