//! [`FlightOptions`], which answers a flight layer shares.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::FlightKey;
use crate::guard::SingleFlight;
use crate::web::Refusal;
use crate::web::refusal::is_header_name;

/// Which answers a flight layer or middleware shares, and with whom.
///
/// The defaults never hand one user's answer to another, as long as users are told apart by `Authorization` or by
/// cookies: requests with either are served alone, unless you say what the header means. Where users are told apart by
/// something else, such as a header that a proxy sets, the key must hold it: name it with
/// [`key_header`](Self::key_header). The same goes for everything else that answers depend on, such as
/// `Accept-Encoding` or `X-Forwarded-Proto`, unless they say so with `Vary`: then they are not shared.
///
/// The host is part of the key as the client wrote it: `localhost` and `127.0.0.1` don't share.
///
/// ```
/// use std::time::Duration;
/// use onelane::web::FlightOptions;
///
/// let options = FlightOptions::new()
///     .key_header("authorization")    // users don't share with each other
///     .key_header("accept-language")  // neither do languages
///     .ignore_header("cookie")        // the answers don't depend on it
///     .wait_timeout(Duration::from_secs(5));
/// ```
#[derive(Clone)]
#[must_use]
pub struct FlightOptions {
    pub(super) key_headers: Vec<Cow<'static, str>>,
    pub(super) ignored_headers: Vec<Cow<'static, str>>,
    pub(crate) max_body: u64,
    max_waiters: Option<usize>,
    wait_timeout: Option<Duration>,
    detached: bool,
    on_refusal: Option<Arc<dyn Fn(Refusal) -> Refusal + Send + Sync>>,
}

impl FlightOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            key_headers: Vec::new(),
            ignored_headers: Vec::new(),
            max_body: 1024 * 1024,
            max_waiters: None,
            wait_timeout: None,
            detached: false,
            on_refusal: None,
        }
    }

    /// Requests share an answer only if they have the same values of this header, or none.
    ///
    /// An answer that varies by a header (`Vary`) which is neither named here nor [ignored](Self::ignore_header) is not
    /// shared.
    ///
    /// # Panics
    ///
    /// If `name` is no token of RFC 9110: no request has such a header, so it would tell nobody apart.
    pub fn key_header(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        assert!(is_header_name(&name), "{name:?} is no header name");
        self.key_headers.push(name);
        self
    }

    /// The answers don't depend on this request header, though it looks as if they did.
    ///
    /// Otherwise requests with `Authorization`, `Proxy-Authorization` or `Cookie` are served alone unless the header is
    /// part of the key, and so are those that ask for a part of an answer or for a changed one (`Range`, `If-…`).
    ///
    /// # Panics
    ///
    /// If `name` is no token of RFC 9110: no request has such a header, so there would be nothing to ignore.
    pub fn ignore_header(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        assert!(is_header_name(&name), "{name:?} is no header name");
        self.ignored_headers.push(name);
        self
    }

    /// How many bytes the body of a shared answer may have. Larger ones go to the request that they were made for, and
    /// the others are served alone. Default: 1 MiB.
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.max_body = bytes;
        self
    }

    /// How many requests may wait for an answer beside the one that it is made for; the next one is answered 503.
    /// Default: no limit.
    pub fn max_waiters(mut self, max_waiters: usize) -> Self {
        self.max_waiters = Some(max_waiters);
        self
    }

    /// How long a request waits for an answer at most, the one that it is made for too; then it is answered 503.
    /// Default: no limit.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn wait_timeout(mut self, wait_timeout: Duration) -> Self {
        assert!(!wait_timeout.is_zero(), "a wait_timeout of zero lets nobody wait: give one, or none");
        self.wait_timeout = Some(wait_timeout);
        self
    }

    /// Lets a handler finish though all its clients have left. By default it is dropped at its next `.await`.
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Changes the answer to requests that get none of the handler's: see [`Refusal`].
    pub fn on_refusal(mut self, change: impl Fn(Refusal) -> Refusal + Send + Sync + 'static) -> Self {
        self.on_refusal = Some(Arc::new(change));
        self
    }

    pub(crate) fn refuse(&self, refusal: Refusal) -> Refusal {
        match &self.on_refusal {
            Some(change) => change(refusal),
            None => refusal,
        }
    }

    pub(crate) fn flight<T>(&self, name: &'static str) -> SingleFlight<FlightKey, T> {
        let mut flight = SingleFlight::builder(name);
        if let Some(max_waiters) = self.max_waiters {
            flight = flight.max_waiters(max_waiters);
        }
        if let Some(wait_timeout) = self.wait_timeout {
            flight = flight.wait_timeout(wait_timeout);
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

impl fmt::Debug for FlightOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightOptions")
            .field("key_headers", &self.key_headers)
            .field("ignored_headers", &self.ignored_headers)
            .field("max_body", &self.max_body)
            .field("max_waiters", &self.max_waiters)
            .field("wait_timeout", &self.wait_timeout)
            .field("detached", &self.detached)
            .finish_non_exhaustive()
    }
}
