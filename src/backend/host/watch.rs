//! [`Watch`], which wakes callers that wait for locks of other processes.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::guard_files::GuardFiles;
use crate::backend::BackendError;
use crate::debug::impl_debug;
use crate::sync::{Mutex, lock};

/// The events of the lock files. A task on the runtime that calls [`start`](Self::start) receives them.
pub(super) struct Watch(Arc<WatchedFiles>);

struct WatchedFiles {
    inotify: Inotify,
    by_watch: Mutex<HashMap<WatchDescriptor, Weak<GuardFiles>>>,
}

/// Gives the runtime access to the events.
struct EventSource(Arc<WatchedFiles>);

impl Watch {
    pub(super) fn start() -> Result<Self, BackendError> {
        let failed = |error| {
            BackendError::new("the lock files can't be watched: raise fs.inotify.max_user_instances").with_source(error)
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|error| failed(std::io::Error::from(error)))?;
        let files = Arc::new(WatchedFiles { inotify, by_watch: Mutex::new(HashMap::new()) });
        #[allow(deprecated, reason = "its replacement needs tokio 1.54")]
        let events = AsyncFd::with_interest(EventSource(Arc::clone(&files)), Interest::READABLE).map_err(failed)?;
        tokio::spawn(receive(events));
        Ok(Self(files))
    }

    /// Begins to watch the files of a guard.
    pub(super) fn add(&self, files: &Arc<GuardFiles>) -> Result<(), BackendError> {
        // `IN_MODIFY`: an owner has released a lock. `IN_CLOSE_WRITE`: a process has ended.
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        let watch = self.0.inotify.add_watch(&files.path, events).map_err(|error| {
            BackendError::new("the lock file can't be watched: raise fs.inotify.max_user_watches").with_source(error)
        })?;
        lock(&self.0.by_watch).insert(watch, Arc::downgrade(files));
        Ok(())
    }
}

impl AsRawFd for EventSource {
    fn as_raw_fd(&self) -> RawFd {
        self.0.inotify.as_fd().as_raw_fd()
    }
}

async fn receive(events: AsyncFd<EventSource>) {
    // An error means that the runtime shuts down.
    while let Ok(mut ready) = events.readable().await {
        let files = &events.get_ref().0;
        match files.inotify.read_events() {
            Ok(events) => {
                let by_watch = lock(&files.by_watch);
                let changed: Vec<_> =
                    events.iter().map(|event| (event.mask, by_watch.get(&event.wd).and_then(Weak::upgrade))).collect();
                let all: Vec<_> = by_watch.values().filter_map(Weak::upgrade).collect();
                drop(by_watch);
                for (kind, files) in changed {
                    match files {
                        Some(files) if kind.contains(AddWatchFlags::IN_MODIFY) => files.modified(),
                        Some(files) => files.changed.notify_waiters(),
                        // Events were lost.
                        None => all.iter().for_each(|files| files.changed.notify_waiters()),
                    }
                }
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(_) => {}
        }
    }
}

impl_debug!(Watch |this| { files: lock(&this.0.by_watch).len(), .. });
