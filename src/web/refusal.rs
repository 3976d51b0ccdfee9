//! [`Refusal`], the response to a request that is refused.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::problem_base::ProblemType;
use crate::guard::{AcquireError, FlightError, FlightErrorKind};
#[cfg(feature = "offload")]
use crate::offload::OffloadError;

/// The shortest `Retry-After`, and the one that is sent if no better value is known.
pub(super) const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A header's name and value.
pub(crate) type RefusalHeader = (Cow<'static, str>, Cow<'static, str>);

/// The response to a request that is refused: a status, `Retry-After` where a retry makes sense, and a body as RFC 9457
/// describes it (`application/problem+json`).
///
/// The [tables of refusals](crate::web#refusals) list the response to each error. Change any part of it with
/// [`GuardOptions::on_refusal`](super::GuardOptions::on_refusal):
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
/// A refusal is itself a response, so a handler that acquires a permit itself can return a refusal:
/// `.map_err(Refusal::from)?`.
#[derive(Clone, Debug)]
#[must_use]
pub struct Refusal {
    reason: RefusalReason,
    status: u16,
    retry_after: Option<Duration>,
    kind: ProblemType,
    title: Cow<'static, str>,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    headers: Vec<RefusalHeader>,
    body: Option<(Cow<'static, str>, Bytes)>,
}

/// The reason why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The guard refused the request.
    Guard(AcquireError),
    /// The client disconnected while the request waited. No client receives this response; it appears in access logs.
    ClientGone,
    /// The run whose response the request was to share produced none, or the request could not wait for the run.
    Flight(FlightError<Infallible>),
    /// The work of the request produced no result: a pool did not accept the work, or the work took too long or
    /// panicked.
    #[cfg(feature = "offload")]
    Offload(OffloadError),
    /// The response that was made for the request ended early.
    AnswerBroken,
    /// The request has no key, and requests without a key are refused.
    KeyMissing,
    /// The body of the request ended early or was malformed while the request waited.
    BodyUnreadable,
    /// The service refused the request itself, with [`Refusal::custom`].
    Custom,
}

/// The members of a problem details object, in the order of RFC 9457, section 3.1.
#[derive(Serialize)]
struct ProblemDetails<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
}

impl Refusal {
    pub(super) fn new(
        reason: RefusalReason,
        status: u16,
        kind: &'static str,
        title: &'static str,
        detail: &'static str,
    ) -> Self {
        Self {
            reason,
            status,
            retry_after: None,
            kind: ProblemType::Own(kind),
            title: title.into(),
            detail: detail.into(),
            members: Map::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// Creates a refusal for a reason of the service's own, such as a tenant that is over its quota. `uri` identifies
    /// the kind of problem, and `title` describes it in words. There is no detail and no `Retry-After` yet.
    ///
    /// # Panics
    ///
    /// Panics if `status` is not from 400 to 599.
    #[track_caller]
    pub fn custom(status: u16, uri: impl Into<Cow<'static, str>>, title: impl Into<Cow<'static, str>>) -> Self {
        Self::new(RefusalReason::Custom, 500, "", "", "").with_status(status).with_type(uri).with_title(title)
    }

    /// Returns why the request is refused.
    pub fn reason(&self) -> &RefusalReason {
        &self.reason
    }

    /// Returns `true` if there are too many requests: the guard is busy, the queue of the guard or of a pool is full,
    /// too many keys are in use, or the request got no permit or no thread in time.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        match &self.reason {
            RefusalReason::Guard(error) => error.kind().is_overload(),
            RefusalReason::Flight(error) => {
                matches!(error.kind(), FlightErrorKind::TooManyWaiters | FlightErrorKind::Timeout)
            }
            #[cfg(feature = "offload")]
            RefusalReason::Offload(error) => error.is_overload(),
            _ => false,
        }
    }

    /// Returns the status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns how long the client is asked to wait, in whole seconds from 1 to 3,600.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns `type`, the URI that identifies the kind of problem.
    #[must_use]
    pub fn type_uri(&self) -> Cow<'_, str> {
        self.kind.uri()
    }

    /// Returns `title`, which describes the kind of problem in words.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns `detail`, which describes what happened to this request in words.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the headers that were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
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
    /// defaults, and [`set_problem_type_base`](super::set_problem_type_base) changes what they begin with.
    pub fn with_type(mut self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.kind = ProblemType::Other(uri.into());
        self
    }

    /// Sets `title`, which describes the kind of problem in words.
    pub fn with_title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets `detail`, which describes what happened to this request in words.
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
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
        // A closure would panic at its own location, not at the caller's.
        match serde_json::to_value(value) {
            Ok(value) => self.members.insert(name, value),
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
        self.headers.push((name, value));
        self
    }

    /// Replaces the problem details with another body.
    ///
    /// # Panics
    ///
    /// Panics if `content_type` is not visible ASCII.
    #[track_caller]
    pub fn with_body(mut self, content_type: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        let content_type = content_type.into();
        assert!(is_visible_ascii(&content_type), "{content_type:?} is not a content type");
        self.body = Some((content_type, body.into()));
        self
    }

    #[cfg(feature = "tower")]
    pub(crate) fn into_http<B>(self, body_from: impl FnOnce(Bytes) -> B) -> http::Response<B> {
        let (status, headers, body) = self.into_parts();
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name.as_ref(), value.as_ref());
        }
        response.body(body_from(body)).expect("the status and the headers are checked when they are set")
    }

    /// Returns the status, all headers and the body, as they are sent.
    pub(crate) fn into_parts(self) -> (u16, Vec<RefusalHeader>, Bytes) {
        let (content_type, body) = match self.body {
            Some(body) => body,
            None => {
                let Self { kind, title, detail, status, members, .. } = &self;
                let problem = ProblemDetails { r#type: &kind.uri(), title, status: *status, detail, members };
                let json = serde_json::to_vec(&problem).expect("strings, a number and JSON values can be serialized");
                ("application/problem+json".into(), Bytes::from(json))
            }
        };
        let mut headers = self.headers;
        let is_unset = |headers: &[RefusalHeader], name| !headers.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
        if is_unset(&headers, "content-type") {
            headers.push(("content-type".into(), content_type));
        }
        if let Some(after) = self.retry_after
            && is_unset(&headers, "retry-after")
        {
            headers.push(("retry-after".into(), after.as_secs().to_string().into()));
        }
        (self.status, headers, body)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)
    }
}

/// Returns `true` if `name` is a token of RFC 9110.
pub(super) fn is_header_name(name: &str) -> bool {
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
