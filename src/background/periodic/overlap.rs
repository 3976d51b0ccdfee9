//! [`Overlap`], what becomes of a call that is due while the last one runs.

/// What becomes of a call that is due while the one before it runs.
///
/// It is about [`fixed_rate`](super::Every::fixed_rate) and `cron`. A [`fixed_delay`](super::Every::fixed_delay) begins at the
/// end of a call, so its calls never overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overlap {
    /// It is left out, and counted as [`skipped`](super::TickStatus::skipped). The next one comes at its own time.
    #[default]
    Skip,
    /// One waits, and begins as soon as the running one has ended. Further ones are left out.
    Queue,
    /// It runs beside it, in a task of its own, which belongs to the service as those of
    /// [`RunContext::spawn`](super::super::RunContext::spawn) do. How many run at once is not bounded, but by
    /// [`tick_timeout`](super::Every::tick_timeout).
    Allow,
}
