//! [`FlightOptions`], which configure the responses that a flight layer shares.

use std::borrow::Cow;
use std::time::Duration;

use super::FlightKey;
use crate::debug::impl_debug;
use crate::guard::SingleFlight;
use crate::web::refusal::{RefusalHook, is_header_name};
use crate::web::{Refusal, RequestHead};

/// Configures which responses a flight layer or middleware shares, and among which requests.
///
/// With the defaults no user gets another user's response, as long as users are identified by `Authorization` or by
/// cookies: requests with either are served alone, unless you add the header to the key or ignore it. If users are
/// identified by something else, such as a header that a proxy sets, add it to the key with
/// [`key_header`](Self::key_header). The same applies to everything else that responses depend on, such as
/// `Accept-Encoding` or `X-Forwarded-Proto`. A response that lists such a header in `Vary` is shared only by requests
/// with the same values of that header, and the other requests join the next run. With the header in the key, requests
/// with different values run at the same time.
///
/// The host is part of the key as the client wrote it: requests to `localhost` and to `127.0.0.1` don't share a
/// response.
///
/// ```
/// use std::time::Duration;
/// use onelane::web::FlightOptions;
///
/// let options = FlightOptions::new()
///     .key_header("authorization")    // each user gets their own response
///     .key_header("accept-language")  // and so does each language
///     .ignore_header("cookie")        // responses don't depend on cookies
///     .max_wait(Duration::from_secs(5));
/// ```
#[derive(Clone)]
#[must_use]
pub struct FlightOptions {
    pub(super) key_headers: Vec<Cow<'static, str>>,
    pub(super) ignored_headers: Vec<Cow<'static, str>>,
    pub(super) max_body: u64,
    max_waiters: Option<usize>,
    max_wait: Option<Duration>,
    detached: bool,
    on_refusal: RefusalHook,
}

impl FlightOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            key_headers: Vec::new(),
            ignored_headers: Vec::new(),
            max_body: 1024 * 1024,
            max_waiters: None,
            max_wait: None,
            detached: false,
            on_refusal: RefusalHook::default(),
        }
    }

    /// Adds a request header to the key: requests share a response only if all of them have the same values of this
    /// header, or none of them has it.
    ///
    /// If a response lists a name in `Vary` that is neither added here nor [ignored](Self::ignore_header), only
    /// requests with the same values of that header share the response. The other requests join the next run.
    ///
    /// The layer panics if `name` is not a token of RFC 9110: no request has such a header, so all requests would have
    /// the same key.
    pub fn key_header(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.key_headers.push(name.into());
        self
    }

    /// Declares that responses don't depend on this request header.
    ///
    /// By default requests with `Authorization`, `Proxy-Authorization` or `Cookie` are served alone unless the header
    /// is part of the key, and so are partial and conditional requests (`Range`, `If-…`).
    ///
    /// The layer panics if `name` is not a token of RFC 9110: no request has such a header.
    pub fn ignore_header(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.ignored_headers.push(name.into());
        self
    }

    /// Limits the body of a shared response, in bytes. A larger response goes only to the request that it was made for,
    /// and the other requests are served alone. Default: 1 MiB.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// Limits how many requests may wait for a response in addition to the leader, the request that the response is
    /// made for. The next request gets a 503. The limit does not refuse a request that joins the next run because it
    /// could not share an earlier response. Default: no limit.
    pub fn max_waiters(mut self, max_waiters: usize) -> Self {
        self.max_waiters = Some(max_waiters);
        self
    }

    /// Limits how long each request waits for a response, including the leader. The limit covers all runs that a
    /// request waits for. After that time, the request gets a 503. Must be above zero. Default: no limit.
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = Some(max_wait);
        self
    }

    /// Lets a handler finish even if all its clients have disconnected. By default the handler is dropped at its next
    /// `.await`.
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Changes the response to requests that are refused: see [`Refusal`].
    pub fn on_refusal(mut self, change: impl Fn(Refusal, &RequestHead<'_>) -> Refusal + Send + Sync + 'static) -> Self {
        self.on_refusal = RefusalHook::new(change);
        self
    }

    pub(super) fn refuse(&self, refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        self.on_refusal.apply(refusal, head)
    }

    /// Returns `true` if a refusal may depend on the head of its request, which then must be kept.
    #[cfg(feature = "actix-web")]
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    pub(super) fn keeps_head(&self) -> bool {
        self.on_refusal.is_set()
    }

    /// Builds a flight with these options.
    ///
    /// # Panics
    ///
    /// Panics if an option is out of range.
    #[track_caller]
    pub(super) fn flight<T>(&self, name: &'static str) -> SingleFlight<FlightKey, T> {
        for header in self.key_headers.iter().chain(&self.ignored_headers) {
            assert!(is_header_name(header), "{header:?} is not a header name");
        }
        let mut flight = SingleFlight::builder(name);
        if let Some(max_waiters) = self.max_waiters {
            flight = flight.max_waiters(max_waiters);
        }
        if let Some(max_wait) = self.max_wait {
            flight = flight.max_wait(max_wait);
        }
        if self.detached {
            flight = flight.detached();
        }
        flight.build()
    }

    pub(super) fn is_key_header(&self, name: &str) -> bool {
        self.key_headers.iter().any(|header| header.eq_ignore_ascii_case(name))
    }

    pub(super) fn is_ignored(&self, name: &str) -> bool {
        self.ignored_headers.iter().any(|header| header.eq_ignore_ascii_case(name))
    }
}

impl Default for FlightOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl_debug!(FlightOptions |this| {
    key_headers: this.key_headers, ignored_headers: this.ignored_headers, max_body: this.max_body,
    max_waiters: this.max_waiters, max_wait: this.max_wait, detached: this.detached, ..
});
