//! [`Shared`], a guard that outlives whoever uses it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::acquire::AcquireOwned;
use super::core::{Core, Gate, HasCore};
use super::error::AcquireError;
use super::permit::{Held, OwnedPermit};
use super::{EndpointGuard, KeyedGuard};

/// A guard that outlives whoever uses it: a `&'static` one, or one in an `Arc`.
///
/// What takes `impl Into<Shared<…>>`, such as the web layers, takes either of them. Clones are the same guard.
///
/// ```
/// use std::sync::Arc;
/// use onelane::{EndpointGuard, SharedGuard};
///
/// static REPORT: EndpointGuard = EndpointGuard::new("report");
///
/// let of_a_static = SharedGuard::from(&REPORT);
/// let of_an_arc = SharedGuard::from(Arc::new(EndpointGuard::new("export")));
/// # assert_eq!((of_a_static.name(), of_an_arc.name()), ("report", "export"));
/// ```
pub struct Shared<T: 'static>(Share<T>);

/// An [`EndpointGuard`] that outlives whoever uses it.
pub type SharedGuard = Shared<EndpointGuard>;

/// A [`KeyedGuard`] that outlives whoever uses it.
pub type SharedKeyedGuard<K> = Shared<KeyedGuard<K>>;

enum Share<T: 'static> {
    Static(&'static T),
    Counted(Arc<T>),
}

impl SharedGuard {
    /// Waits for a turn, as [`EndpointGuard::acquire`] does.
    ///
    /// # Cancel safety
    ///
    /// As [`EndpointGuard::acquire`]; errors and panics too.
    pub fn acquire_owned(self) -> AcquireOwned {
        AcquireOwned::new(self)
    }

    /// Takes a turn if one is free and nobody waits for it, as [`EndpointGuard::try_acquire`] does.
    ///
    /// # Errors
    ///
    /// [`Busy`](AcquireError::Busy) or [`Closed`](AcquireError::Closed), at once.
    pub fn try_acquire_owned(self) -> Result<OwnedPermit, AcquireError> {
        let mut gate = self;
        gate.enter_now()?;
        Ok(OwnedPermit(Held::new(gate)))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Share::Static(guard) => guard,
            Share::Counted(guard) => guard,
        }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Share::Static(guard) => Share::Static(guard),
            Share::Counted(guard) => Share::Counted(Arc::clone(guard)),
        })
    }
}

impl<T> From<&'static T> for Shared<T> {
    fn from(guard: &'static T) -> Self {
        Self(Share::Static(guard))
    }
}

impl<T> From<Arc<T>> for Shared<T> {
    fn from(guard: Arc<T>) -> Self {
        Self(Share::Counted(guard))
    }
}

impl<T> From<&Arc<T>> for Shared<T> {
    fn from(guard: &Arc<T>) -> Self {
        Self(Share::Counted(Arc::clone(guard)))
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&&**self).finish()
    }
}

impl<T: HasCore> HasCore for Shared<T> {
    fn core(&self) -> &Core {
        (**self).core()
    }
}
