//! What a [`Board`](super::board::Board) tells those who ask it.

use std::task::Waker;

use super::run::{Run, Seat};
use crate::guard::key_map::DeferredEntry;

/// How a caller comes aboard.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// It starts a run, and polls it first.
    Started { index: u32, seat: Seat },
    /// It has a share in a run. If the run `is_adrift`, everyone who could drive it was woken, but may never be polled: the
    /// caller asks at once whether it is to.
    Joined { index: u32, seat: Seat, spawn_task: bool, is_adrift: bool },
    /// There is a run: try again with a waker.
    WantsWaker,
    /// So many share the run that no more may.
    Full,
    /// This caller is the run's own work.
    WouldDeadlock,
}

/// What a caller finds when it is polled.
#[derive(Debug)]
pub(crate) enum Found<W, O> {
    Pending,
    /// Look again with a waker.
    WantsWaker,
    /// Poll the work, then [`put_back`](Board::put_back) or [`land`](Board::land).
    Drive(W),
    /// The run has ended, and with it the caller's share.
    Landed(O),
    /// The run that this caller did not share has ended: it starts anew.
    Again,
}

/// What the task finds when it is polled.
#[derive(Debug)]
pub(crate) enum TaskFound<W> {
    Pending,
    WantsWaker,
    Drive(W),
    /// The run needs no task any more, and the task has no share in it any more.
    Over,
}

/// What a section under the mutex leaves to do without it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Rest<K, W, O> {
    /// To be woken.
    pub(crate) wakers: Vec<Waker>,
    /// The work of a cancelled run. Drop it, and then call [`Board::end`].
    pub(crate) cancelled: Option<W>,
    /// The run counts on a task to drive it: spawn one.
    pub(crate) spawn_task: bool,
    /// The run has landed: what a caller that leaves would have got.
    pub(crate) landed: Option<O>,
    pub(super) gone: Option<Waker>,
    pub(super) garbage: Option<DeferredEntry<K, Run<W, O>>>,
}

/// What becomes of the result of a run.
#[derive(Debug)]
pub(crate) enum Landing<R, O> {
    /// Nobody else wants it.
    Own(R),
    /// Others have it too.
    Shared(O),
}

/// Who polled the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pilot {
    Caller(Seat),
    Task,
}

impl<K, W, O> Rest<K, W, O> {
    pub(super) fn nothing() -> Self {
        Self { wakers: Vec::new(), cancelled: None, spawn_task: false, landed: None, gone: None, garbage: None }
    }
}
