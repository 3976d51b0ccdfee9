//! [`ProblemType`], the URI of a kind of problem (RFC 9457), and what the crate's own URIs begin with.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use serde::{Serialize, Serializer};

/// The base of the crate's problem URIs, unless the app sets another one. The default URIs lead to the tables in the
/// documentation.
const DEFAULT_BASE: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#";

static BASE: OnceLock<Cow<'static, str>> = OnceLock::new();

/// Sets the base URI of the crate's problem types for the whole process, such as `https://example.org/problems/`, to
/// which the name of the problem is appended. Default: the address of the [tables of refusals](crate::web#refusals).
///
/// Call this function once, before the server starts. Returns `false`, and changes nothing, if a base was already set.
pub fn set_problem_type_base(base: impl Into<Cow<'static, str>>) -> bool {
    BASE.set(base.into()).is_ok()
}

/// The `type` of a problem.
#[derive(Clone, Debug)]
pub(super) enum ProblemType {
    /// The name of a problem of this crate.
    Own(&'static str),
    /// A URI that the app chose.
    Other(Cow<'static, str>),
}

impl fmt::Display for ProblemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(name) => write!(f, "{}{name}", BASE.get().map_or(DEFAULT_BASE, |base| base)),
            Self::Other(uri) => f.write_str(uri),
        }
    }
}

impl Serialize for ProblemType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
