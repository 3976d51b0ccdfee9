//! The drain of a server that does not report what it reads and writes, such as actix-web.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::{Connection, Protocol};
use super::connections::Connections;
use crate::background::HostHandle;
use crate::sync::lock;

/// For how long no connection must have been opened before the server is taken to accept no more. The thread that
/// accepts connections does not report when it has stopped.
const QUIET: Duration = Duration::from_millis(20);

impl Connections {
    /// Waits until the host stops, and until no client may be about to send its next request, no longer than
    /// [`linger`](super::ServeConfig::linger). Meanwhile, the server accepts connections.
    pub(crate) async fn lingered(&self, host: &HostHandle) {
        self.begin_drain(host).await;
        let until = Instant::now().checked_add(self.config.linger);
        self.until(|all| !all.has_recent() || until.is_some_and(|until| until <= Instant::now())).await;
    }

    /// Returns `true` if no connection was opened a short time ago, and no client may be about to send a request.
    pub(crate) fn is_quiet(&self) -> bool {
        let opened_at = lock(&self.open).opened_at;
        opened_at.is_none_or(|at| at.elapsed() >= QUIET) && !self.has_recent()
    }

    /// Returns `true` if the connections that are still open need not be served any longer. This holds after the
    /// framework has closed idle HTTP/1 connections.
    pub(crate) fn have_ended(&self) -> bool {
        !self.has_recent() && !self.any(Connection::is_in_use)
    }

    fn has_recent(&self) -> bool {
        self.any(|connection| connection.is_recent(self.config.linger))
    }
}

impl Connection {
    /// Returns `true` if the connection is open only because its client may send another request, and has been so for
    /// less than this time.
    fn is_recent(&self, linger: Duration) -> bool {
        let state = lock(&self.state);
        state.requests == 0 && state.active_at.elapsed() < linger
    }

    /// Returns `true` if a request is in progress, or if its response may not be written yet.
    fn is_in_use(&self) -> bool {
        let state = lock(&self.state);
        state.requests > 0 || state.is_writing && state.protocol == Protocol::Http1
    }
}
