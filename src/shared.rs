//! [`Shared`], a guard, flight or limiter that outlives its users.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A guard, a flight or a limiter that outlives its users: a `&'static` reference to one, or one in an `Arc`.
///
/// Functions that take `impl Into<Shared<…>>`, such as the constructors of the web layers, accept both, and also a
/// guard by value, which they move into an `Arc`. Clones refer to the same guard.
///
/// ```
/// use std::sync::Arc;
/// use onelane::EndpointGuard;
/// use onelane::guard::SharedGuard;
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// let from_static = SharedGuard::from(&REPORT);
/// let from_arc = SharedGuard::from(Arc::new(EndpointGuard::new("export")));
/// # assert_eq!((from_static.name(), from_arc.name()), ("report", "export"));
/// ```
#[expect(private_bounds, reason = "the bound is sealed")]
pub struct Shared<T: Shareable + 'static>(SharedInner<T>);

/// A type that [`Shared`] holds: the crate's guards, flights and limiters.
pub(crate) trait Shareable {}

enum SharedInner<T: 'static> {
    Static(&'static T),
    Counted(Arc<T>),
}

impl<T: Shareable> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            SharedInner::Static(shared) => shared,
            SharedInner::Counted(shared) => shared,
        }
    }
}

impl<T: Shareable> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            SharedInner::Static(shared) => SharedInner::Static(shared),
            SharedInner::Counted(shared) => SharedInner::Counted(Arc::clone(shared)),
        })
    }
}

impl<T: Shareable> From<&'static T> for Shared<T> {
    fn from(shared: &'static T) -> Self {
        Self(SharedInner::Static(shared))
    }
}

impl<T: Shareable> From<T> for Shared<T> {
    fn from(shared: T) -> Self {
        Self::from(Arc::new(shared))
    }
}

impl<T: Shareable> From<Arc<T>> for Shared<T> {
    fn from(shared: Arc<T>) -> Self {
        Self(SharedInner::Counted(shared))
    }
}

impl<T: Shareable> From<&Arc<T>> for Shared<T> {
    fn from(shared: &Arc<T>) -> Self {
        Self(SharedInner::Counted(Arc::clone(shared)))
    }
}

impl<T: Shareable + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&&**self).finish()
    }
}
