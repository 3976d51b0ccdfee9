//! The `tracing` events of served connections.

use crate::trace::emit;

/// A client has left a connection unused, or has not sent the head of its request in time.
#[cold]
pub(super) fn connection_timed_out(has_begun: bool) {
    emit!(DEBUG, has_begun, "connection closed: its client sent no whole request in time");
}

/// The server ended before these requests did.
#[cold]
pub(super) fn requests_cut_off(requests: usize) {
    emit!(WARN, requests, "requests cut off: the server did not end in time");
}
