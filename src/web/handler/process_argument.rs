//! [`ProcessArgument`], the trait of extractors whose values can be sent to a worker process.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::offload::process::Attachment;

/// An extractor whose value can be sent to a worker process: the argument of a
/// [handler on a process pool](super::ProcessHandler).
///
/// The trait is implemented for `Bytes`, `String`, `()`, `Option`, and tuples of up to 12 arguments. If serde can
/// convert the value inside, it is also implemented for `Json`, `Form`, `Path` and `Query` of axum and actix-web, and
/// for `Extension` and `State` of axum.
///
/// # Examples
///
/// Implement the trait for an extractor of your own, such as one for the first file of a multipart form:
///
/// ```
/// use onelane::offload::process::Attachment;
/// use onelane::web::ProcessArgument;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Upload {
///     name: String,
///     bytes: Attachment,
/// }
///
/// impl ProcessArgument for Upload {
///     type Sent = Self;
///
///     fn into_sent(self) -> Self {
///         self
///     }
///
///     fn from_sent(upload: Self) -> Self {
///         upload
///     }
/// }
/// // `FromRequest` of axum or actix-web reads the form in the server.
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an argument of a handler that runs in a worker process",
    label = "this function has an argument that can't be sent to another process",
    note = "serde must be able to convert the value of the extractor in both directions",
    note = "for an extractor of your own, implement `ProcessArgument`"
)]
pub trait ProcessArgument: Sized {
    /// The value that is sent to the worker.
    type Sent: Serialize + DeserializeOwned + Send + 'static;

    /// Converts the argument to the value that is sent. Called in the server.
    fn into_sent(self) -> Self::Sent;

    /// Converts the value that was sent to the argument of the function. Called in the worker.
    fn from_sent(sent: Self::Sent) -> Self;
}

impl<A: ProcessArgument> ProcessArgument for Option<A> {
    type Sent = Option<A::Sent>;

    fn into_sent(self) -> Self::Sent {
        self.map(A::into_sent)
    }

    fn from_sent(sent: Self::Sent) -> Self {
        sent.map(A::from_sent)
    }
}

macro_rules! sent_unchanged {
    ($($type:ty),*) => {
        $(impl ProcessArgument for $type {
            type Sent = Self;

            fn into_sent(self) -> Self {
                self
            }

            fn from_sent(sent: Self) -> Self {
                sent
            }
        })*
    };
}

sent_unchanged!(String, ());

impl ProcessArgument for Bytes {
    type Sent = Attachment;

    fn into_sent(self) -> Attachment {
        self.into()
    }

    fn from_sent(sent: Attachment) -> Self {
        sent.into()
    }
}

macro_rules! sent_as_tuples {
    ($($argument:ident)*) => {
        impl<$($argument: ProcessArgument),*> ProcessArgument for ($($argument,)*) {
            type Sent = ($($argument::Sent,)*);

            #[allow(non_snake_case, reason = "an argument and its type share a name")]
            fn into_sent(self) -> Self::Sent {
                let ($($argument,)*) = self;
                ($($argument.into_sent(),)*)
            }

            #[allow(non_snake_case, reason = "an argument and its type share a name")]
            fn from_sent(($($argument,)*): Self::Sent) -> Self {
                ($($argument::from_sent($argument),)*)
            }
        }
    };
}

sent_as_tuples!(A);
sent_as_tuples!(A B);
sent_as_tuples!(A B C);
sent_as_tuples!(A B C D);
sent_as_tuples!(A B C D E);
sent_as_tuples!(A B C D E F);
sent_as_tuples!(A B C D E F G);
sent_as_tuples!(A B C D E F G H);
sent_as_tuples!(A B C D E F G H I);
sent_as_tuples!(A B C D E F G H I J);
sent_as_tuples!(A B C D E F G H I J K);
sent_as_tuples!(A B C D E F G H I J K L);

/// Implements [`ProcessArgument`] for extractors of a framework that contain a value.
macro_rules! sent_as_content {
    ($($extractor:ident: $into:expr, $from:expr;)*) => {
        $(impl<T> $crate::web::ProcessArgument for $extractor<T>
        where
            T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        {
            type Sent = T;

            fn into_sent(self) -> T {
                let into: fn(Self) -> T = $into;
                into(self)
            }

            fn from_sent(sent: T) -> Self {
                let from: fn(T) -> Self = $from;
                from(sent)
            }
        })*
    };
}
pub(in crate::web) use sent_as_content;
