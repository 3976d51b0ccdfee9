//! The drain of a server that does not report what it reads and writes, such as actix-web.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::connections::Connections;
use crate::background::HostHandle;
use crate::sync::lock;

/// For how long no connection must have been opened before the server is taken to accept no more. The thread that
/// accepts connections does not report when it has stopped.
const QUIET: Duration = Duration::from_millis(20);

/// How long a server at least has for the last bytes of a response, whose body it drops before it writes them. Its
/// buffers are small, and a client that reads makes room for all of them at once.
const FLUSH: Duration = Duration::from_millis(20);

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

    /// Returns `true` if the connections that are still open need not be served any longer: what their requests had to
    /// write has been written.
    pub(crate) fn have_ended(&self) -> bool {
        let flushes = self.config.linger.max(FLUSH);
        !self.any(|connection| connection.is_in_use() || connection.is_recent(flushes))
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

    fn is_in_use(&self) -> bool {
        lock(&self.state).requests > 0
    }
}
