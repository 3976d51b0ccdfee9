//! [`Run`], what a [`Board`](super::board::Board) knows of one run: a pure data structure, always behind its mutex.

use std::mem;
use std::task::Waker;

use slab::Slab;

#[derive(Debug)]
pub(crate) struct Run<W, O> {
    pub(super) state: State<W, O>,
    pub(super) driver: Driver,
    /// Callers that have a share in it, or wait for it to end.
    pub(super) callers: usize,
    /// The waker of the caller that began it.
    first: Option<Waker>,
    /// What only a run with several callers has, or had. In a box, as most runs never have.
    company: Option<Box<Company>>,
    /// Whether it counts as running.
    pub(super) is_counted: bool,
}

#[derive(Debug)]
pub(super) enum State<W, O> {
    Out,
    Here(W),
    Ending,
    Ended,
    Landed(O),
}

/// Who polls the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    /// Whoever asks next.
    Anyone,
    Caller(Seat),
    Task,
}

/// A caller's place in a run, with its waker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(usize);

#[derive(Debug, Default)]
struct Company {
    /// The wakers of the callers that joined.
    others: Slab<Option<Waker>>,
    /// Whether a task has a share in the run, and where to wake it.
    task: Option<Option<Waker>>,
    /// There is a task, or was one.
    had_task: bool,
    /// The last task was polled, ever. One that is dropped before that was spawned on a runtime that has ended.
    task_ran: bool,
}

impl<W, O> Run<W, O> {
    /// A run whose first caller is about to poll it.
    #[inline]
    pub(super) fn new() -> Self {
        let driver = Driver::Caller(Seat::FIRST);
        Self { state: State::Out, driver, callers: 1, first: None, company: None, is_counted: true }
    }

    /// Nobody but the caller that began it has a share in it, or ever had.
    #[inline]
    pub(super) fn is_of_one(&self) -> bool {
        self.callers == 1 && self.company.is_none()
    }

    /// Nobody has a share in it any more, and its work is gone.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Landed(_)) && self.callers == 0 && !self.has_task()
    }

    pub(super) fn take_work(&mut self) -> W {
        match mem::replace(&mut self.state, State::Out) {
            State::Here(work) => work,
            _ => unreachable!("the work is there where it is taken"),
        }
    }

    /// A place for a caller that joins.
    pub(super) fn take_seat(&mut self, waker: Option<Waker>) -> Seat {
        Seat(self.company.get_or_insert_default().others.insert(waker) + 1)
    }

    pub(super) fn waker(&mut self, seat: Seat) -> &mut Option<Waker> {
        match seat.0.checked_sub(1) {
            None => &mut self.first,
            Some(position) => {
                let company = self.company.as_mut().expect("whoever joined has a seat there");
                &mut company.others[position]
            }
        }
    }

    /// A caller gives up its place. Drop what is returned after the mutex is unlocked.
    pub(super) fn leave_seat(&mut self, seat: Seat) -> Option<Waker> {
        match seat.0.checked_sub(1) {
            None => self.first.take(),
            Some(position) => {
                let company = self.company.as_mut().expect("whoever joined has a seat there");
                company.others.remove(position)
            }
        }
    }

    /// The wakers of all callers, which bring another one with their next poll if they have to.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let others = self.company.iter_mut().flat_map(|company| &mut company.others);
        self.first.take().into_iter().chain(others.filter_map(|(_, waker)| waker.take())).collect()
    }

    pub(super) fn has_task(&self) -> bool {
        self.company.as_ref().is_some_and(|company| company.task.is_some())
    }

    /// Where to wake the task. `None` if there is none.
    pub(super) fn task_waker(&mut self) -> Option<&mut Option<Waker>> {
        self.company.as_mut()?.task.as_mut()
    }

    /// The task is polled.
    pub(super) fn note_task(&mut self) {
        if let Some(company) = &mut self.company {
            company.task_ran = true;
        }
    }

    /// Whether the last task was lost before it ran: then the next one would be too.
    pub(super) fn is_without_tasks(&self) -> bool {
        self.company.as_ref().is_some_and(|company| company.had_task && !company.task_ran)
    }

    /// The task has no share in it any more.
    pub(super) fn end_task(&mut self) -> Option<Waker> {
        self.company.as_mut()?.task.take()?
    }

    /// A task drives it from now on, if there is none and one can be spawned. Returns whether one is to be.
    pub(super) fn give_to_task(&mut self, can_spawn: impl FnOnce() -> bool) -> bool {
        let spawn_task = !self.has_task() && can_spawn();
        if spawn_task {
            let company = self.company.get_or_insert_default();
            company.task = Some(None);
            company.had_task = true;
            company.task_ran = false;
            self.driver = Driver::Task;
        }
        spawn_task
    }
}

impl Seat {
    pub(super) const FIRST: Self = Self(0);
}
