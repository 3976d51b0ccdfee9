//! [`Conversion`], what travels instead of the arguments and the result of a function.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Converts the arguments of a function `fn(A) -> R` to values that can be sent to a worker, and its result to one that
/// the worker can send back.
///
/// A handler of a web framework has extractors as its arguments and a response as its result, which serde can't convert.
pub(crate) trait Conversion<A, R> {
    /// What the server sends.
    type Arguments: Serialize + DeserializeOwned + Send + 'static;
    /// What the worker sends, and the server's task returns.
    type Result: Serialize + DeserializeOwned + Send + 'static;

    /// Called in the server.
    fn send_arguments(arguments: A) -> Self::Arguments;

    /// Called in the worker.
    fn receive_arguments(sent: Self::Arguments) -> A;

    /// Called in the worker.
    fn send_result(result: R) -> Self::Result;
}

/// Sends the arguments and the result as they are.
pub(super) struct Unconverted;

impl<A, R> Conversion<A, R> for Unconverted
where
    A: Serialize + DeserializeOwned + Send + 'static,
    R: Serialize + DeserializeOwned + Send + 'static,
{
    type Arguments = A;
    type Result = R;

    fn send_arguments(arguments: A) -> A {
        arguments
    }

    fn receive_arguments(sent: A) -> A {
        sent
    }

    fn send_result(result: R) -> R {
        result
    }
}
