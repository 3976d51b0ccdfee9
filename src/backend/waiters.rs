//! [`Waiters`], the callers of this process that wait for a release.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::sync::{Mutex, lock};

/// The channels that this process listens to, each with the callers that wait for a message.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<String, Channel>>);

#[derive(Debug, Default)]
struct Channel {
    waiters: usize,
    released: Arc<Notify>,
    /// A running task ends the subscription when there are no waiters.
    is_cleaned: bool,
}

/// A caller that waits for a message.
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    pub(super) channel: String,
    pub(super) released: Arc<Notify>,
    /// The process does not listen to the channel yet.
    pub(super) is_first: bool,
}

impl Waiters {
    pub(super) fn add(self: &Arc<Self>, name: String) -> Waiter {
        let mut channels = lock(&self.0);
        let is_first = !channels.contains_key(&name);
        let channel = channels.entry(name.clone()).or_default();
        channel.waiters += 1;
        Waiter { waiters: Arc::clone(self), channel: name, released: Arc::clone(&channel.released), is_first }
    }

    /// Returns `true` if this process listens to the channel.
    pub(super) fn has(&self, channel: &str) -> bool {
        lock(&self.0).contains_key(channel)
    }

    pub(super) fn channels(&self) -> Vec<String> {
        lock(&self.0).keys().cloned().collect()
    }

    /// Removes a channel without waiters. Returns `false` if the channel has waiters.
    pub(super) fn remove_unused(&self, name: &str) -> bool {
        let mut channels = lock(&self.0);
        if channels.get(name).is_some_and(|channel| channel.waiters > 0) {
            return false;
        }
        let removed = channels.remove(name);
        drop(channels);
        drop(removed);
        true
    }

    /// Wakes the callers that wait for a message of a channel.
    pub(super) fn notify(&self, name: &str) {
        let released = lock(&self.0).get(name).map(|channel| Arc::clone(&channel.released));
        released.iter().for_each(|released| released.notify_waiters());
    }

    /// Wakes all callers.
    pub(super) fn notify_all(&self) {
        let all: Vec<_> = lock(&self.0).values().map(|channel| Arc::clone(&channel.released)).collect();
        all.iter().for_each(|released| released.notify_waiters());
    }
}

impl Waiter {
    /// Ends the wait. Returns `true` if the caller must clean up the channel once it is no longer used.
    pub(super) fn leave(&self) -> bool {
        let mut channels = lock(&self.waiters.0);
        let Some(channel) = channels.get_mut(&self.channel) else { return false };
        channel.waiters -= 1;
        channel.waiters == 0 && !std::mem::replace(&mut channel.is_cleaned, true)
    }
}
