//! [`ServeConfig`], the options of a server.

use std::time::Duration;

use crate::web::BackgroundTasksConfig;
#[cfg(feature = "actix-web")]
use crate::web::TaskStart;

/// The options of a server that drains with its host.
///
/// | option | default |
/// |---|---|
/// | [`drain_delay`](Self::drain_delay) | none |
/// | [`linger`](Self::linger) | 250 ms |
/// | [`first_byte_timeout`](Self::first_byte_timeout) | 30 seconds |
/// | [`header_timeout`](Self::header_timeout) | 10 seconds |
/// | [`max_connections`](Self::max_connections) | no limit |
/// | [`background_tasks`](Self::background_tasks) | [`BackgroundTasksConfig::new`] |
///
/// With actix-web, `first_byte_timeout`, `header_timeout` and `max_connections` have no effect: `HttpServer` has its
/// own settings for them.
#[derive(Clone, Debug)]
#[must_use = "options do nothing unless they are passed to a server"]
pub struct ServeConfig {
    pub(super) drain_delay: Duration,
    pub(super) linger: Duration,
    pub(super) first_byte_timeout: Option<Duration>,
    pub(super) header_timeout: Option<Duration>,
    pub(super) max_connections: usize,
    pub(super) background_tasks: BackgroundTasksConfig,
}

impl ServeConfig {
    /// Returns the default options.
    pub const fn new() -> Self {
        Self {
            drain_delay: Duration::ZERO,
            linger: Duration::from_millis(250),
            first_byte_timeout: Some(Duration::from_secs(30)),
            header_timeout: Some(Duration::from_secs(10)),
            max_connections: usize::MAX,
            background_tasks: BackgroundTasksConfig::new(),
        }
    }

    /// Sets the [delay](Self::drain_delay) to 5 seconds.
    ///
    /// Kubernetes sends SIGTERM to a pod while it removes the pod from its load balancers, and requests still arrive
    /// until every load balancer is updated. The delay is a part of the host's
    /// [`shutdown_timeout`](crate::background::ServiceHostBuilder::shutdown_timeout), so keep that timeout below the
    /// pod's `terminationGracePeriodSeconds`, which is 30 by default.
    pub const fn kubernetes(self) -> Self {
        self.drain_delay(Duration::from_secs(5))
    }

    /// Sets how long the server continues to accept connections after the host has begun to stop. During this time,
    /// `/readyz` fails, and responses over HTTP/1 ask their clients to close the connection.
    ///
    /// The server's [`drain_timeout`](crate::background::ServiceHostBuilder::drain_timeout) includes the delay.
    pub const fn drain_delay(mut self, delay: Duration) -> Self {
        self.drain_delay = delay;
        self
    }

    /// Sets how long an HTTP/1 connection stays open after its last request while the server drains.
    ///
    /// A client that keeps its connections alive may be about to send its next request, which would be lost if the
    /// connection were closed at once. A connection that has been idle for longer than this is closed at once. An idle
    /// HTTP/2 connection is closed after the same time if its client does not respond to the GOAWAY. With actix-web,
    /// idle connections are closed together, once each of them has been idle for longer than this.
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets how long a client may leave a new connection unused: without a byte over HTTP/1, or without a request over
    /// HTTP/2. `None` means no limit. Browsers open connections ahead of their requests.
    ///
    /// The server checks all of its connections together: once per second, or after each tenth of the shorter time
    /// limit if that is less. A connection may therefore be closed up to one check after its limit.
    pub const fn first_byte_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.first_byte_timeout = timeout;
        self
    }

    /// Sets how long a client may take to send the head of an HTTP/1 request. `None` means no limit.
    ///
    /// The time begins with the first [check](Self::first_byte_timeout) after the first byte of the head. The
    /// connection is closed by the first check after the time is up.
    pub const fn header_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// Limits the number of open connections. Further clients wait in the queue of the operating system until a
    /// connection is closed.
    ///
    /// # Panics
    ///
    /// Panics if `connections` is zero.
    #[track_caller]
    pub const fn max_connections(mut self, connections: usize) -> Self {
        assert!(connections > 0, "a server without connections serves nothing: set at least 1");
        self.max_connections = connections;
        self
    }

    /// Sets the limits of [`BackgroundTasks`](crate::web::BackgroundTasks).
    pub const fn background_tasks(mut self, config: BackgroundTasksConfig) -> Self {
        self.background_tasks = config;
        self
    }

    /// Overrides when background tasks start.
    #[cfg(feature = "actix-web")]
    pub(crate) fn task_start(mut self, start: TaskStart) -> Self {
        self.background_tasks = self.background_tasks.start(start);
        self
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self::new()
    }
}
