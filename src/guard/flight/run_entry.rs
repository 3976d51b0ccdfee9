//! [`RunEntry`], the state of one run: plain data, protected by the mutex of its
//! [`FlightShard`](super::shard::FlightShard).

use std::mem;
use std::task::Waker;

use slab::Slab;

use crate::waker_slot::WakerSlot;

#[derive(Debug)]
pub(crate) struct RunEntry<W, O> {
    pub(super) state: RunEntryState<W, O>,
    /// The driver, which polls the work. `None` if the run needs one: the next waiter that is polled becomes the
    /// driver.
    pub(super) driver: Option<Driver>,
    /// The number of waiters, including callers that wait for a cancelled run to end.
    pub(super) waiters: usize,
    leader_waker: WakerSlot,
    /// Created with the run's first follower or driver task. Boxed, because most runs have neither.
    shared: Option<Box<SharedParts>>,
    /// `true` while the run counts as running.
    pub(super) is_counted: bool,
}

/// The states of a run. The diagram in [`shard`](super::shard) shows the transitions.
#[derive(Debug)]
pub(super) enum RunEntryState<W, O> {
    Polling,
    Idle(W),
    Cancelling,
    Ended,
    Completed(O),
}

/// The driver of a run, which polls its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Waiter(RunWaiterId),
    Task,
}

/// Identifies a waiter of one run, and the slot of its waker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunWaiterId(usize);

impl RunWaiterId {
    pub(super) const LEADER: Self = Self(0);
}

#[derive(Debug, Default)]
struct SharedParts {
    followers: Slab<WakerSlot>,
    /// The waker of the driver task, while the run has one.
    task: Option<WakerSlot>,
    /// `true` if the run has, or had, a driver task.
    had_task: bool,
    /// `true` if the latest driver task was polled at least once. A task that is dropped before that was spawned on a
    /// runtime that has shut down.
    task_ran: bool,
}

impl<W, O> RunEntry<W, O> {
    /// A run whose leader is about to poll the work for the first time.
    #[inline]
    pub(super) fn new() -> Self {
        Self {
            state: RunEntryState::Polling,
            driver: Some(Driver::Waiter(RunWaiterId::LEADER)),
            waiters: 1,
            leader_waker: WakerSlot::new(),
            shared: None,
            is_counted: true,
        }
    }

    /// Returns `true` if the run has no waiter but its leader, and never had a follower or a driver task.
    #[inline]
    pub(super) fn is_unshared(&self) -> bool {
        self.waiters == 1 && self.shared.is_none()
    }

    /// Returns `true` if the entry can be removed: the work is gone, and neither a waiter nor a driver task remains.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, RunEntryState::Ended | RunEntryState::Completed(_))
            && self.waiters == 0
            && !self.has_task()
    }

    /// Takes the idle work to poll it.
    pub(super) fn take_work(&mut self) -> W {
        match mem::replace(&mut self.state, RunEntryState::Polling) {
            RunEntryState::Idle(work) => work,
            _ => unreachable!("work is taken from idle runs only"),
        }
    }

    /// Adds a waker slot for a follower.
    pub(super) fn add_follower(&mut self, slot: WakerSlot) -> RunWaiterId {
        RunWaiterId(self.shared.get_or_insert_default().followers.insert(slot) + 1)
    }

    pub(super) fn waker(&mut self, id: RunWaiterId) -> &mut WakerSlot {
        match id.0.checked_sub(1) {
            None => &mut self.leader_waker,
            Some(position) => &mut self.followers()[position],
        }
    }

    /// Removes a waiter's slot. The waker must be dropped after the mutex is unlocked.
    pub(super) fn remove_waker(&mut self, id: RunWaiterId) -> Option<Waker> {
        match id.0.checked_sub(1) {
            None => self.leader_waker.take(),
            Some(position) => self.followers().remove(position).take(),
        }
    }

    fn followers(&mut self) -> &mut Slab<WakerSlot> {
        &mut self.shared.as_mut().expect("a follower has a slot there").followers
    }

    /// Takes the wakers of all waiters. A waiter registers another one at its next poll if it still has to wait.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let followers = self.shared.iter_mut().flat_map(|shared| &mut shared.followers);
        self.leader_waker.take().into_iter().chain(followers.filter_map(|(_, slot)| slot.take())).collect()
    }

    pub(super) fn has_task(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.task.is_some())
    }

    /// Returns the waker slot of the driver task, or `None` if the run has no driver task.
    pub(super) fn task_waker(&mut self) -> Option<&mut WakerSlot> {
        self.shared.as_mut()?.task.as_mut()
    }

    /// Takes the waker of the driver task to wake the task.
    pub(super) fn take_task_waker(&mut self) -> Option<Waker> {
        self.task_waker()?.take()
    }

    /// Called when the driver task is polled.
    pub(super) fn note_task_poll(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.task_ran = true;
        }
    }

    /// Returns `true` if the latest driver task was dropped before it ran. The next one would be, too.
    pub(super) fn cannot_run_tasks(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.had_task && !shared.task_ran)
    }

    /// Removes the driver task from the run. Its waker must be dropped after the mutex is unlocked.
    pub(super) fn remove_task(&mut self) -> Option<Waker> {
        self.shared.as_mut()?.task.take()?.take()
    }

    /// Makes a driver task drive the run, if the run has none and one can be spawned. Returns `true` if the caller must
    /// spawn the task.
    pub(super) fn hand_to_task(&mut self, can_spawn: impl FnOnce() -> bool) -> bool {
        let spawn_task = !self.has_task() && can_spawn();
        if spawn_task {
            let shared = self.shared.get_or_insert_default();
            shared.task = Some(WakerSlot::new());
            shared.had_task = true;
            shared.task_ran = false;
            self.driver = Some(Driver::Task);
        }
        spawn_task
    }
}
