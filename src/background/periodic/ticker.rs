//! [`Ticker`], what a periodic service and the status of its host share.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

/// The calls of a periodic service so far.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TickStatus {
    /// How many calls have begun.
    pub runs: u64,
}

pub(crate) struct Ticker {
    status: ArcSwap<TickStatus>,
    triggered: Notify,
}

impl Ticker {
    pub(crate) fn status(&self) -> Arc<TickStatus> {
        self.status.load_full()
    }

    pub(crate) fn trigger(&self) {
        self.triggered.notify_one();
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ticker").field(&self.status()).finish()
    }
}
