//! [`JobQueue`], the tasks that wait for a thread: pure data, always behind a mutex.
//!
//! # Invariants
//!
//! 1. The sequence numbers in a level increase, so a task is found by a binary search.
//! 2. `live` counts the tasks that were neither taken nor removed. When a task is removed, its level keeps at most as
//!    many removed tasks as live ones, plus [`MAX_GAPS`].
//! 3. The first entry of a level was neither taken nor removed.

use std::collections::VecDeque;

use crate::offload::job::Priority;

/// While tasks of several priorities are queued, one task in this many is the oldest of those below the highest
/// priority.
const LOWER_EVERY: u32 = 8;
/// How many more removed entries than live ones a level may hold after a removal.
const MAX_GAPS: usize = 32;

/// Tasks in the order in which they start.
#[derive(Debug)]
pub(crate) struct JobQueue<J> {
    /// The levels by priority, the lowest first.
    levels: [PriorityLevel<J>; Priority::COUNT],
    next_sequence: u64,
    live: usize,
    /// How many tasks were taken since the last one of a lower priority.
    since_lower: u32,
}

#[derive(Debug)]
struct PriorityLevel<J> {
    jobs: VecDeque<(u64, Option<J>)>,
    live: usize,
}

/// Identifies a queued task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    priority: Priority,
    sequence: u64,
}

impl<J> Default for JobQueue<J> {
    fn default() -> Self {
        let level = |_| PriorityLevel { jobs: VecDeque::new(), live: 0 };
        Self { levels: std::array::from_fn(level), next_sequence: 0, live: 0, since_lower: 0 }
    }
}

impl<J> JobQueue<J> {
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Adds a task behind the others of its priority.
    pub(crate) fn push(&mut self, priority: Priority, job: J) -> QueuePosition {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.live += 1;
        let level = &mut self.levels[priority as usize];
        level.live += 1;
        level.jobs.push_back((sequence, Some(job)));
        QueuePosition { priority, sequence }
    }

    /// Takes the task that is next.
    pub(crate) fn pop(&mut self) -> Option<J> {
        let highest = self.levels.iter().rposition(|level| level.live > 0)?;
        let below = self.levels[..highest].iter().enumerate().filter(|(_, level)| level.live > 0);
        let oldest_below = below.min_by_key(|(_, level)| level.first_sequence()).map(|(index, _)| index);
        let (index, since_lower) = match oldest_below {
            None => (highest, 0),
            Some(lower) if self.since_lower + 1 >= LOWER_EVERY => (lower, 0),
            Some(_) => (highest, self.since_lower + 1),
        };
        self.since_lower = since_lower;
        self.live -= 1;
        self.levels[index].pop()
    }

    /// Removes a task if it is still queued.
    pub(crate) fn remove(&mut self, position: QueuePosition) -> Option<J> {
        let job = self.levels[position.priority as usize].remove(position.sequence)?;
        self.live -= 1;
        Some(job)
    }

    /// Returns the tasks in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &J> {
        self.levels.iter().flat_map(|level| level.jobs.iter().filter_map(|(_, job)| job.as_ref()))
    }

    /// Takes all tasks.
    pub(crate) fn drain(&mut self) -> Vec<J> {
        let mut all = Vec::with_capacity(self.live);
        while let Some(job) = self.pop() {
            all.push(job);
        }
        all
    }
}

impl<J> PriorityLevel<J> {
    fn first_sequence(&self) -> Option<u64> {
        self.jobs.front().map(|(sequence, _)| *sequence)
    }

    fn pop(&mut self) -> Option<J> {
        let (_, job) = self.jobs.pop_front()?;
        self.live -= 1;
        self.trim();
        job
    }

    /// Drops removed entries from the front, and frees memory after a burst.
    fn trim(&mut self) {
        while self.jobs.front().is_some_and(|(_, job)| job.is_none()) {
            self.jobs.pop_front();
        }
        if self.jobs.capacity() > 8 * self.jobs.len() + 256 {
            self.jobs.shrink_to(2 * self.jobs.len() + 64);
        }
    }

    fn remove(&mut self, sequence: u64) -> Option<J> {
        let index = self.jobs.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        let job = self.jobs[index].1.take()?;
        self.live -= 1;
        if self.jobs.len() > 2 * self.live + MAX_GAPS {
            self.jobs.retain(|(_, job)| job.is_some());
        }
        self.trim();
        Some(job)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

    #[test]
    fn higher_priorities_start_first_and_each_is_first_in_first_out() {
        let mut queue = JobQueue::default();
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
    fn every_eighth_task_is_of_a_lower_priority_however_many_others_arrive() {
        let mut queue = JobQueue::default();
        for n in 0..100 {
            queue.push([Priority::Low, Priority::Normal][n % 2], n);
        }
        let mut lower = Vec::new();
        for n in 0..800 {
            queue.push(Priority::High, 1_000 + n);
            lower.extend(queue.pop().filter(|job| *job < 1_000));
        }
        assert_eq!(lower, (0..100).collect::<Vec<usize>>(), "the oldest tasks of both lower priorities, in order");
    }

    #[test]
    fn removed_entries_take_no_more_memory_than_live_ones() {
        let mut queue = JobQueue::default();
        queue.push(Priority::Normal, 0);
        let positions: Vec<QueuePosition> = (0..100_000).map(|n| queue.push(Priority::Normal, n)).collect();
        queue.push(Priority::Normal, 0);
        for position in positions {
            assert!(queue.remove(position).is_some());
            assert!(queue.remove(position).is_none());
            let level = &queue.levels[Priority::Normal as usize];
            assert!(level.jobs.len() <= 2 * level.live + MAX_GAPS);
        }
        assert_eq!(queue.len(), 2);
        assert!(queue.levels[Priority::Normal as usize].jobs.capacity() < 1_000);
    }

    #[derive(Clone, Debug)]
    enum QueueStep {
        Push(usize),
        Pop,
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<QueueStep>> {
        let step = prop_oneof![
            4 => (0usize..3).prop_map(QueueStep::Push),
            2 => Just(QueueStep::Pop),
            2 => any::<usize>().prop_map(QueueStep::Remove),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn queue_matches_a_model_of_three_lists(steps in steps()) {
            let mut queue = JobQueue::default();
            let mut lists: [Vec<(u64, QueuePosition)>; 3] = Default::default();
            let (mut positions, mut pushed, mut since_lower) = (Vec::new(), 0, 0);
            for step in steps {
                match step {
                    QueueStep::Push(priority) => {
                        let position = queue.push(PRIORITIES[priority], pushed);
                        lists[priority].push((pushed, position));
                        positions.push((pushed, position));
                        pushed += 1;
                    }
                    QueueStep::Pop => {
                        let waiting: Vec<usize> = (0..3).filter(|n| !lists[*n].is_empty()).collect();
                        let expected = match waiting[..] {
                            [] => None,
                            [only] => {
                                since_lower = 0;
                                Some(lists[only].remove(0).0)
                            }
                            [ref lower @ .., highest] => {
                                since_lower = (since_lower + 1) % 8;
                                let oldest = lower.iter().min_by_key(|n| lists[**n][0].0).copied();
                                let oldest = oldest.expect("lower is not empty");
                                Some(lists[if since_lower == 0 { oldest } else { highest }].remove(0).0)
                            }
                        };
                        prop_assert_eq!(queue.pop(), expected);
                    }
                    QueueStep::Remove(n) if !positions.is_empty() => {
                        let (job, position) = positions[n % positions.len()];
                        let queued = lists.iter_mut().find_map(|list| {
                            let index = list.iter().position(|(_, other)| *other == position)?;
                            Some(list.remove(index).0)
                        });
                        prop_assert_eq!(queue.remove(position), queued);
                        prop_assert!(queued.is_none_or(|queued| queued == job));
                    }
                    QueueStep::Remove(_) => {}
                }
                prop_assert_eq!(queue.len(), lists.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
