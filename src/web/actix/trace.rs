//! The `tracing` events of the actix-web adapter.

use crate::trace::TARGET;

pub(crate) fn stream_on_pool() {
    let message =
        "a handler on a pool has answered with a stream, which can't leave its thread: let an async one do it";
    tracing::error!(target: TARGET, message);
}
