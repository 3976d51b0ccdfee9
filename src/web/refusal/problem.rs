//! [`Problem`], the problem details (RFC 9457) of one kind of refusal, and the base of all problem URIs.

use std::borrow::Cow;
use std::sync::OnceLock;

/// The base of the crate's problem URIs, unless the app sets another one. The default URIs lead to the tables in the
/// documentation. A macro, because `concat!` accepts only literals.
macro_rules! default_base {
    () => {
        "https://docs.rs/onelane/latest/onelane/web/index.html#"
    };
}

static BASE: OnceLock<Cow<'static, str>> = OnceLock::new();

/// Sets the base URI of the crate's problem types for the whole process, such as `https://example.org/problems/`, to
/// which the name of the problem is appended. Default: the address of the [tables of refusals](crate::web#refusals).
///
/// Call this function once, before the server starts. Returns `false`, and changes nothing, if a base was already set.
pub fn set_problem_type_base(base: impl Into<Cow<'static, str>>) -> bool {
    BASE.set(base.into()).is_ok()
}

/// A kind of problem: the parts of a refusal that its error determines.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: u16,
    name: &'static str,
    pub(super) title: &'static str,
    pub(super) detail: &'static str,
    /// The problem details with the default base, so that a server under overload does not serialize each refusal.
    json: &'static str,
}

impl Problem {
    /// The problem of [`Refusal::custom`](super::Refusal::custom), every part of which the service replaces.
    pub(super) const CUSTOM: &'static Self = &Self { status: 500, name: "", title: "", detail: "", json: "" };

    /// Creates a problem. Use the macro [`problem!`], which writes `json`.
    pub(super) const fn new(
        status: u16,
        name: &'static str,
        title: &'static str,
        detail: &'static str,
        json: &'static str,
    ) -> Self {
        Self { status, name, title, detail, json }
    }

    /// Returns the URI of the problem.
    pub(super) fn uri(&self) -> String {
        BASE.get().map_or(default_base!(), |base| base).to_owned() + self.name
    }

    /// Returns the problem details, unless the app has set another base.
    pub(super) fn json(&self) -> Option<&'static str> {
        BASE.get().is_none().then_some(self.json)
    }
}

/// Makes a `&'static Problem` of literals: a status, a name, a title and a detail without quotes and backslashes.
macro_rules! problem {
    ($status:literal, $name:literal, $title:literal, $detail:literal) => {
        const {
            &$crate::web::refusal::problem::Problem::new(
                $status,
                $name,
                $title,
                $detail,
                concat!(
                    r#"{"type":""#,
                    $crate::web::refusal::problem::default_base!(),
                    $name,
                    r#"","title":""#,
                    $title,
                    r#"","status":"#,
                    $status,
                    r#","detail":""#,
                    $detail,
                    r#""}"#
                ),
            )
        }
    };
}

pub(super) use {default_base, problem};
