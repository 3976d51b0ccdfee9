//! [`Conversion`], which replaces the arguments and the result of a function with values that can be sent.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Converts the arguments of a function `fn(A) -> R` to a value that can be sent to a worker, and the result to a value
/// that the worker can send back.
///
/// The arguments of a web handler are extractors, and the result is a response: serde converts neither.
pub(crate) trait Conversion<A, R> {
    /// The value that the server sends.
    type Arguments: Serialize + DeserializeOwned + Send + 'static;
    /// The value that the worker sends, and that the server's task returns.
    type Result: Serialize + DeserializeOwned + Send + 'static;

    /// Converts the arguments to the value that is sent. Called in the server.
    fn send_arguments(arguments: A) -> Self::Arguments;

    /// Converts the received value to the arguments. Called in the worker.
    fn receive_arguments(sent: Self::Arguments) -> A;

    /// Converts the result to the value that is sent. Called in the worker.
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
