//! [`JobQueue`], the tasks that wait for a thread: pure, always behind a mutex.
//!
//! # Invariants
//!
//! 1. In each level the sequence numbers rise, so a task is found by a binary search.
//! 2. `live` counts those that were neither taken nor removed. At most as many others, and a few, are kept.
//! 3. The first one of a level was neither taken nor removed.

use std::collections::VecDeque;

use crate::offload::task::Priority;

/// One in so many tasks is of a lower priority than the highest that waits: the one that has waited longest.
const LOWER_EVERY: u32 = 8;
/// How many removed ones are left where they are.
const FEW: usize = 32;

/// Tasks in the order in which they begin.
#[derive(Debug)]
pub(crate) struct JobQueue<J> {
    /// By priority, the lowest first.
    levels: [Level<J>; 3],
    next_sequence: u64,
    live: usize,
    /// How many were taken since one was of a lower priority.
    since_lower: u32,
}

#[derive(Debug)]
struct Level<J> {
    jobs: VecDeque<(u64, Option<J>)>,
    live: usize,
}

/// Where a task waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    priority: Priority,
    sequence: u64,
}

impl<J> JobQueue<J> {
    pub(crate) fn new() -> Self {
        let level = || Level { jobs: VecDeque::new(), live: 0 };
        Self { levels: [level(), level(), level()], next_sequence: 0, live: 0, since_lower: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Puts a task behind those of its priority.
    pub(crate) fn push(&mut self, priority: Priority, job: J) -> Place {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.live += 1;
        let level = &mut self.levels[priority as usize];
        level.live += 1;
        level.jobs.push_back((sequence, Some(job)));
        Place { priority, sequence }
    }

    /// Takes the task that is next.
    pub(crate) fn pop(&mut self) -> Option<J> {
        let highest = self.levels.iter().rposition(|level| level.live > 0)?;
        let below = self.levels[..highest].iter().enumerate().filter(|(_, level)| level.live > 0);
        let oldest_below = below.min_by_key(|(_, level)| level.front()).map(|(index, _)| index);
        let index = match oldest_below {
            None => {
                self.since_lower = 0;
                highest
            }
            Some(lower) if self.since_lower + 1 >= LOWER_EVERY => {
                self.since_lower = 0;
                lower
            }
            Some(_) => {
                self.since_lower += 1;
                highest
            }
        };
        self.live -= 1;
        self.levels[index].pop()
    }

    /// Takes a task out of its place, if it is still there.
    pub(crate) fn remove(&mut self, place: Place) -> Option<J> {
        let job = self.levels[place.priority as usize].remove(place.sequence)?;
        self.live -= 1;
        Some(job)
    }

    /// Takes all of them.
    pub(crate) fn drain(&mut self) -> Vec<J> {
        let mut all = Vec::with_capacity(self.live);
        while let Some(job) = self.pop() {
            all.push(job);
        }
        all
    }
}

impl<J> Level<J> {
    /// The number of the first one.
    fn front(&self) -> Option<u64> {
        self.jobs.front().map(|(sequence, _)| *sequence)
    }

    fn pop(&mut self) -> Option<J> {
        let (_, job) = self.jobs.pop_front()?;
        self.live -= 1;
        self.trim();
        job
    }

    /// Takes those away from the front that were removed.
    fn trim(&mut self) {
        while self.jobs.front().is_some_and(|(_, job)| job.is_none()) {
            self.jobs.pop_front();
        }
        self.shrink();
    }

    fn remove(&mut self, sequence: u64) -> Option<J> {
        let index = self.jobs.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        let job = self.jobs[index].1.take()?;
        self.live -= 1;
        if self.jobs.len() > 2 * self.live + FEW {
            self.jobs.retain(|(_, job)| job.is_some());
        }
        self.trim();
        Some(job)
    }

    /// Gives memory back after a burst.
    fn shrink(&mut self) {
        if self.jobs.capacity() > 8 * self.jobs.len() + 256 {
            self.jobs.shrink_to(2 * self.jobs.len() + 64);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

    #[test]
    fn higher_priorities_go_first_and_each_in_its_order() {
        let mut queue = JobQueue::new();
        for n in 0..3 {
            for priority in PRIORITIES {
                queue.push(priority, (priority, n));
            }
        }
        let first: Vec<_> = (0..6).filter_map(|_| queue.pop()).collect();
        let expected = [Priority::High, Priority::Normal].map(|priority| [0, 1, 2].map(|n| (priority, n))).concat();
        assert_eq!(first, expected);
    }

    #[test]
    fn one_in_eight_is_of_a_lower_priority_however_many_others_come() {
        let mut queue = JobQueue::new();
        for n in 0..100 {
            queue.push([Priority::Low, Priority::Normal][n % 2], n);
        }
        let mut lower = Vec::new();
        for n in 0..800 {
            queue.push(Priority::High, 1_000 + n);
            lower.extend(queue.pop().filter(|job| *job < 1_000));
        }
        assert_eq!(lower, (0..100).collect::<Vec<usize>>(), "those that have waited longest, of both");
    }

    #[test]
    fn what_was_removed_takes_no_more_than_what_waits() {
        let mut queue = JobQueue::new();
        queue.push(Priority::Normal, 0);
        let places: Vec<Place> = (0..100_000).map(|n| queue.push(Priority::Normal, n)).collect();
        queue.push(Priority::Normal, 0);
        for place in places {
            assert!(queue.remove(place).is_some());
            assert!(queue.remove(place).is_none());
            let level = &queue.levels[Priority::Normal as usize];
            assert!(level.jobs.len() <= 2 * level.live + FEW);
        }
        assert_eq!(queue.len(), 2);
        assert!(queue.levels[Priority::Normal as usize].jobs.capacity() < 1_000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Pop,
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0usize..3).prop_map(Step::Push),
            2 => Just(Step::Pop),
            2 => any::<usize>().prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn it_does_what_three_lists_do(steps in steps()) {
            let mut queue = JobQueue::new();
            let mut lists: [Vec<(u64, Place)>; 3] = Default::default();
            let (mut places, mut pushed, mut since_lower) = (Vec::new(), 0, 0);
            for step in steps {
                match step {
                    Step::Push(priority) => {
                        let place = queue.push(PRIORITIES[priority], pushed);
                        lists[priority].push((pushed, place));
                        places.push((pushed, place));
                        pushed += 1;
                    }
                    Step::Pop => {
                        let waiting: Vec<usize> = (0..3).filter(|n| !lists[*n].is_empty()).collect();
                        let expected = match waiting[..] {
                            [] => None,
                            [only] => {
                                since_lower = 0;
                                Some(lists[only].remove(0).0)
                            }
                            [ref lower @ .., highest] => {
                                since_lower = (since_lower + 1) % 8;
                                let oldest = lower.iter().min_by_key(|n| lists[**n][0].0).copied().expect("there is one");
                                Some(lists[if since_lower == 0 { oldest } else { highest }].remove(0).0)
                            }
                        };
                        prop_assert_eq!(queue.pop(), expected);
                    }
                    Step::Remove(n) if !places.is_empty() => {
                        let (job, place) = places[n % places.len()];
                        let waits = lists.iter_mut().find_map(|list| {
                            let index = list.iter().position(|(_, other)| *other == place)?;
                            Some(list.remove(index).0)
                        });
                        prop_assert_eq!(queue.remove(place), waits);
                        prop_assert!(waits.is_none_or(|waits| waits == job));
                    }
                    Step::Remove(_) => {}
                }
                prop_assert_eq!(queue.len(), lists.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
