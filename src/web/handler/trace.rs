//! The `tracing` events of handlers on process pools.

use crate::trace::emit;

#[cold]
pub(crate) fn not_sendable() {
    emit!(ERROR, "a handler in a worker process made a response that can't be sent: its body must be in memory");
}
