//! [`ResponseNote`], which records the response of a handler that may run without its client.

#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
use super::background_tasks::{BackgroundTasks, OpenTasks};
#[cfg(all(feature = "offload", any(feature = "axum", feature = "actix-web")))]
use super::handler::PoolArguments;

/// The background tasks of a request, as layers see them. A server with background tasks adds it to the extensions of
/// each request. A layer whose handler may continue without its client records the response, which the server then does
/// not see.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseNote(
    #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))] Option<OpenTasks>,
);

#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
impl ResponseNote {
    pub(crate) fn new(tasks: &OpenTasks) -> Self {
        Self(Some(tasks.clone()))
    }

    /// Returns the tasks as an argument of a handler.
    pub(crate) fn argument(&self) -> Option<BackgroundTasks> {
        self.0.as_ref().map(OpenTasks::argument)
    }

    /// Records the status of the response.
    pub(crate) fn record(&self, status: u16) {
        if let Some(tasks) = &self.0 {
            tasks.note_response(status);
        }
    }
}

#[cfg(all(feature = "offload", feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
impl ResponseNote {
    /// Returns the note of a request whose handler takes its background tasks as an argument.
    pub(crate) fn of_arguments(arguments: &impl PoolArguments) -> Self {
        let mut note = Self::default();
        arguments.visit(&mut |argument| {
            if let Some(tasks) = argument.downcast_ref::<BackgroundTasks>() {
                note = Self(Some(OpenTasks::of(tasks)));
            }
        });
        note
    }
}

#[cfg(not(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix)))]
impl ResponseNote {
    #[cfg(all(feature = "offload", any(feature = "axum", feature = "actix-web")))]
    pub(crate) fn of_arguments(_: &impl PoolArguments) -> Self {
        Self::default()
    }

    #[allow(clippy::unused_self, reason = "without background tasks there is nothing to record")]
    pub(crate) fn record(&self, _: u16) {}
}
