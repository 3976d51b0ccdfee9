//! Refusals: the responses to requests that are not admitted.
//!
//! An error becomes a [`Refusal`] with its `problem` in `errors`, the user's `hook` changes it, and `response` writes
//! it for the client: as problem details, or in `grpc` as a gRPC status.

mod conversions;
mod errors;
mod grpc;
mod hook;
mod problem;
mod reason;
#[expect(clippy::module_inception, reason = "the file is named after its type")]
mod refusal;
mod response;

pub(crate) use self::hook::RefusalHook;
pub use self::problem::set_problem_type_base;
pub use self::reason::RefusalReason;
pub use self::refusal::Refusal;
pub(super) use self::refusal::is_header_name;
