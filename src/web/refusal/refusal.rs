//! [`Refusal`], the response to a request that is refused.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::RefusalReason;
use super::problem::Problem;

/// The shortest `Retry-After`, and the one that is sent if no better value is known.
pub(super) const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The response to a request that is refused: a status, `Retry-After` where a retry makes sense, and a body as RFC 9457
/// describes it (`application/problem+json`).
///
/// The [tables of refusals](crate::web#refusals) list the response to each error. Change any part of it with
/// [`GuardOptions::on_refusal`](crate::web::GuardOptions::on_refusal):
///
/// ```
/// use onelane::web::{GuardOptions, Refusal};
///
/// let options = GuardOptions::new().on_refusal(|refusal: Refusal, _| {
///     if refusal.is_overload() {
///         refusal
///             .with_status(409)
///             .with_type("https://example.org/problems/in-use")
///             .with_detail("Another client is configuring this device.")
///     } else {
///         refusal // closed, or a bug in the service: unchanged
///     }
/// });
/// ```
///
/// A gRPC client gets the refusal as a [gRPC status](crate::web#refusals), and each added header as metadata.
///
/// A refusal is itself a response, so a handler that acquires a permit itself can return a refusal:
/// `.map_err(Refusal::from)?`.
#[derive(Clone, Debug)]
#[must_use]
pub struct Refusal {
    reason: RefusalReason,
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) problem: &'static Problem,
    /// `None` if every part of the refusal comes from its problem.
    pub(super) extras: Option<Box<RefusalExtras>>,
}

/// The rarely used parts of a refusal.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusalExtras {
    pub(super) uri: Option<Cow<'static, str>>,
    title: Option<Cow<'static, str>>,
    detail: Option<Cow<'static, str>>,
    pub(super) members: Map<String, Value>,
    pub(super) headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The content type and the body that replace the problem details.
    pub(super) body: Option<(Cow<'static, str>, Bytes)>,
    /// The content type of the request, if it is a gRPC call.
    pub(super) grpc: Option<String>,
}

impl Refusal {
    pub(super) fn new(reason: RefusalReason, problem: &'static Problem) -> Self {
        Self { reason, status: problem.status, retry_after: None, problem, extras: None }
    }

    /// Creates a refusal for a reason of the service's own, such as a tenant that is over its quota. `uri` identifies
    /// the kind of problem, and `title` describes it in words. There is no detail and no `Retry-After` yet.
    ///
    /// # Panics
    ///
    /// Panics if `status` is not from 400 to 599.
    #[track_caller]
    pub fn custom(status: u16, uri: impl Into<Cow<'static, str>>, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(RefusalReason::Custom, Problem::CUSTOM).with_status(status).with_type(uri).with_title(title)
    }

    pub(super) fn extras(&mut self) -> &mut RefusalExtras {
        self.extras.get_or_insert_default()
    }

    /// Returns why the request is refused.
    #[must_use]
    pub fn reason(&self) -> &RefusalReason {
        &self.reason
    }

    /// Returns `true` if there are too many requests: the guard is busy, the queue of the guard or of a pool is full,
    /// too many keys are in use, or the request got no permit or no thread in time.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        self.reason.is_overload()
    }

    /// Returns the status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns how long the client is asked to wait, in whole seconds from 1 to 3,600.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns `type`, the URI that identifies the kind of problem.
    #[must_use]
    pub fn type_uri(&self) -> String {
        let set = self.extras.as_ref().and_then(|extras| extras.uri.as_deref());
        set.map_or_else(|| self.problem.uri(), str::to_owned)
    }

    /// Returns `title`, which describes the kind of problem in words.
    #[must_use]
    pub fn title(&self) -> &str {
        self.extras.as_ref().and_then(|extras| extras.title.as_deref()).unwrap_or(self.problem.title)
    }

    /// Returns `detail`, which describes what happened to this request in words.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.extras.as_ref().and_then(|extras| extras.detail.as_deref()).unwrap_or(self.problem.detail)
    }

    /// Returns the headers that were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.extras.iter().flat_map(|extras| &extras.headers).map(|(name, value)| (&**name, &**value))
    }

    /// Sets the status, such as 429 or 409.
    ///
    /// # Panics
    ///
    /// Panics if `status` is not from 400 to 599.
    #[track_caller]
    pub fn with_status(mut self, status: u16) -> Self {
        assert!((400..600).contains(&status), "a refusal must have a status from 400 to 599, not {status}");
        self.status = status;
        self
    }

    /// Asks the client to retry after this time, rounded up to whole seconds. `None` sends no `Retry-After`.
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after.map(whole_seconds);
        self
    }

    /// Sets `type`, a URI that identifies the kind of problem. The [tables of refusals](crate::web#refusals) list the
    /// defaults, and [`set_problem_type_base`](crate::web::set_problem_type_base) changes what they begin with.
    pub fn with_type(mut self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.extras().uri = Some(uri.into());
        self
    }

    /// Sets `title`, which describes the kind of problem in words.
    pub fn with_title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.extras().title = Some(title.into());
        self
    }

    /// Sets `detail`, which describes what happened to this request in words.
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.extras().detail = Some(detail.into());
        self
    }

    /// Adds a member to the problem details, such as a `trace_id` or the limits of a tenant (RFC 9457, section 3.2).
    ///
    /// # Panics
    ///
    /// Panics if `name` is a member that another method sets, such as `status`, or if `value` cannot be serialized.
    #[track_caller]
    pub fn with_member(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        let name = name.into();
        let is_own = ["type", "title", "status", "detail"].contains(&&*name);
        assert!(!is_own, "the member {name:?} has its own method: use with_{name}");
        // With `unwrap_or_else`, the panic would have the location of the closure, not of the caller.
        match serde_json::to_value(value) {
            Ok(value) => self.extras().members.insert(name, value),
            Err(error) => panic!("the member {name:?} cannot be serialized: {error}"),
        };
        self
    }

    /// Adds a header. A `Content-Type` or `Retry-After` set here replaces the default one.
    ///
    /// # Panics
    ///
    /// Panics if `name` is not a token of RFC 9110, or if `value` is not visible ASCII.
    #[track_caller]
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        let (name, value) = (name.into(), value.into());
        assert!(is_header_name(&name), "{name:?} is not a header name");
        assert!(is_visible_ascii(&value), "{value:?} is not a header value");
        self.extras().headers.push((name, value));
        self
    }

    /// Replaces the problem details with another body. gRPC clients get no body.
    ///
    /// # Panics
    ///
    /// Panics if `content_type` is not visible ASCII.
    #[track_caller]
    pub fn with_body(mut self, content_type: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        let content_type = content_type.into();
        assert!(is_visible_ascii(&content_type), "{content_type:?} is not a content type");
        self.extras().body = Some((content_type, body.into()));
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title(), self.detail())
    }
}

/// Returns `true` if `name` is a token of RFC 9110.
pub(in crate::web) fn is_header_name(name: &str) -> bool {
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.bytes().all(is_token)
}

fn is_visible_ascii(value: &str) -> bool {
    value.bytes().all(|c| matches!(c, b' '..=b'~'))
}

fn whole_seconds(duration: Duration) -> Duration {
    let rounded_up = duration.saturating_add(Duration::from_nanos(999_999_999)).as_secs();
    Duration::from_secs(rounded_up).clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER)
}
