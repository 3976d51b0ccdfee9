//! [`TimerQueue`], at most one timer for each service, and one for the host.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// A duration that represents "never" and can be added to any instant without an overflow.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// The timers of a host, in the order of their deadlines.
#[derive(Debug)]
pub(super) struct TimerQueue {
    /// The deadlines by index. The last one is the host's.
    deadlines: Vec<Option<Instant>>,
    /// The same deadlines with their indices, in order.
    order: BTreeSet<(Instant, u32)>,
}

impl TimerQueue {
    pub(super) fn new(services: usize) -> Self {
        Self { deadlines: vec![None; services + 1], order: BTreeSet::new() }
    }

    /// Returns the index of the host's timer.
    pub(super) fn host(&self) -> u32 {
        self.deadlines.len() as u32 - 1
    }

    pub(super) fn get(&self, id: u32) -> Option<Instant> {
        self.deadlines[id as usize]
    }

    /// Replaces or removes the timer with that index.
    pub(super) fn set(&mut self, id: u32, deadline: Option<Instant>) {
        let timer = &mut self.deadlines[id as usize];
        if let Some(replaced) = timer.take() {
            self.order.remove(&(replaced, id));
        }
        *timer = deadline;
        self.order.extend(deadline.map(|deadline| (deadline, id)));
    }

    /// Returns the earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// Removes the earliest timer and returns its index, if its deadline has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let (_, id) = *self.order.first().filter(|(deadline, _)| *deadline <= now)?;
        self.set(id, None);
        Some(id)
    }
}

/// Returns the instant `duration` from now, however long that is.
pub(super) fn after(now: Instant, duration: Duration) -> Instant {
    now + duration.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_timer_that_was_set_last_comes_due() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut timers = TimerQueue::new(3);
        timers.set(0, Some(now + second));
        timers.set(1, Some(now + 2 * second));
        timers.set(0, Some(now + 3 * second));
        timers.set(2, Some(now + second));
        timers.set(2, None);
        timers.set(timers.host(), Some(now + 2 * second));
        assert_eq!(timers.pop_due(now + second), None);
        assert_eq!(timers.next(), Some(now + 2 * second));
        assert_eq!([timers.pop_due(now + 3 * second), timers.pop_due(now + 3 * second)], [Some(1), Some(3)]);
        assert_eq!([timers.pop_due(now + 3 * second), timers.pop_due(now + 3 * second)], [Some(0), None]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn replaced_timers_take_no_memory() {
        let now = Instant::now();
        let mut timers = TimerQueue::new(10);
        for n in 0..100_000 {
            timers.set(n % 10, Some(now + Duration::from_nanos(n.into())));
            assert!(timers.order.len() <= 10);
        }
        (0..10).for_each(|id| timers.set(id, None));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn timer_that_is_set_again_comes_due_once() {
        let now = Instant::now();
        let mut timers = TimerQueue::new(1);
        for _ in 0..3 {
            timers.set(0, Some(now));
            timers.set(0, None);
        }
        timers.set(0, Some(now));
        assert_eq!([timers.pop_due(now), timers.pop_due(now)], [Some(0), None]);
        assert!(timers.order.is_empty());
    }
}
