//! [`ManagedList`], what a host closes and drains while it stops.

use std::fmt;
use std::sync::Arc;

use crate::managed::{Managed, ManagedSnapshot};
use crate::panic::catch;

/// What a host closes and drains, in the order in which it was given.
#[derive(Clone, Default)]
pub(crate) struct ManagedList(pub(crate) Vec<Arc<dyn Managed>>);

impl ManagedList {
    /// Returns names and current states. `name` and `snapshot` may be user code. Values whose code panics are left out.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = (Arc<str>, ManagedSnapshot)> + '_ {
        self.0.iter().filter_map(|managed| catch(|| (Arc::from(managed.name()), managed.snapshot())).ok())
    }
}

impl fmt::Debug for ManagedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.snapshots()).finish()
    }
}
