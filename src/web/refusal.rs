//! [`Refusal`], the answer to a request that was not let in.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::guard::{AcquireError, FlightError};
#[cfg(feature = "offload")]
use crate::offload::{Cancelled, OffloadError};

/// What is said when nothing better is known, and the least that is ever said.
const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The most that is ever said.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A header's name and value.
pub(crate) type Header = (Cow<'static, str>, Cow<'static, str>);

/// The answer to a request that was not let in: a status, `Retry-After` where a retry makes sense, and a body as RFC
/// 9457 describes it (`application/problem+json`).
///
/// The [table of refusals](crate::web) says which error becomes what. Change any part of it with
/// [`GuardOptions::on_refusal`](super::GuardOptions::on_refusal):
///
/// ```
/// use onelane::web::{GuardOptions, Refusal};
///
/// let options = GuardOptions::new().on_refusal(|refusal: Refusal| {
///     if refusal.is_overload() {
///         refusal
///             .with_status(409)
///             .with_type("https://example.org/problems/in-use")
///             .with_detail("This device is being configured by someone else.")
///     } else {
///         refusal // closed, or a mistake in the service: left as it is
///     }
/// });
/// ```
///
/// It is a response of its own, so a handler that acquires by hand can return it: `.map_err(Refusal::from)?`.
#[derive(Clone, Debug)]
#[must_use]
pub struct Refusal {
    reason: RefusalReason,
    status: u16,
    retry_after: Option<Duration>,
    kind: Cow<'static, str>,
    title: Cow<'static, str>,
    detail: Cow<'static, str>,
    headers: Vec<Header>,
    body: Option<(Cow<'static, str>, Bytes)>,
}

/// Why a request was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The guard did not let it in.
    Guard(AcquireError),
    /// Its client left while it waited. Nobody reads this answer; it shows in access logs.
    ClientGone,
    /// The run whose answer it would have shared came to none, or it could not wait for it.
    Flight(FlightError<Infallible>),
    /// The work for it came to no result: a pool did not take it, or it took too long, or panicked.
    #[cfg(feature = "offload")]
    Offload(OffloadError),
    /// The answer that was made for it broke off before it was sent.
    AnswerBroken,
    /// It has no key, and whoever has none is refused.
    KeyMissing,
    /// Its body broke off or was malformed, which showed while it waited.
    BodyUnreadable,
}

/// The members of a problem, in the order of RFC 9457, section 3.1.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

impl Refusal {
    fn new(reason: RefusalReason, status: u16, kind: &'static str, title: &'static str, detail: &'static str) -> Self {
        Self {
            reason,
            status,
            retry_after: None,
            kind: kind.into(),
            title: title.into(),
            detail: detail.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    #[cfg(feature = "tower")]
    pub(crate) fn client_gone() -> Self {
        let detail = "The client closed its connection while the request waited.";
        Self::new(RefusalReason::ClientGone, 499, "urn:onelane:client-gone", "Client gone", detail)
    }

    pub(crate) fn key_missing() -> Self {
        let detail = "The request does not say for whom or what it is, which it must here.";
        Self::new(RefusalReason::KeyMissing, 400, "urn:onelane:key-missing", "Key missing", detail)
    }

    pub(crate) fn answer_broken() -> Self {
        let detail = "The server's answer broke off.";
        Self::new(RefusalReason::AnswerBroken, 500, "urn:onelane:answer-broken", "Answer broken", detail)
    }

    #[cfg(feature = "tower")]
    pub(crate) fn body_unreadable() -> Self {
        let detail = "The request body ended early or could not be understood.";
        let kind = "urn:onelane:body-unreadable";
        Self::new(RefusalReason::BodyUnreadable, 400, kind, "Request body unreadable", detail)
    }

    /// Why the request was not let in.
    pub fn reason(&self) -> &RefusalReason {
        &self.reason
    }

    /// There were too many requests: the guard was busy, its queue or that of a pool full, too many keys were in use, or the
    /// turn or the thread did not come in time.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        use AcquireError::{Busy, GrantExpired, QueueFull, Timeout, TooManyKeys};
        let error = match &self.reason {
            RefusalReason::Guard(error) => error,
            RefusalReason::Flight(FlightError::TooManyWaiters | FlightError::Timeout { .. }) => return true,
            #[cfg(feature = "offload")]
            RefusalReason::Offload(error) => return is_overload(error),
            _ => return false,
        };
        matches!(error, Busy { .. } | QueueFull { .. } | Timeout { .. } | TooManyKeys { .. } | GrantExpired)
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How long the client is asked to wait, in whole seconds from 1 to 3,600.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Answers with another status, such as 429 or 409.
    ///
    /// # Panics
    ///
    /// If `status` is not from 400 to 599.
    pub fn with_status(mut self, status: u16) -> Self {
        assert!((400..600).contains(&status), "a refusal has a status from 400 to 599, not {status}");
        self.status = status;
        self
    }

    /// Asks the client to come back after this long, in seconds rounded up. `None` sends no `Retry-After`.
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after.map(whole_seconds);
        self
    }

    /// Sets `type`, a URI that names the kind of problem. Default: `urn:onelane:…`.
    pub fn with_type(mut self, uri: impl Into<Cow<'static, str>>) -> Self {
        self.kind = uri.into();
        self
    }

    /// Sets `title`, what kind of problem it is, in words.
    pub fn with_title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets `detail`, what happened to this request, in words.
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds a header. `Content-Type` and `Retry-After` set here replace the ones that would be sent.
    ///
    /// # Panics
    ///
    /// If `name` is no token of RFC 9110, or `value` is not visible ASCII.
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        let (name, value) = (name.into(), value.into());
        assert!(is_header_name(&name), "{name:?} is no header name");
        assert!(value.bytes().all(|c| matches!(c, b' '..=b'~')), "{value:?} is no header value");
        self.headers.push((name, value));
        self
    }

    /// Answers with a body of your own instead of the problem.
    ///
    /// # Panics
    ///
    /// If `content_type` is not visible ASCII.
    pub fn with_body(mut self, content_type: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Self {
        let content_type = content_type.into();
        assert!(content_type.bytes().all(|c| matches!(c, b' '..=b'~')), "{content_type:?} is no content type");
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
        response.body(body_from(body)).expect("a refusal checks its status and headers when they are set")
    }

    /// All headers, with a body that is sent as it is.
    pub(crate) fn into_parts(self) -> (u16, Vec<Header>, Bytes) {
        let (content_type, body) = match self.body {
            Some(body) => body,
            None => {
                let Self { kind, title, detail, status, .. } = &self;
                let problem = Problem { r#type: kind, title, status: *status, detail };
                let json = serde_json::to_vec(&problem).expect("strings and a number become JSON");
                ("application/problem+json".into(), Bytes::from(json))
            }
        };
        let mut headers = self.headers;
        let is_free = |headers: &[Header], name| !headers.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
        if is_free(&headers, "content-type") {
            headers.push(("content-type".into(), content_type));
        }
        if let Some(after) = self.retry_after
            && is_free(&headers, "retry-after")
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

impl From<AcquireError> for Refusal {
    fn from(error: AcquireError) -> Self {
        let (status, kind, title, detail) = match &error {
            AcquireError::Busy { .. } => {
                (503, "urn:onelane:busy", "Busy", "Another request is being served here. Try again later.")
            }
            AcquireError::QueueFull { .. } => {
                (503, "urn:onelane:queue-full", "Queue full", "Too many requests wait here. Try again later.")
            }
            AcquireError::TooManyKeys { .. } => (
                503,
                "urn:onelane:too-many-keys",
                "Too many keys",
                "Too many different requests are being served here. Try again later.",
            ),
            AcquireError::Timeout { .. } => {
                (503, "urn:onelane:timeout", "No turn in time", "The requests before this one took too long.")
            }
            AcquireError::GrantExpired => (
                503,
                "urn:onelane:grant-expired",
                "Turn missed",
                "The server was too slow to take this request's turn.",
            ),
            AcquireError::Closed => (503, "urn:onelane:closed", "Closed", "No more requests are admitted here."),
            AcquireError::WouldDeadlock => {
                (500, "urn:onelane:would-deadlock", "Would wait for itself", "The server's handler waits for itself.")
            }
            AcquireError::BlockingInAsync => (
                500,
                "urn:onelane:blocking-in-async",
                "Would block the server",
                "The server's handler waits where it must not.",
            ),
        };
        let retry_after = match &error {
            AcquireError::Busy { .. }
            | AcquireError::QueueFull { .. }
            | AcquireError::TooManyKeys { .. }
            | AcquireError::Timeout { .. } => Some(error.retry_after().unwrap_or(LEAST_RETRY_AFTER)),
            AcquireError::GrantExpired => Some(LEAST_RETRY_AFTER),
            _ => None,
        };
        Self::new(RefusalReason::Guard(error), status, kind, title, detail).with_retry_after(retry_after)
    }
}

impl From<FlightError<Infallible>> for Refusal {
    fn from(error: FlightError<Infallible>) -> Self {
        let (status, kind, title, detail) = match &error {
            FlightError::Failed(never) => match **never {},
            FlightError::Panicked { .. } => {
                (500, "urn:onelane:panicked", "Handler failed", "The server's handler failed.")
            }
            FlightError::TooManyWaiters => (
                503,
                "urn:onelane:too-many-waiters",
                "Too many waiters",
                "Too many requests wait for this answer. Try again later.",
            ),
            FlightError::Timeout { .. } => {
                (503, "urn:onelane:timeout", "No answer in time", "The answer took too long. Try again later.")
            }
            FlightError::WouldDeadlock => {
                (500, "urn:onelane:would-deadlock", "Would wait for itself", "The server's handler waits for itself.")
            }
        };
        let is_overload = matches!(error, FlightError::TooManyWaiters | FlightError::Timeout { .. });
        let retry_after = is_overload.then_some(LEAST_RETRY_AFTER);
        Self::new(RefusalReason::Flight(error), status, kind, title, detail).with_retry_after(retry_after)
    }
}

#[cfg(feature = "offload")]
impl From<OffloadError> for Refusal {
    fn from(error: OffloadError) -> Self {
        let (status, kind, title, detail) = match &error {
            OffloadError::Full { .. } => {
                (503, "urn:onelane:pool-full", "Too much to do", "Too many requests wait here. Try again later.")
            }
            OffloadError::QueueTimeout { .. } | OffloadError::Timeout { still_running: false } => {
                (503, "urn:onelane:timeout", "No thread in time", "The requests before this one took too long.")
            }
            // No gateway is in it, but no other status tells "it took too long" from "there is too much to do".
            OffloadError::Timeout { still_running: true } => {
                (504, "urn:onelane:took-too-long", "Took too long", "The server's handler took too long.")
            }
            OffloadError::Cancelled => {
                (503, "urn:onelane:cancelled", "Cancelled", "The server has cancelled the work for this request.")
            }
            OffloadError::Panicked(_) => {
                (500, "urn:onelane:panicked", "Handler failed", "The server's handler failed.")
            }
            OffloadError::Closed => (503, "urn:onelane:closed", "Closed", "No more requests are admitted here."),
            OffloadError::RuntimeShutdown => {
                (503, "urn:onelane:shutting-down", "Shutting down", "The server is shutting down.")
            }
            OffloadError::NoThread => {
                (503, "urn:onelane:no-thread", "No thread left", "The server has too much to do. Try again later.")
            }
            OffloadError::NoRuntime => (
                500,
                "urn:onelane:no-runtime",
                "No runtime",
                "The server's handler calls for work where it can't be done.",
            ),
        };
        let retry_after = is_overload(&error).then_some(LEAST_RETRY_AFTER);
        Self::new(RefusalReason::Offload(error), status, kind, title, detail).with_retry_after(retry_after)
    }
}

/// A function that stops since its time is over is answered as one that goes on. If it stops since its client has left, nobody
/// reads the answer.
#[cfg(feature = "offload")]
impl From<Cancelled> for Refusal {
    fn from(_: Cancelled) -> Self {
        OffloadError::Timeout { still_running: true }.into()
    }
}

/// Whether there was too much to do, so that a retry makes sense.
#[cfg(feature = "offload")]
fn is_overload(error: &OffloadError) -> bool {
    use OffloadError::{Full, NoThread, QueueTimeout, Timeout};
    matches!(error, Full { .. } | QueueTimeout { .. } | Timeout { still_running: false } | NoThread)
}

/// Whether it is a token of RFC 9110.
pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.bytes().all(is_token)
}

fn whole_seconds(duration: Duration) -> Duration {
    let rounded_up = duration.saturating_add(Duration::from_nanos(999_999_999)).as_secs();
    Duration::from_secs(rounded_up).clamp(LEAST_RETRY_AFTER, MOST_RETRY_AFTER)
}
