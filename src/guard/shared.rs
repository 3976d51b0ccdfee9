//! [`SharedGuard`], a guard that outlives whoever uses it.

use std::ops::Deref;
use std::sync::Arc;

use super::EndpointGuard;
use super::acquire::AcquireOwned;
use super::error::AcquireError;
use super::permit::{Held, OwnedPermit};

/// A guard that outlives whoever uses it: a `&'static EndpointGuard` or an `Arc<EndpointGuard>`.
///
/// What takes `impl Into<SharedGuard>`, such as the web layers, takes either of them. Clones are the same guard.
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
#[derive(Clone, Debug)]
pub struct SharedGuard(Share);

#[derive(Clone, Debug)]
enum Share {
    Static(&'static EndpointGuard),
    Counted(Arc<EndpointGuard>),
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
        self.enter_now()?;
        Ok(OwnedPermit(Held::new(self)))
    }
}

impl Deref for SharedGuard {
    type Target = EndpointGuard;

    #[inline]
    fn deref(&self) -> &EndpointGuard {
        match &self.0 {
            Share::Static(guard) => guard,
            Share::Counted(guard) => guard,
        }
    }
}

impl From<&'static EndpointGuard> for SharedGuard {
    fn from(guard: &'static EndpointGuard) -> Self {
        Self(Share::Static(guard))
    }
}

impl From<Arc<EndpointGuard>> for SharedGuard {
    fn from(guard: Arc<EndpointGuard>) -> Self {
        Self(Share::Counted(guard))
    }
}

impl From<&Arc<EndpointGuard>> for SharedGuard {
    fn from(guard: &Arc<EndpointGuard>) -> Self {
        Self(Share::Counted(Arc::clone(guard)))
    }
}
