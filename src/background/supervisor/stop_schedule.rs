//! [`StopSchedule`], the shares of a stop's time.

use std::time::Duration;

use tokio::time::Instant;

use super::state::HostTimeouts;
use super::timer_queue::after;

/// The share of the last phase: the end of services that were asked late, `stop`, and destructors. At most a fifth.
const RESERVE: Duration = Duration::from_secs(2);
/// The share of work that the server has left. At most a fifth.
const WORK: Duration = Duration::from_secs(2);
/// How long before the server is dropped its waiting requests are refused. At most a tenth of the server's share.
const REFUSE: Duration = Duration::from_millis(500);
/// The maximum duration of a forced stop.
const FORCED_STOP: Duration = Duration::from_millis(50);

/// When the phases of a stop end at the latest. A phase that ends early leaves its time to the later ones, and none can
/// take the share of a later one.
///
/// ```text
/// began                    server_by     services_at     hurry_at   clean_up_by   deadline
///   │  the server ends         │  work ends   │  services end  │  `stop` ends  │  values and  │
///   │                          │              │  in order      │  all at once  │  pools       │
/// ```
#[derive(Clone, Debug)]
pub(super) struct StopSchedule {
    /// When requests that still wait are refused, so that they get a response.
    pub(super) refuse_at: Instant,
    pub(super) server_by: Instant,
    /// When the services are asked to stop at the latest, in their order.
    pub(super) services_at: Instant,
    /// From here on, all remaining services are asked to stop at once. Services that were asked earlier are aborted.
    pub(super) hurry_at: Instant,
    /// When a `stop` is aborted at the latest, so that there is time left to drop what it held.
    pub(super) clean_up_by: Instant,
    pub(super) deadline: Instant,
    /// How long a service that is asked late has at least, or its `stop_timeout` if that is shorter.
    least: Duration,
}

impl StopSchedule {
    /// Plans a stop that begins now. `longest` is the longest `stop_timeout` of its services.
    pub(super) fn new(now: Instant, timeouts: &HostTimeouts, longest: Duration) -> Self {
        let deadline = after(now, timeouts.shutdown);
        let fifth = deadline.duration_since(now) / 5;
        let reserve = fifth.min(RESERVE);
        let hurry_at = deadline - reserve;
        let services_at = hurry_at - fifth.min(longest);
        let server_by = after(now, timeouts.drain).min(services_at - fifth.min(WORK));
        let refuse_at = server_by - (server_by.duration_since(now) / 10).min(REFUSE);
        let (clean_up_by, least) = (deadline - reserve / 10, reserve / 4);
        Self { refuse_at, server_by, services_at, hurry_at, clean_up_by, deadline, least }
    }

    /// Ends all phases but the last one now, and that one soon.
    pub(super) fn force(&mut self, now: Instant) {
        self.deadline = self.deadline.min(now + FORCED_STOP);
        let left = self.deadline.saturating_duration_since(now);
        self.clean_up_by = self.clean_up_by.min(self.deadline - left / 10);
        for at in [&mut self.refuse_at, &mut self.server_by, &mut self.services_at, &mut self.hurry_at] {
            *at = now.min(*at);
        }
    }

    /// Returns when a service that is asked to stop now is aborted.
    pub(super) fn abort_at(&self, now: Instant, stop_timeout: Duration) -> Instant {
        after(now, stop_timeout).min(self.hurry_at.max(now + self.least)).min(self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_phase_has_its_share_whatever_the_total() {
        let now = Instant::now();
        for total in [0, 1, 10, 100, 1_000, 5_000, 9_000, 12_000, 25_000, 600_000] {
            for drain in [0, 10_000, u32::MAX] {
                let timeouts = HostTimeouts { startup: MS, drain: MS * drain, shutdown: MS * total };
                let schedule = StopSchedule::new(now, &timeouts, Duration::from_secs(5));
                let fifth = MS * total / 5;
                assert!(schedule.server_by >= now + (fifth * 2).min(MS * drain), "{total} {schedule:?}");
                assert!(schedule.services_at - schedule.server_by >= fifth.min(WORK), "{total} {schedule:?}");
                let services = schedule.hurry_at - schedule.services_at;
                assert!(services >= fifth.min(Duration::from_secs(5)), "{total} {schedule:?}");
                assert_eq!(schedule.deadline - schedule.hurry_at, fifth.min(RESERVE));
                assert!(schedule.abort_at(schedule.hurry_at, Duration::MAX) < schedule.clean_up_by || total == 0);
            }
        }
    }
}
