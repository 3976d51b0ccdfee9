//! [`Shared`], a guard that outlives its users.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::core::{GuardCore, HasGuardCore};

/// A guard that outlives its users: a `&'static` reference to one, or one in an `Arc`.
///
/// Functions that take `impl Into<Shared<…>>`, such as the constructors of the web layers, accept both. Clones refer to
/// the same guard.
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
pub struct Shared<T: 'static>(SharedInner<T>);

enum SharedInner<T: 'static> {
    Static(&'static T),
    Counted(Arc<T>),
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            SharedInner::Static(guard) => guard,
            SharedInner::Counted(guard) => guard,
        }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            SharedInner::Static(guard) => SharedInner::Static(guard),
            SharedInner::Counted(guard) => SharedInner::Counted(Arc::clone(guard)),
        })
    }
}

impl<T> From<&'static T> for Shared<T> {
    fn from(guard: &'static T) -> Self {
        Self(SharedInner::Static(guard))
    }
}

impl<T> From<Arc<T>> for Shared<T> {
    fn from(guard: Arc<T>) -> Self {
        Self(SharedInner::Counted(guard))
    }
}

impl<T> From<&Arc<T>> for Shared<T> {
    fn from(guard: &Arc<T>) -> Self {
        Self(SharedInner::Counted(Arc::clone(guard)))
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&&**self).finish()
    }
}

impl<T: HasGuardCore> HasGuardCore for Shared<T> {
    fn core(&self) -> &GuardCore {
        (**self).core()
    }
}
