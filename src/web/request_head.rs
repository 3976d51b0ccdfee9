//! [`RequestHead`], what refusals and extractors see of a request, in any framework.

use std::any::Any;
use std::fmt;

/// The head of a request, in any framework: what a refusal or an extractor may depend on.
///
/// ```
/// use onelane::web::{GuardOptions, RequestHead};
///
/// let options = GuardOptions::new().on_refusal(|refusal, head: &RequestHead<'_>| {
///     match head.header("accept-language") {
///         Some(language) if language.starts_with("de") => refusal.with_detail("Bitte später wieder versuchen."),
///         _ => refusal,
///     }
/// });
/// ```
pub struct RequestHead<'a>(&'a dyn HeadView);

/// A framework's own type for the head of a request.
pub(crate) trait HeadView {
    fn method(&self) -> &str;
    fn path(&self) -> &str;
    fn query(&self) -> Option<&str>;
    fn header(&self, name: &str) -> Option<&[u8]>;
    fn native(&self) -> &dyn Any;
}

impl<'a> RequestHead<'a> {
    pub(crate) fn new(head: &'a dyn HeadView) -> Self {
        Self(head)
    }

    /// Returns the method, such as `"GET"`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.0.method()
    }

    /// Returns the path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// Returns the query, without the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.0.query()
    }

    /// Returns the first value of a header, if there is one and it is UTF-8. `name` is case-insensitive.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.0.header(name)?).ok()
    }

    /// Returns the framework's own type: [`http::request::Parts`] in axum and tower, `actix_web::HttpRequest` in
    /// actix-web.
    ///
    /// Returns `None` for another type, and in actix-web if the request was consumed by a flight.
    #[must_use]
    pub fn native<T: 'static>(&self) -> Option<&T> {
        self.0.native().downcast_ref()
    }
}

impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
