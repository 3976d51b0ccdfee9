//! The `tracing` events of a server.

use crate::trace::emit;

/// The program has replaced the callback that counts connections.
#[cold]
pub(super) fn connections_unknown() {
    emit!(WARN, "connections not counted: `on_connect` was replaced, wrap the new one in `Drain::on_connect`");
}
