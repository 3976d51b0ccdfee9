//! The `tracing` events of the actix-web adapter.

use crate::trace::TARGET;

pub(crate) fn stream_on_pool() {
    let message = "a handler on a pool returned a stream, which can't leave its thread: use an async handler";
    tracing::error!(target: TARGET, message);
}
