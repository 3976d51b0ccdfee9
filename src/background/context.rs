//! The contexts that a host passes to the methods of a service: [`StartContext`], [`RunContext`], [`BlockingContext`]
//! and [`StopContext`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::control::{DropSignal, GenerationHandle, PhaseResult, ServiceScope, SupervisorMessage};
use super::status::{Exit, ExitKind, Trigger};

/// The context passed to [`start`](super::BackgroundService::start).
///
/// All clones refer to the same generation.
#[derive(Clone)]
pub struct StartContext {
    handle: Arc<GenerationHandle>,
}

/// The context passed to [`run`](super::BackgroundService::run).
///
/// All clones refer to the same generation. Pass them to helper functions and child tasks.
#[derive(Clone)]
pub struct RunContext {
    handle: Arc<GenerationHandle>,
}

/// The context passed to the [`run`](super::BlockingService::run) of a blocking service.
///
/// All clones refer to the same generation. Move them into callbacks.
#[derive(Clone)]
pub struct BlockingContext {
    handle: Arc<GenerationHandle>,
}

/// The context passed to [`stop`](super::BackgroundService::stop).
///
/// All clones refer to the same generation.
#[derive(Clone)]
pub struct StopContext {
    handle: Arc<GenerationHandle>,
    exit: ExitKind,
}

/// Methods that all contexts have.
macro_rules! common_methods {
    ($context:ident) => {
        impl $context {
            /// Returns the name of the service.
            #[must_use]
            pub fn name(&self) -> &str {
                &self.handle.status.name
            }

            /// Returns the number of this generation, counted from 1.
            #[must_use]
            pub fn generation(&self) -> u64 {
                self.handle.status.generation
            }

            /// Returns how the last failed generation ended, if one has failed.
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

common_methods!(StartContext);
common_methods!(RunContext);
common_methods!(BlockingContext);
common_methods!(StopContext);

/// Methods of the contexts that observe a request to stop.
macro_rules! stop_methods {
    ($context:ident) => {
        impl $context {
            /// Returns the token that is cancelled when the service has to stop, for code that takes a token.
            ///
            /// It belongs to this generation alone. Cancelling it yourself wakes whatever waits for it, but does not
            /// stop the service.
            #[must_use]
            pub fn token(&self) -> &CancellationToken {
                self.handle.token()
            }

            /// Returns `true` if the service has to stop.
            #[must_use]
            pub fn is_stopping(&self) -> bool {
                self.handle.is_stopping()
            }
        }
    };
}

stop_methods!(StartContext);
stop_methods!(RunContext);
stop_methods!(BlockingContext);

/// Methods of the contexts of `run`.
macro_rules! run_methods {
    ($context:ident) => {
        impl $context {
            /// Reports that the service is ready. Undoes [`not_ready`](Self::not_ready) and
            /// [`degraded`](Self::degraded).
            ///
            /// With [`manual_ready`](super::Service::manual_ready) the service is not ready before this call.
            pub fn ready(&self) {
                self.handle.update_health(|health| {
                    health.ready = true;
                    health.degraded = false;
                    health.reason = None;
                });
            }

            /// Reports that the service is currently not ready, and why. If it is critical, `/readyz` returns 503 until
            /// it is [`ready`](Self::ready) again.
            pub fn not_ready(&self, reason: &str) {
                self.handle.update_health(|health| {
                    health.ready = false;
                    health.degraded = false;
                    health.reason = Some(reason.into());
                });
            }

            /// Reports that the service works with reduced quality, and why. The status shows the reason. The report
            /// has no other effect.
            pub fn degraded(&self, reason: &str) {
                self.handle.update_health(|health| {
                    health.degraded = true;
                    health.reason = Some(reason.into());
                });
            }

            /// Sends a heartbeat: see [`Service::heartbeat`](super::Service::heartbeat). Does nothing if none is
            /// expected.
            pub fn heartbeat(&self) {
                self.handle.record_heartbeat();
            }

            /// Requests that the whole host shuts down, as on a signal. Returns immediately.
            pub fn shutdown_host(&self, reason: &str) {
                let trigger = Trigger::Service { name: Arc::clone(&self.handle.status.name), reason: reason.into() };
                self.handle.host.send(SupervisorMessage::Shutdown(trigger));
            }
        }
    };
}

run_methods!(RunContext);
run_methods!(BlockingContext);

impl StartContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>) -> Self {
        Self { handle: Arc::clone(handle) }
    }

    /// Waits until the service has to stop, which may be before it has started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn stopping(&self) {
        self.handle.stopping().await;
    }
}

impl RunContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>) -> Self {
        Self { handle: Arc::clone(handle) }
    }

    /// Returns where the code of the service runs.
    pub(super) fn scope(&self) -> &ServiceScope {
        &self.handle.scope
    }

    /// Returns what a thread holds while it runs code of the service that cannot be dropped.
    pub(super) fn drop_signal(&self) -> Option<Arc<DropSignal>> {
        self.handle.drop_signal()
    }

    /// Waits until the service has to stop.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn stopping(&self) {
        self.handle.stopping().await;
    }

    /// Sleeps for `duration`, or until the service has to stop. Returns `true` if it slept for the whole duration.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.handle.stopping() => false,
            () = sleep(duration) => true,
        }
    }

    /// Spawns a child task of the service, on the runtime of the service.
    ///
    /// When `run` ends, for whatever reason, the [token](Self::token) is cancelled, and the generation lasts until all
    /// of its child tasks have ended. If that takes longer than [`stop_timeout`](super::Service::stop_timeout), they
    /// are aborted at the await points where they wait. The result or panic of a child task is available only through
    /// its handle and does not affect the service. A child task spawned after the end of the generation is aborted
    /// immediately. As with `tokio::spawn`, a child task does not run in the `tracing` span of the code that spawns it.
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

    /// Blocks the thread until the service has to stop, for at most `limit`. Returns `true` if the service has to stop.
    #[must_use]
    pub fn wait_stopping(&self, limit: Duration) -> bool {
        self.handle.park(limit)
    }

    /// Returns a handle to the server's runtime, for example to block on a future.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.handle.host.server()
    }
}

impl StopContext {
    pub(super) fn new(handle: &Arc<GenerationHandle>, ended: PhaseResult) -> Self {
        let success = if handle.is_stopping() { ExitKind::Stopped } else { ExitKind::Completed };
        Self { handle: Arc::clone(handle), exit: ended.map_or_else(|kind| kind, |()| success) }
    }

    pub(super) fn ended(&self) -> PhaseResult {
        if self.exit.is_failure() { Err(self.exit.clone()) } else { Ok(()) }
    }

    /// Returns how `run` ended.
    #[must_use]
    pub fn exit(&self) -> &ExitKind {
        &self.exit
    }
}
