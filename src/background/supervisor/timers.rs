//! [`Timers`], one point in time for each service at most, and one for the host.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// As good as never: what may be added to any time without an overflow.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

/// What is due when.
///
/// Most timers are set in the order of their times, since they are of the same few lengths: those stand in a queue. The
/// others are in a heap. Most are replaced long before they are due, and what was replaced is only taken away when it is
/// next, or makes up most of what is there.
#[derive(Debug)]
pub(crate) struct Timers {
    /// The timers that hold, by their indices. The last is that of the host.
    at: Vec<Option<Instant>>,
    queue: VecDeque<(Instant, u32)>,
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    /// How many hold.
    live: usize,
}

impl Timers {
    pub(crate) fn new(services: u32) -> Self {
        Self { at: vec![None; services as usize + 1], queue: VecDeque::new(), heap: BinaryHeap::new(), live: 0 }
    }

    /// The index that stands for the host.
    pub(crate) fn host(&self) -> u32 {
        self.at.len() as u32 - 1
    }

    pub(crate) fn get(&self, id: u32) -> Option<Instant> {
        self.at[id as usize]
    }

    /// Replaces the timer of that index, if there is one, by another one, or none.
    pub(crate) fn set(&mut self, id: u32, to: Option<Instant>) {
        let timer = &mut self.at[id as usize];
        if *timer == to {
            return;
        }
        self.live -= usize::from(timer.is_some());
        self.live += usize::from(to.is_some());
        *timer = to;
        // The host's are the longest: behind one of them nothing would stand in the queue.
        let is_hosts = id == self.host();
        match to {
            Some(to) if !is_hosts && self.queue.back().is_none_or(|(last, _)| *last <= to) => {
                self.queue.push_back((to, id))
            }
            Some(to) => self.heap.push(Reverse((to, id))),
            None => {}
        }
        if self.queue.len() + self.heap.len() > 2 * self.live + 64 {
            self.forget_what_was_replaced();
        }
    }

    fn forget_what_was_replaced(&mut self) {
        let holds = |time: &Instant, id: &u32| self.at[*id as usize] == Some(*time);
        self.queue.retain(|(time, id)| holds(time, id));
        self.queue.shrink_to(2 * self.queue.len());
        self.heap.retain(|Reverse((time, id))| holds(time, id));
        self.heap.shrink_to(2 * self.heap.len());
    }

    /// The next one. What was replaced is taken away before it.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        let holds = |time: Instant, id: u32| self.at[id as usize] == Some(time);
        while self.queue.front().is_some_and(|(time, id)| !holds(*time, *id)) {
            self.queue.pop_front();
        }
        while self.heap.peek().is_some_and(|Reverse((time, id))| !holds(*time, *id)) {
            self.heap.pop();
        }
        let queued = self.queue.front().map(|(time, _)| *time);
        let others = self.heap.peek().map(|Reverse((time, _))| *time);
        queued.into_iter().chain(others).min()
    }

    /// Takes the next one whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<u32> {
        let next = self.next().filter(|time| *time <= now)?;
        let id = match self.queue.front() {
            Some((time, id)) if *time == next => *id,
            _ => self.heap.peek().map(|Reverse((_, id))| *id)?,
        };
        // It is taken away when the next one is looked for.
        self.at[id as usize] = None;
        self.live -= 1;
        Some(id)
    }
}

/// A time from now.
pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    now + duration.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_set_last_comes_due() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut timers = Timers::new(3);
        timers.set(0, Some(now + second));
        timers.set(1, Some(now + 2 * second));
        timers.set(0, Some(now + 3 * second));
        timers.set(2, Some(now + second));
        timers.set(2, None);
        timers.set(timers.host(), Some(now + 2 * second));
        assert_eq!(timers.take_due(now + second), None);
        assert_eq!(timers.next(), Some(now + 2 * second));
        assert_eq!([timers.take_due(now + 3 * second), timers.take_due(now + 3 * second)], [Some(1), Some(3)]);
        assert_eq!([timers.take_due(now + 3 * second), timers.take_due(now + 3 * second)], [Some(0), None]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn what_was_replaced_takes_no_more_than_what_holds() {
        let now = Instant::now();
        let mut timers = Timers::new(10);
        for n in 0..100_000 {
            timers.set(n % 10, Some(now + Duration::from_nanos(n.into())));
            assert!(timers.queue.len() + timers.heap.len() <= 2 * 10 + 65);
        }
        (0..10).for_each(|id| timers.set(id, None));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_same_timer_again_is_there_once() {
        let now = Instant::now();
        let mut timers = Timers::new(1);
        for _ in 0..3 {
            timers.set(0, Some(now));
            timers.set(0, None);
        }
        timers.set(0, Some(now));
        assert_eq!([timers.take_due(now), timers.take_due(now)], [Some(0), None]);
        assert_eq!(timers.live, 0);
    }
}
