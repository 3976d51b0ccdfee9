//! [`HostWatch`], which selects the watch of the server's runtime.

use tokio::runtime::Handle;

use super::trace;
use crate::watch::Watch;

/// The watch of a host that has not been started.
#[derive(Debug)]
pub(crate) enum HostWatch {
    /// The host starts a watch if no other watch has the runtime, and if the supervisor has its own thread. In a test,
    /// the supervisor may be a task of a runtime whose clock is paused. Such a host needs no thread at all, and has no
    /// watch.
    Own,
    Shared(Watch),
    None,
}

impl HostWatch {
    /// Returns the watch of the server's runtime, if there is one. A watch of the host's own ends when the value is
    /// dropped.
    pub(crate) fn start(self, server: &Handle, has_own_thread: bool) -> Option<Watch> {
        match self {
            Self::Own if has_own_thread => {
                let own = || Watch::builder().start(server).inspect_err(trace::watch_unavailable).ok();
                Watch::of(server).or_else(own)
            }
            Self::Shared(watch) => {
                watch.add(server);
                Some(watch)
            }
            Self::Own | Self::None => None,
        }
    }
}
