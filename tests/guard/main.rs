//! Guards, keyed guards and single flights, tested through the public API.

mod cancellation;
mod endpoint_guard;
mod hops;
mod keyed_cancellation;
mod keyed_guard;
mod panicking_wakers;
mod single_flight;

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use onelane::AcquireError;
use onelane::guard::AcquireErrorKind;
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

/// Keys that all have the same hash, and therefore the same shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Colliding(u32);

impl Hash for Colliding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        0_u8.hash(state);
    }
}

impl From<u32> for Colliding {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

/// Fails instead of hanging. Where time is paused, it fails at once.
async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(1_000 * SECOND, future).await.expect("the future hangs")
}

/// Returns the kind of an error, to compare the results of nested calls.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn kind(error: AcquireError) -> AcquireErrorKind {
    error.kind()
}

fn is_full(error: &AcquireError) -> bool {
    error.kind() == AcquireErrorKind::QueueFull
}

fn is_busy(error: &AcquireError) -> bool {
    error.kind() == AcquireErrorKind::Busy
}
