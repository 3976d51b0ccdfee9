//! [`AcquireError`], the reason why a guard refused a caller.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error_kind::AcquireErrorKind;
use super::retry::RetryEstimate;
use crate::name::NameRef;
use crate::rounded::rounded;

/// The reason why a guard refused a caller.
///
/// [`kind`](Self::kind) returns the reason, for code. The `Display` text is for the developer's log: it names the guard
/// and gives advice. A client of the service gets neither: the web adapters convert the error to a response with a text
/// of its own, as the [table of refusals](crate::web) describes.
///
/// A test of your code can create an error from a kind:
///
/// ```
/// use onelane::guard::AcquireErrorKind;
/// use onelane::{AcquireError, EndpointGuard};
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// let _permit = REPORT.try_acquire()?;
/// let error = REPORT.try_acquire().unwrap_err();
/// assert_eq!((error.kind(), error.name()), (AcquireErrorKind::Busy, Some("report")));
/// let made = AcquireError::from(AcquireErrorKind::Busy);
/// assert_eq!((made.kind(), made.name()), (AcquireErrorKind::Busy, None));
/// # Ok::<(), AcquireError>(())
/// ```
#[derive(Clone)]
pub struct AcquireError(ErrorParts);

/// Two words in all: a refusal that fits in `Inline` costs no allocation.
#[derive(Clone)]
enum ErrorParts {
    // The fields of the estimate are not a struct, since a struct would be padded.
    Inline { name: Option<NameRef>, interval: u32, releases: u16, kind: AcquireErrorKind },
    Boxed(Box<BoxedParts>),
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<AcquireError>() == 2 * size_of::<usize>());

#[derive(Clone)]
struct BoxedParts {
    name: Option<NameRef>,
    kind: AcquireErrorKind,
    retry_after: Option<Duration>,
    waited: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl AcquireError {
    #[inline]
    pub(super) fn new(name: Option<NameRef>, kind: AcquireErrorKind, retry: RetryEstimate) -> Self {
        let RetryEstimate { interval, releases } = retry;
        Self(ErrorParts::Inline { name, interval, releases, kind })
    }

    pub(super) fn timed_out(name: NameRef, waited: Duration, retry: RetryEstimate) -> Self {
        Self::new(Some(name), AcquireErrorKind::Timeout, retry).after(waited)
    }

    /// Records how long the caller waited.
    pub(super) fn after(self, waited: Duration) -> Self {
        self.with(|parts| parts.waited = Some(waited))
    }

    /// Returns what happened.
    #[must_use]
    pub fn kind(&self) -> AcquireErrorKind {
        match &self.0 {
            ErrorParts::Inline { kind, .. } => *kind,
            ErrorParts::Boxed(parts) => parts.kind,
        }
    }

    /// Returns the guard's name, or `None` if the error was made from its kind.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            ErrorParts::Inline { name, .. } => name.copied(),
            ErrorParts::Boxed(parts) => parts.name.copied(),
        }
    }

    /// Returns how long to wait before the next attempt, if it can be estimated:
    /// mean hold × (callers waiting + 1) ÷ permits.
    ///
    /// Returns `None` if waiting does not help, or if the guard has not yet measured how long its permits are held.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.0 {
            &ErrorParts::Inline { interval, releases, .. } => RetryEstimate { interval, releases }.delay(),
            ErrorParts::Boxed(parts) => parts.retry_after,
        }
    }

    /// Returns how long the caller waited, for a [`Timeout`](AcquireErrorKind::Timeout), and for a
    /// [`QueueFull`](AcquireErrorKind::QueueFull) of a caller that was in the queue.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        match &self.0 {
            ErrorParts::Inline { .. } => None,
            ErrorParts::Boxed(parts) => parts.waited,
        }
    }

    /// Sets the cause, such as a lost connection to a lock server. [`source`](Error::source) returns it.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        self.with(|parts| parts.source = Some(source.into()))
    }

    /// Sets how long to wait before the next attempt.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        self.with(|parts| parts.retry_after = Some(retry_after))
    }

    fn with(self, change: impl FnOnce(&mut BoxedParts)) -> Self {
        let retry_after = self.retry_after();
        let mut parts = match self.0 {
            ErrorParts::Boxed(parts) => parts,
            ErrorParts::Inline { name, kind, .. } => {
                Box::new(BoxedParts { name, kind, retry_after, waited: None, source: None })
            }
        };
        change(&mut parts);
        Self(ErrorParts::Boxed(parts))
    }
}

impl From<AcquireErrorKind> for AcquireError {
    fn from(kind: AcquireErrorKind) -> Self {
        Self::new(None, kind, RetryEstimate::NONE)
    }
}

/// Compares the kinds, names and times, but not the sources.
impl PartialEq for AcquireError {
    fn eq(&self, other: &Self) -> bool {
        let parts = |error: &Self| (error.kind(), error.retry_after(), error.waited());
        parts(self) == parts(other) && self.name() == other.name()
    }
}

impl Eq for AcquireError {}

impl PartialEq<AcquireErrorKind> for AcquireError {
    fn eq(&self, kind: &AcquireErrorKind) -> bool {
        self.kind() == *kind
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            write!(f, "guard `{name}`: ")?;
        }
        match (self.kind(), self.waited()) {
            (AcquireErrorKind::Timeout, Some(waited)) => {
                write!(f, "no permit within {:?}: try again later, or raise max_wait", rounded(waited))
            }
            (AcquireErrorKind::QueueFull, Some(waited)) => {
                write!(f, "evicted from the full queue by a newer caller after {waited:?}: ")?;
                f.write_str("try again later, or let the guard queue more callers")
            }
            (kind, _) => kind.fmt(f),
        }
    }
}

impl fmt::Debug for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("AcquireError");
        debug.field("kind", &self.kind()).field("name", &self.name()).field("retry_after", &self.retry_after());
        debug.field("waited", &self.waited()).field("source", &self.source()).finish()
    }
}

impl Error for AcquireError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            ErrorParts::Inline { .. } => None,
            ErrorParts::Boxed(parts) => parts.source.as_deref().map(|source| source as _),
        }
    }
}
