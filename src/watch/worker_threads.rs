//! [`WorkerThreads`], which finds the thread that is a worker now.

use super::slot::{PollId, SlotView};

/// What a watch knows of the threads that are, or have been, a worker.
///
/// A task that calls `block_in_place` gives its worker to another thread, and stays in its poll, whose slot still names
/// that worker. But the counters of a worker stand still during a poll. So a poll that was there before the counters
/// changed, and is there afterwards, is not a poll of the worker any more.
#[derive(Debug, Default)]
pub(super) struct WorkerThreads {
    /// The polls that the last sample has seen.
    polls: Vec<PollId>,
    /// Those of them that go on without the worker.
    elsewhere: Vec<PollId>,
}

impl WorkerThreads {
    /// Returns the slot of the thread that is the worker, of all slots that name the worker. Returns `None` if several are
    /// possible, because a wrong name is worse than none. `has_progressed` is `true` if the counters of the worker have
    /// changed since the last call.
    pub(super) fn current<'a>(
        &mut self,
        slots: impl Iterator<Item = &'a SlotView> + Clone,
        has_progressed: bool,
    ) -> Option<&'a SlotView> {
        let in_poll = slots.clone().filter(|slot| slot.poll.label().is_some());
        let polls: Vec<_> = in_poll.clone().map(SlotView::poll_id).collect();
        if has_progressed {
            self.elsewhere = polls.iter().filter(|poll| self.polls.contains(poll)).copied().collect();
        }
        self.polls = polls;
        let mut here = in_poll.filter(|slot| !self.elsewhere.contains(&slot.poll_id()));
        let mut between_polls = slots.filter(|slot| slot.poll.label().is_none());
        match (here.next(), here.next()) {
            (None, _) => between_polls.next().filter(|_| between_polls.next().is_none()),
            (only, None) => only,
            (Some(_), Some(_)) => None,
        }
    }
}
