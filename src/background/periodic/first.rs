//! [`First`], when the first call comes.

/// When the first call of a generation of a [periodic](super::periodic()) service comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum First {
    /// As soon as the service runs, without [`jitter`](super::Every::jitter). The default of intervals.
    Now,
    /// After one interval, or at the first time that the cron expression names. The default of cron expressions.
    AfterInterval,
}
