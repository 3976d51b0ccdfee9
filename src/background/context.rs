//! What a service is given by its host: [`StartContext`], [`RunContext`], [`BlockingContext`], [`StopContext`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::control::{GenerationHandle, PhaseResult, SupervisorMessage};
use super::status::{Exit, ExitKind, Trigger};

/// What [`start`](super::BackgroundService::start) is given.
pub struct StartContext {
    handle: Arc<GenerationHandle>,
}

/// What [`run`](super::BackgroundService::run) is given. Its clones are the same, for helpers and children.
#[derive(Clone)]
pub struct RunContext {
    handle: Arc<GenerationHandle>,
}

/// What the [`run`](super::BlockingService::run) of a service that blocks is given. Its clones are the same, for callbacks.
#[derive(Clone)]
pub struct BlockingContext {
    handle: Arc<GenerationHandle>,
}

/// What [`stop`](super::BackgroundService::stop) is given.
pub struct StopContext {
    handle: Arc<GenerationHandle>,
    exit: ExitKind,
}

/// What all of them tell.
macro_rules! facts {
    ($context:ident) => {
        impl $context {
            /// The name of the service.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.handle.status.name
            }

            /// Which generation this is, counted from 1.
            #[must_use]
            pub fn generation(&self) -> u64 {
                self.handle.status.generation
            }

            /// How the last generation that failed ended, if one has.
            #[must_use]
            pub fn last_failure(&self) -> Option<&Exit> {
                self.handle.status.last_failure.as_deref()
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
                self.handle.token()
            }

            /// Whether the service has to stop.
            #[must_use]
            pub fn is_stopping(&self) -> bool {
                self.handle.is_stopping()
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
                self.handle.update_health(|health| {
                    health.ready = true;
                    health.degraded = false;
                    health.reason = None;
                });
            }

            /// Says that the service can't do its part now. If it is critical, `/readyz` answers 503 until it is
            /// [`ready`](Self::ready) again.
            pub fn not_ready(&self, reason: &str) {
                self.handle.update_health(|health| {
                    health.ready = false;
                    health.degraded = false;
                    health.reason = Some(reason.into());
                });
            }

            /// Says that the service does its part, but not well. It shows in the status and changes nothing else.
            pub fn degraded(&self, reason: &str) {
                self.handle.update_health(|health| {
                    health.degraded = true;
                    health.reason = Some(reason.into());
                });
            }

            /// Gives a sign of life: see [`Service::heartbeat`](super::Service::heartbeat). Where none is expected, it does
            /// nothing.
            pub fn heartbeat(&self) {
                self.handle.record_heartbeat();
            }

            /// Has the whole host stop, as on a signal. It does not wait for that.
            pub fn shutdown_host(&self, reason: &str) {
                let trigger = Trigger::Service { name: Arc::clone(&self.handle.status.name), reason: reason.into() };
                self.handle.host.send(SupervisorMessage::Shutdown(trigger));
            }
        }
    };
}

running!(RunContext);
running!(BlockingContext);

impl StartContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>) -> Self {
        Self { handle: Arc::clone(handle) }
    }

    /// Waits until the service has to stop, which may happen before it has started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn stopping(&self) {
        self.handle.stopping().await;
    }
}

impl RunContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>) -> Self {
        Self { handle: Arc::clone(handle) }
    }

    /// Waits until the service has to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn stopping(&self) {
        self.handle.stopping().await;
    }

    /// Sleeps, or wakes up when the service has to stop. Whether it slept to the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.handle.stopping() => false,
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
        self.handle.spawn(child)
    }
}

impl BlockingContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>) -> Self {
        Self { handle: Arc::clone(handle) }
    }

    /// Parks the thread until the service has to stop, for `limit` at most. Whether it has to stop.
    #[must_use]
    pub fn wait_stopping(&self, limit: Duration) -> bool {
        self.handle.park(limit)
    }

    /// The server's runtime, to block on a future now and then.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.handle.host.server()
    }
}

impl StopContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>, ended: PhaseResult) -> Self {
        let well = if handle.is_stopping() { ExitKind::Stopped } else { ExitKind::Completed };
        Self { handle: Arc::clone(handle), exit: ended.map_or_else(|kind| kind, |()| well) }
    }

    pub(super) fn ended(&self) -> PhaseResult {
        if self.exit.is_failure() { Err(self.exit.clone()) } else { Ok(()) }
    }

    /// How `run` ended.
    #[must_use]
    pub fn exit(&self) -> &ExitKind {
        &self.exit
    }
}
