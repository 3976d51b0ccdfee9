//! A [`Refusal`] as a gRPC status, because gRPC clients do not read HTTP statuses and bodies.

use std::fmt::Write;

use super::refusal::Refusal;
use crate::web::RequestHead;

/// The gRPC status codes of refusals.
#[derive(Clone, Copy)]
enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl GrpcCode {
    /// Returns the gRPC code for an HTTP status, by the mapping in `google/rpc/code.proto`.
    fn from_http(status: u16) -> Self {
        match status {
            400 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            409 => Self::Aborted,
            429 => Self::ResourceExhausted,
            499 => Self::Cancelled,
            500 => Self::Internal,
            501 => Self::Unimplemented,
            503 => Self::Unavailable,
            504 => Self::DeadlineExceeded,
            _ => Self::Unknown,
        }
    }
}

impl Refusal {
    /// Converts the refusal to a gRPC status if the request is a gRPC call.
    pub(super) fn for_client(mut self, head: &RequestHead<'_>) -> Self {
        if let Some(content_type) = head.header("content-type").filter(|value| is_grpc(value)) {
            self.extras().grpc = Some(content_type.to_owned());
        }
        self
    }

    /// Returns the content type of the request, if it is a gRPC call.
    pub(super) fn grpc_type(&self) -> Option<&str> {
        self.extras.as_ref()?.grpc.as_deref()
    }

    /// Passes the headers of a response without a body ("Trailers-Only" in the gRPC protocol over HTTP/2) to `header`.
    pub(super) fn write_grpc_status(&self, mut header: impl FnMut(&str, &str)) {
        let code = GrpcCode::from_http(self.status) as u8;
        header("content-type", self.grpc_type().unwrap_or("application/grpc"));
        let is_own = |name: &str| name.eq_ignore_ascii_case("content-type");
        self.headers().filter(|(name, _)| !is_own(name)).for_each(|(name, value)| header(name, value));
        header("grpc-status", &code.to_string());
        let message = if self.detail().is_empty() { self.title() } else { self.detail() };
        header("grpc-message", &percent_encoded(message));
        if let Some(after) = self.retry_after {
            // gRFC A6: a client that retries waits for this time.
            header("grpc-retry-pushback-ms", &after.as_millis().to_string());
        }
    }
}

/// Returns `true` for the content types of gRPC and gRPC-Web: `application/grpc`, alone or followed by `+proto`,
/// `-web` and the like.
fn is_grpc(content_type: &str) -> bool {
    const GRPC: &str = "application/grpc";
    content_type.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(content_type.as_bytes().get(GRPC.len()), None | Some(b'+' | b';' | b'-' | b' '))
}

/// Encodes a status message as the gRPC protocol requires: visible ASCII characters and spaces, except `%`, stay
/// unencoded.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a string accepts every write"),
        }
    }
    encoded
}
