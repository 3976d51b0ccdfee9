//! [`Placement`], where a service runs.

/// Where the futures of a [`BackgroundService`](super::BackgroundService) are polled.
///
/// | | cost | use it for |
/// |---|---|---|
/// | `Shared` | a task | a service that never blocks its thread |
/// | `Thread` | a thread and a runtime | a service that blocks now and then, which then delays only itself |
///
/// A service that blocks most of the time is a [`BlockingService`](super::BlockingService). It has a thread without a
/// runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Placement {
    /// A task on the server's runtime: the one on which [`ServiceHost::start`](super::ServiceHost::start) was called.
    #[default]
    Shared,
    /// A dedicated thread with a current-thread runtime that has timers and I/O. Sockets and files that belong to the
    /// server's runtime work here, too, but are driven by the server's runtime.
    Thread,
    /// A dedicated thread without a runtime. Only a [`BlockingService`](super::BlockingService) runs here.
    Blocking,
}
