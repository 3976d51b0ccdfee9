//! [`ResponseNote`], which records the response of a handler that may run without its client.

#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
use std::sync::Arc;

#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
use super::background_tasks::RequestTasks;

/// Records the status of a response for the background tasks of its request, if there are any. The server does not see
/// the response if the client has disconnected.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseNote(
    #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))] Option<Arc<RequestTasks>>,
);

impl ResponseNote {
    /// Creates the note of a request.
    #[cfg(feature = "tower")]
    #[cfg_attr(
        not(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix)),
        allow(unused_variables, reason = "without the features there are no tasks")
    )]
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
        return Self(extensions.get::<Arc<RequestTasks>>().cloned());
        #[cfg(not(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix)))]
        Self()
    }

    /// Creates the note of a request of actix-web.
    #[cfg(feature = "actix-web")]
    #[cfg_attr(
        not(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix)),
        allow(unused_variables, reason = "without the features there are no tasks")
    )]
    pub(crate) fn of_actix(extensions: &actix_web::dev::Extensions) -> Self {
        #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
        return Self(extensions.get::<Arc<RequestTasks>>().cloned());
        #[cfg(not(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix)))]
        Self()
    }

    #[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
    pub(crate) fn record(&self, status: u16) {
        if let Some(tasks) = &self.0 {
            tasks.note_response(status);
        }
    }

    #[cfg(not(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix)))]
    #[allow(clippy::unused_self, reason = "with the features it records the status")]
    pub(crate) fn record(&self, _: u16) {}
}
