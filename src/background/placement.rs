//! [`Placement`], where an async service runs.

/// Where the futures of a [`BackgroundService`](super::BackgroundService) are polled.
///
/// | | costs | choose it for |
/// |---|---|---|
/// | `Shared` | a task | what awaits all the time |
/// | `Thread` | a thread and a runtime | what blocks now and then: there it stalls itself alone |
///
/// What blocks all the time is a [`BlockingService`](super::BlockingService), which has a thread without a runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Placement {
    /// A task on the runtime on which [`ServiceHost::start`](super::ServiceHost::start) was called, which is the server's.
    #[default]
    Shared,
    /// A thread of its own, with a current-thread runtime that has timers and I/O. Sockets and files that belong to the
    /// server's runtime work here, too, but are driven by that one.
    Thread,
    /// A thread without a runtime. It is where a [`BlockingService`](super::BlockingService) runs, and only that.
    Blocking,
}
