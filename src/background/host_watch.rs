//! [`HostWatch`], the watch over the server's runtime.

use tokio::runtime::Handle;

use super::trace;
use crate::watch::Watch;

/// The watch of a host that has not been started.
#[derive(Debug)]
pub(crate) enum HostWatch {
    /// The host starts one, if the runtime has none, and if the supervisor has a thread of its own. The supervisor of a
    /// test may be a task of a runtime whose clock is paused, and such a host needs no thread at all.
    Own,
    Shared(Watch),
    None,
}

impl HostWatch {
    /// Watches the server's runtime while the returned value exists.
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
