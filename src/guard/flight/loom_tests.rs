//! Models of the board, checked by loom over every interleaving.
//!
//! Callers and the task use it here as `shared_run`, `runs` and `driver` do. Work reads and writes a `Relaxed` counter
//! whenever it is polled or dropped, which orders nothing by itself: the sum is right only if the runs of the key exclude
//! each other, and each poll sees what the one before it did. It needs two polls: a wake-up that is lost hangs the model.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::Mutex as Beside;
use std::sync::atomic::AtomicUsize as Plain;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::{Board, Boarding, Found, Hash64, Mutex, Pilot, Rest, Seat, lock};
use crate::guard::flight::found::TaskFound;
use crate::semaphore::wake_all;

const KEY: u32 = 7;
const HASH: Hash64 = Hash64(7);

/// How the model's runtime treats tasks.
#[derive(Clone, Copy, Debug)]
enum Tasks {
    /// There is no runtime.
    None,
    Run,
    /// The first task is dropped with its runtime after so many polls, and another runtime goes on.
    Lost {
        after: usize,
    },
    /// The same, and there is no other.
    LostForEver {
        after: usize,
    },
}

struct Shared {
    board: Board<u32, Token, usize>,
    tasks: Tasks,
    detached: bool,
    /// Of each work.
    polls: usize,
    /// What the works do, if they exclude each other.
    sum: Option<AtomicUsize>,
    /// Who waits for what the work waits for, unless each work wakes itself.
    event: Option<Event>,

    // Beside the model, in which one thread runs at a time.
    touches: Plain,
    begun: Plain,
    spawned: Plain,
    running_tasks: Beside<Vec<thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Event {
    has_come: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

/// The work: its outcome is the number of the run.
struct Token {
    shared: Arc<Shared>,
    run: usize,
    polls: usize,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.run)
    }
}

impl Token {
    fn make(shared: &Arc<Shared>) -> Self {
        let run = shared.begun.fetch_add(1, Ordering::Relaxed) + 1;
        Self { shared: Arc::clone(shared), run, polls: 0 }
    }

    fn touch(&self) {
        if let Some(sum) = &self.shared.sum {
            sum.store(sum.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            self.shared.touches.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<usize> {
        self.touch();
        self.polls += 1;
        if let Some(event) = &self.shared.event {
            *lock(&event.waker) = Some(cx.waker().clone());
            if event.has_come.load(Ordering::Acquire) > 0 {
                return Poll::Ready(self.run);
            }
            return Poll::Pending;
        }
        if self.polls == self.shared.polls {
            return Poll::Ready(self.run);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.touch();
    }
}

impl Shared {
    fn new(tasks: Tasks) -> Arc<Self> {
        Self::with(tasks, |_| ())
    }

    fn with(tasks: Tasks, set: impl FnOnce(&mut Self)) -> Arc<Self> {
        let mut shared = Self {
            board: Board::new(),
            tasks,
            detached: false,
            polls: 2,
            sum: Some(AtomicUsize::new(0)),
            event: None,
            touches: Plain::new(0),
            begun: Plain::new(0),
            spawned: Plain::new(0),
            running_tasks: Beside::default(),
        };
        set(&mut shared);
        Arc::new(shared)
    }

    fn can_spawn(&self) -> bool {
        let spawned = self.spawned.load(Ordering::Relaxed);
        match self.tasks {
            Tasks::None => false,
            Tasks::Run => true,
            Tasks::Lost { .. } => spawned < 2,
            Tasks::LostForEver { .. } => spawned < 1,
        }
    }

    fn settle(self: &Arc<Self>, index: u32, mut rest: Rest<u32, Token, usize>) {
        if rest.spawn_task {
            self.spawn(index);
        }
        wake_all(std::mem::take(&mut rest.wakers));
        if let Some(token) = rest.cancelled.take() {
            drop(token);
            let rest = self.board.end(index);
            wake_all(rest.wakers);
        }
    }

    fn spawn(self: &Arc<Self>, index: u32) {
        let nth = self.spawned.fetch_add(1, Ordering::Relaxed);
        let polls = match self.tasks {
            Tasks::Lost { after } | Tasks::LostForEver { after } if nth == 0 => after,
            _ => usize::MAX,
        };
        let shared = Arc::clone(self);
        let task = thread::spawn(move || shared.run_task(index, polls));
        self.running_tasks.lock().unwrap().push(task);
    }

    fn run_task(self: &Arc<Self>, index: u32, polls: usize) {
        let mut left = polls;
        let is_over = block_on(poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            match self.poll_task(index, cx) {
                Poll::Ready(()) => Poll::Ready(true),
                // Its runtime does not wait until it is woken.
                Poll::Pending if left == 0 => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        }));
        if !is_over {
            let rest = self.board.lose_task(index);
            self.settle(index, rest);
        }
    }

    fn poll_task(self: &Arc<Self>, index: u32, cx: &Context<'_>) -> Poll<()> {
        let mut fresh = None;
        let mut token = loop {
            match self.board.find_by_task(index, cx.waker(), &mut fresh) {
                TaskFound::Drive(token) => break token,
                TaskFound::Pending => return Poll::Pending,
                TaskFound::WantsWaker => fresh = Some(cx.waker().clone()),
                TaskFound::Over => return Poll::Ready(()),
            }
        };
        if let Poll::Ready(run) = token.poll(cx) {
            drop(token);
            let (_landing, rest) = self.board.land(index, Pilot::Task, run, |run| run);
            self.settle(index, rest);
            return Poll::Ready(());
        }
        let rest = self.board.put_back_by_task(index, token, cx.waker().clone());
        let is_over = rest.cancelled.is_some();
        self.settle(index, rest);
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A whole call. Returns the number of the run whose outcome it got.
    fn call(self: &Arc<Self>) -> usize {
        Caller::new(self).wait()
    }

    /// A call that leaves after one poll, unless that was enough, or the outcome has come meanwhile.
    fn glance(self: &Arc<Self>) -> Option<usize> {
        let mut caller = Caller::new(self);
        match caller.poll_once() {
            Poll::Ready(run) => Some(run),
            Poll::Pending => caller.leave(),
        }
    }

    fn tell(&self) {
        let event = self.event.as_ref().unwrap();
        event.has_come.store(1, Ordering::Release);
        let waker = lock(&event.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn cancelled(&self) -> u64 {
        self.board.tally.cancelled.value()
    }

    /// At the end of an execution: nobody is there, nothing is left, and the works took turns.
    fn assert_over(&self) {
        loop {
            let task = self.running_tasks.lock().unwrap().pop();
            let Some(task) = task else { break };
            task.join().unwrap();
        }
        if let Some(sum) = &self.sum {
            assert_eq!(sum.load(Ordering::Relaxed), self.touches.load(Ordering::Relaxed), "works overlapped");
        }
        let tally = &self.board.tally;
        assert_eq!((tally.running.value(), tally.callers.value()), (0, 0));
        assert_eq!(tally.runs.value(), self.begun() as u64);
        assert!(lock(&self.board.runs).indices().is_empty(), "something is left of a run");
    }
}

struct Caller {
    shared: Arc<Shared>,
    aboard: Option<(u32, Seat)>,
}

impl Caller {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), aboard: None }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<usize> {
        loop {
            let Some((index, seat)) = self.aboard else { return self.come_aboard(cx) };
            let mut fresh = None;
            loop {
                match self.shared.board.find(index, seat, cx.waker(), &mut fresh) {
                    Found::Pending => return Poll::Pending,
                    Found::WantsWaker => fresh = Some(cx.waker().clone()),
                    Found::Drive(token) => return self.drive(index, seat, token, cx),
                    Found::Landed(run) => {
                        self.aboard = None;
                        return Poll::Ready(run);
                    }
                    Found::Again => {
                        self.aboard = None;
                        break;
                    }
                }
            }
        }
    }

    fn come_aboard(&mut self, cx: &Context<'_>) -> Poll<usize> {
        let (mut key, mut waker) = (Some(KEY), None);
        let can_spawn = || self.shared.can_spawn();
        loop {
            match self.shared.board.come_aboard(HASH, &mut key, &mut waker, usize::MAX, |_| false, can_spawn) {
                Boarding::Started { index, seat } => {
                    self.aboard = Some((index, seat));
                    let token = Token::make(&self.shared);
                    return self.drive(index, seat, token, cx);
                }
                Boarding::Joined { index, seat, spawn_task, is_adrift } => {
                    self.aboard = Some((index, seat));
                    if spawn_task {
                        self.shared.spawn(index);
                    }
                    return if is_adrift { self.poll(cx) } else { Poll::Pending };
                }
                Boarding::WantsWaker => waker = Some(cx.waker().clone()),
                boarding @ (Boarding::Full | Boarding::WouldDeadlock) => panic!("nothing forbids it: {boarding:?}"),
            }
        }
    }

    fn drive(&mut self, index: u32, seat: Seat, mut token: Token, cx: &Context<'_>) -> Poll<usize> {
        if let Poll::Ready(run) = token.poll(cx) {
            drop(token);
            self.aboard = None;
            if self.shared.board.land_alone(index).is_some() {
                return Poll::Ready(run);
            }
            let (_landing, rest) = self.shared.board.land(index, Pilot::Caller(seat), run, |run| run);
            self.shared.settle(index, rest);
            return Poll::Ready(run);
        }
        let can_spawn = || self.shared.can_spawn();
        let rest = self.shared.board.put_back(index, seat, token, cx.waker().clone(), can_spawn);
        self.shared.settle(index, rest);
        Poll::Pending
    }

    fn poll_once(&mut self) -> Poll<usize> {
        block_on(poll_fn(|cx| Poll::Ready(self.poll(cx))))
    }

    fn wait(mut self) -> usize {
        block_on(poll_fn(|cx| self.poll(cx)))
    }

    /// Leaves, as a caller does that is dropped or has waited long enough. Returns the outcome if it has come meanwhile.
    fn leave(mut self) -> Option<usize> {
        let (index, seat) = self.aboard.take().expect("it waits");
        let mut rest = self.shared.board.leave(index, seat, self.shared.detached, || self.shared.can_spawn());
        let landed = rest.landed.take();
        self.shared.settle(index, rest);
        landed
    }
}

/// Checks `model` with at most so many preemptions an execution, which finds what is known to go wrong in such code
/// ("Iterative context bounding", PLDI 2007) and ends in seconds.
fn check_bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn spawn<T: 'static>(shared: &Arc<Shared>, f: impl FnOnce(&Arc<Shared>) -> T + 'static) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || f(&shared))
}

/// A run that the model's main thread has begun.
fn begun(shared: &Arc<Shared>) -> Caller {
    let mut leader = Caller::new(shared);
    assert!(leader.poll_once().is_pending());
    leader
}

/// A caller on the model's main thread that shares it.
fn joined(shared: &Arc<Shared>) -> Caller {
    begun(shared)
}

#[test]
fn a_caller_that_comes_as_the_run_lands_shares_it_or_begins_another() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let other = spawn(&shared, Shared::call);
            let first = shared.call();
            let second = other.join().unwrap();
            assert!(first == second || shared.begun() == 2, "{first} {second}");
            shared.assert_over();
        });
    }
}

#[test]
fn three_callers_without_a_runtime_have_their_outcomes() {
    check_bounded(2, || {
        let shared = Shared::new(Tasks::None);
        let others = [spawn(&shared, Shared::call), spawn(&shared, Shared::call)];
        shared.call();
        for other in others {
            other.join().unwrap();
        }
        shared.assert_over();
    });
}

#[test]
fn as_the_caller_that_began_it_leaves_who_comes_has_the_run_or_a_fresh_one() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let leader = begun(&shared);
            let joiner = spawn(&shared, Shared::call);
            leader.leave();
            let run = joiner.join().unwrap();
            assert_eq!(run, shared.begun());
            shared.assert_over();
        });
    }
}

#[test]
fn as_two_of_three_callers_leave_without_a_runtime_the_third_drives() {
    check_bounded(3, || {
        let shared = Shared::new(Tasks::None);
        let leader = begun(&shared);
        let next = joined(&shared);
        let stays = spawn(&shared, Shared::call);
        leader.leave();
        next.leave();
        assert_eq!(stays.join().unwrap(), shared.begun());
        shared.assert_over();
    });
}

#[test]
fn a_caller_that_glances_in_leaves_the_work_to_who_waits() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(2, move || {
            let shared = Shared::new(tasks);
            let others = [spawn(&shared, Shared::call), spawn(&shared, |shared| shared.glance().unwrap_or(0))];
            shared.glance();
            for other in others {
                other.join().unwrap();
            }
            shared.assert_over();
        });
    }
}

#[test]
fn who_comes_as_the_last_caller_leaves_the_task_never_meets_the_cancelled_work() {
    // The task's first poll ends it, or not.
    for polls in [2, 3] {
        check_bounded(3, move || {
            let shared = Shared::with(Tasks::Run, |shared| shared.polls = polls);
            let leader = begun(&shared);
            let joiner = joined(&shared);
            let late = spawn(&shared, Shared::call);
            let landed = [leader.leave(), joiner.leave()];
            let run = late.join().unwrap();
            assert_eq!(run, shared.begun());
            // What was cancelled is nobody's, and what landed was the first.
            assert!(shared.cancelled() == 0 || run == 2, "it has the outcome of a cancelled run");
            assert!(landed.into_iter().flatten().all(|run| run == 1));
            shared.assert_over();
        });
    }
}

#[test]
fn two_callers_that_leave_at_once_cancel_the_run_once() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let leader = begun(&shared);
            let joiner = joined(&shared);
            let other = thread::spawn(move || joiner.leave());
            let landed = [leader.leave(), other.join().unwrap()];
            let cancelled = shared.cancelled();
            assert!(cancelled <= 1);
            if landed.iter().any(Option::is_some) {
                assert_eq!(cancelled, 0);
            }
            if matches!(tasks, Tasks::None) {
                assert_eq!((cancelled, landed), (1, [None, None]));
            }
            shared.assert_over();
        });
    }
}

#[test]
fn a_caller_that_gives_up_as_the_run_lands_has_the_outcome_or_nothing() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let leader = begun(&shared);
            let impatient = joined(&shared);
            let stays = thread::spawn(move || leader.wait());
            let landed = impatient.leave();
            assert_eq!(stays.join().unwrap(), 1);
            assert!(landed.is_none_or(|run| run == 1));
            assert_eq!((shared.begun(), shared.cancelled()), (1, 0));
            shared.assert_over();
        });
    }
}

#[test]
fn a_task_that_is_lost_leaves_the_run_to_its_callers() {
    for after in [0, 1] {
        for tasks in [Tasks::LostForEver { after }, Tasks::Lost { after }] {
            check_bounded(2, move || {
                let shared = Shared::new(tasks);
                let leader = begun(&shared);
                let joiner = joined(&shared);
                let other = thread::spawn(move || joiner.wait());
                assert_eq!((leader.wait(), other.join().unwrap()), (1, 1));
            });
        }
    }
}

#[test]
fn a_task_that_is_lost_as_the_last_callers_leave_takes_the_work_with_it() {
    for detached in [false, true] {
        check_bounded(3, move || {
            let shared = Shared::with(Tasks::LostForEver { after: 1 }, |shared| shared.detached = detached);
            let leader = begun(&shared);
            let joiner = joined(&shared);
            let other = thread::spawn(move || joiner.leave());
            leader.leave();
            other.join().unwrap();
            shared.assert_over();
        });
    }
}

#[test]
fn who_comes_as_a_detached_run_ends_shares_it_or_begins_another() {
    check_bounded(3, || {
        let shared = Shared::with(Tasks::Run, |shared| shared.detached = true);
        begun(&shared).leave();
        let run = shared.call();
        assert_eq!(run, shared.begun());
        assert_eq!(shared.cancelled(), 0);
        shared.assert_over();
    });
}

#[test]
fn a_run_that_is_forgotten_as_another_caller_comes_ends_for_its_own_callers() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            // The two runs go on at once: nothing keeps their works apart.
            let shared = Shared::with(tasks, |shared| shared.sum = None);
            let leader = begun(&shared);
            let other = spawn(&shared, Shared::call);
            let was_there = shared.board.forget(HASH, &KEY);
            assert_eq!(leader.wait(), 1);
            let run = other.join().unwrap();
            // A task may have ended it before.
            assert!(was_there || matches!(tasks, Tasks::Run));
            assert_eq!(run, shared.begun());
            shared.assert_over();
        });
    }
}

#[test]
fn a_forgotten_run_that_all_leave_ends_beside_the_new_one() {
    check_bounded(3, || {
        let shared = Shared::with(Tasks::None, |shared| shared.sum = None);
        let leader = begun(&shared);
        let other = spawn(&shared, |shared| {
            // Or it was cancelled before.
            shared.board.forget(HASH, &KEY);
            shared.call()
        });
        leader.leave();
        assert_eq!(other.join().unwrap(), 2);
        assert_eq!(shared.cancelled(), 1);
        shared.assert_over();
    });
}

#[test]
fn what_the_work_waits_for_wakes_whoever_drives_it_by_then() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::with(tasks, |shared| shared.event = Some(Event::default()));
            let leader = begun(&shared);
            let joiner = joined(&shared);
            let waits = thread::spawn(move || joiner.wait());
            let leaver = thread::spawn(move || leader.leave());
            shared.tell();
            leaver.join().unwrap();
            assert_eq!((waits.join().unwrap(), shared.begun()), (1, 1));
            shared.assert_over();
        });
    }
}

#[test]
fn what_the_work_waits_for_wakes_it_though_its_task_is_lost() {
    check_bounded(2, || {
        let shared = Shared::with(Tasks::LostForEver { after: 1 }, |shared| shared.event = Some(Event::default()));
        let leader = begun(&shared);
        let joiner = joined(&shared);
        let waits = thread::spawn(move || joiner.wait());
        shared.tell();
        assert_eq!((leader.wait(), waits.join().unwrap(), shared.begun()), (1, 1, 1));
        shared.assert_over();
    });
}
