//! What a service is given by its host: [`StartContext`], [`RunContext`], [`BlockingContext`], [`StopContext`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::generation::{Ended, Line};
use super::host::Message;
use super::status::{Exit, ExitKind, Trigger};

/// What [`start`](super::BackgroundService::start) is given.
pub struct StartContext {
    line: Arc<Line>,
}

/// What [`run`](super::BackgroundService::run) is given. Its clones are the same, for helpers and children.
#[derive(Clone)]
pub struct RunContext {
    line: Arc<Line>,
}

/// What the [`run`](super::BlockingService::run) of a service that blocks is given. Its clones are the same, for callbacks.
#[derive(Clone)]
pub struct BlockingContext {
    line: Arc<Line>,
}

/// What [`stop`](super::BackgroundService::stop) is given.
pub struct StopContext {
    line: Arc<Line>,
    exit: ExitKind,
}

/// What all of them tell.
macro_rules! facts {
    ($context:ident) => {
        impl $context {
            /// The name of the service.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.line.name
            }

            /// Which generation this is, counted from 1.
            #[must_use]
            pub fn generation(&self) -> u64 {
                self.line.generation
            }

            /// How the last generation that failed ended, if one has.
            #[must_use]
            pub fn last_failure(&self) -> Option<&Exit> {
                self.line.last_failure.as_deref()
            }
        }

        impl fmt::Debug for $context {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut context = f.debug_struct(stringify!($context));
                context.field("name", &self.name()).field("generation", &self.generation()).finish_non_exhaustive()
            }
        }
    };
}

facts!(StartContext);
facts!(RunContext);
facts!(BlockingContext);
facts!(StopContext);

/// What can be told to stop.
macro_rules! stopping {
    ($context:ident) => {
        impl $context {
            /// The token that is cancelled when the service has to stop. It is of this generation alone, and for what takes one:
            /// cancelling it here stops who waits for it, and not the service.
            #[must_use]
            pub fn token(&self) -> &CancellationToken {
                self.line.token()
            }

            /// Whether the service has to stop.
            #[must_use]
            pub fn is_stopping(&self) -> bool {
                self.line.is_told_to_stop()
            }
        }
    };
}

stopping!(StartContext);
stopping!(RunContext);
stopping!(BlockingContext);

/// What is done while it runs.
macro_rules! running {
    ($context:ident) => {
        impl $context {
            /// Says that the service is ready, and well. With [`manual_ready`](super::Service::manual_ready) it is not ready
            /// before; without, it takes [`not_ready`](Self::not_ready) and [`degraded`](Self::degraded) back.
            pub fn ready(&self) {
                self.line.change(|condition| {
                    condition.ready = true;
                    condition.degraded = false;
                    condition.reason = None;
                });
            }

            /// Says that the service can't do its part now. If it is critical, `/readyz` answers 503 until it is
            /// [`ready`](Self::ready) again.
            pub fn not_ready(&self, reason: &str) {
                self.line.change(|condition| {
                    condition.ready = false;
                    condition.degraded = false;
                    condition.reason = Some(reason.into());
                });
            }

            /// Says that the service does its part, but not well. It shows in the status and changes nothing else.
            pub fn degraded(&self, reason: &str) {
                self.line.change(|condition| {
                    condition.degraded = true;
                    condition.reason = Some(reason.into());
                });
            }

            /// Gives a sign of life: see [`Service::heartbeat`](super::Service::heartbeat). Where none is expected, it does
            /// nothing.
            pub fn heartbeat(&self) {
                self.line.beat();
            }

            /// Has the whole host stop, as on a signal. It does not wait for that.
            pub fn shutdown_host(&self, reason: &str) {
                let trigger = Trigger::Service { name: Arc::clone(&self.line.name), reason: reason.into() };
                self.line.link.send(Message::Shutdown(trigger));
            }
        }
    };
}

running!(RunContext);
running!(BlockingContext);

impl StartContext {
    pub(super) fn new(line: &Arc<Line>) -> Self {
        Self { line: Arc::clone(line) }
    }

    /// Waits until the service has to stop, which may happen before it has started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn stopping(&self) {
        self.line.stopping().await;
    }
}

impl RunContext {
    pub(super) fn new(line: &Arc<Line>) -> Self {
        Self { line: Arc::clone(line) }
    }

    /// Waits until the service has to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn stopping(&self) {
        self.line.stopping().await;
    }

    /// Sleeps, or wakes up when the service has to stop. Whether it slept to the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.line.stopping() => false,
            () = sleep(duration) => true,
        }
    }

    /// Spawns a task that belongs to the service, on the runtime of the service.
    ///
    /// When `run` ends, however it does, the [token](Self::token) is cancelled, and the generation lasts until its children
    /// have ended, too. They are aborted where they wait if that takes longer than
    /// [`stop_timeout`](super::Service::stop_timeout). What a child returns, or that it panicked, is known to who awaits
    /// its handle, and changes nothing for the service. A child that is spawned after the end is aborted at once.
    pub fn spawn<F>(&self, child: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.line.spawn(child)
    }
}

impl BlockingContext {
    pub(super) fn new(line: &Arc<Line>) -> Self {
        Self { line: Arc::clone(line) }
    }

    /// Parks the thread until the service has to stop, for `limit` at most. Whether it has to stop.
    #[must_use]
    pub fn wait_stopping(&self, limit: Duration) -> bool {
        self.line.park(limit)
    }

    /// The server's runtime, to block on a future now and then.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.line.link.server()
    }
}

impl StopContext {
    pub(super) fn new(line: &Arc<Line>, ended: Ended) -> Self {
        let well = if line.is_told_to_stop() { ExitKind::Stopped } else { ExitKind::Completed };
        Self { line: Arc::clone(line), exit: ended.map_or_else(|kind| kind, |()| well) }
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    pub(super) fn ended(&self) -> Ended {
        if self.exit.is_failure() { Err(self.exit.clone()) } else { Ok(()) }
    }

    /// How `run` ended.
    #[must_use]
    pub fn exit(&self) -> &ExitKind {
        &self.exit
    }
}
