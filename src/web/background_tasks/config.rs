//! [`BackgroundTasksConfig`], the limits of a server's background tasks.

/// When the tasks of a request start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskStart {
    /// When the last byte of the response has been written to the socket, or the connection has been closed.
    #[default]
    Flushed,
    /// When the server has taken the last bytes of the response's body. A slow client may receive them much later.
    /// Always used in actix-web, which does not report when bytes have been written.
    BodyEnd,
}

/// What happens to a new task when the queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The new task is refused, and the handler can respond with a 503.
    #[default]
    Refuse,
    /// The task that has waited longest is dropped, if the response that it belongs to has ended. Otherwise the new
    /// task is refused.
    DropOldest,
}

/// The limits of a server's [`BackgroundTasks`](crate::web::BackgroundTasks).
///
/// | option | default |
/// |---|---|
/// | [`max_running`](Self::max_running) | 64 |
/// | [`max_queued`](Self::max_queued) | 1,024 |
/// | [`when_full`](Self::when_full) | [`WhenFull::Refuse`] |
/// | [`start`](Self::start) | [`TaskStart::Flushed`] |
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing unless they are passed to a server"]
pub struct BackgroundTasksConfig {
    pub(super) max_running: usize,
    pub(super) max_queued: usize,
    pub(super) when_full: WhenFull,
    pub(crate) start: TaskStart,
}

impl BackgroundTasksConfig {
    /// Returns the default limits.
    pub const fn new() -> Self {
        Self { max_running: 64, max_queued: 1024, when_full: WhenFull::Refuse, start: TaskStart::Flushed }
    }

    /// Limits the number of responses whose tasks run at the same time. The tasks of one response run one after the
    /// other. Tasks that are added after the response has ended count as tasks of another response.
    ///
    /// # Panics
    ///
    /// Panics if `responses` is zero.
    #[track_caller]
    pub const fn max_running(mut self, responses: usize) -> Self {
        assert!(responses > 0, "with 0, no background task would ever run: set at least 1");
        self.max_running = responses;
        self
    }

    /// Limits how many tasks wait, including those whose response has not ended.
    pub const fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = tasks;
        self
    }

    /// Sets what happens to a new task when the queue is full.
    pub const fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Sets when the tasks of a request start.
    pub const fn start(mut self, start: TaskStart) -> Self {
        self.start = start;
        self
    }
}

impl Default for BackgroundTasksConfig {
    fn default() -> Self {
        Self::new()
    }
}
