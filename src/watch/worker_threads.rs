//! [`WorkerThreads`], which finds the current thread of a worker.

use super::slot::{PollId, SlotView};

/// The polls on the current and the previous threads of a worker.
///
/// A task that calls `block_in_place` hands its worker to another thread and stays in its poll. The slot of the old
/// thread still names the worker. But the counters of a worker stand still during a poll. So if the counters have
/// changed and a poll is still running, that poll no longer runs on the worker.
#[derive(Debug, Default)]
pub(super) struct WorkerThreads {
    /// The polls of the last sample.
    polls: Vec<PollId>,
    /// The polls that continue after their thread has handed the worker over.
    elsewhere: Vec<PollId>,
}

impl WorkerThreads {
    /// Selects the slot of the worker's current thread from all slots that name the worker. Returns `None` if several
    /// slots are possible, because a wrong name is worse than no name. `has_progressed` is `true` if the counters of
    /// the worker have changed since the last call.
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
