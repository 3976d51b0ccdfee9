//! The labels of routes: a method and a pattern, such as `GET /users/{id}`.
//!
//! Labels are never freed, so no client may create any: only the standard methods and the patterns of the app occur.

use crate::watch::Label;

/// Returns the method if HTTP defines it, and `OTHER` if not: a client may send any text as the method.
#[inline]
pub(super) fn standard_method(method: &str) -> &'static str {
    const STANDARD: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE"];
    STANDARD.into_iter().find(|standard| *standard == method).unwrap_or("OTHER")
}

/// Returns the label of a route. A request that no route matches has one label, whatever its method and path.
pub(super) fn route_label(method: &'static str, pattern: Option<&str>) -> Label {
    match pattern {
        Some(pattern) => Label::new(format!("{method} {pattern}")),
        None => Label::new("unmatched"),
    }
}
