//! The `tracing` events of the actix-web adapter.

use crate::trace::emit;

pub(crate) fn stream_on_pool() {
    emit!(ERROR, "a handler on a pool returned a stream, which can't leave its thread: use an async handler");
}
