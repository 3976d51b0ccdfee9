//! Loom models of a [`FlightShard`], which explore every interleaving.
//!
//! Callers and driver tasks use the shard as `shared_run`, `flight_map` and `driver_task` do. Work loads and stores a
//! `Relaxed` counter whenever it is polled or dropped, which orders nothing by itself: the sum is right only if the
//! runs of the key exclude each other, and each poll sees the effects of the previous poll. Work needs two polls, so a
//! lost wake-up hangs the model.

#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::AtomicUsize as StdAtomicUsize;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::outcome::{FlightDeferred, JoinOutcome, RunPoll};
use super::run_entry::{Driver, RunWaiterId};
use super::shard::FlightShard;
use crate::guard::flight::outcome::DriverTaskPoll;
use crate::guard::key_map::Hash64;
use crate::sync::{Mutex, lock};
use crate::wake::wake_all;

const KEY: u32 = 7;
const HASH: Hash64 = Hash64(7);
/// The outcome of a caller that the closed shard refuses. Runs count from 1.
const REFUSED: usize = 0;

/// The way in which the model's runtime treats spawned tasks.
#[derive(Clone, Copy, Debug)]
enum Tasks {
    /// There is no runtime.
    None,
    Run,
    /// The first task is dropped with its runtime after `after` polls, and another runtime remains.
    Lost {
        after: usize,
    },
    /// As `Lost`, but no other runtime exists.
    LostForever {
        after: usize,
    },
}

struct Shared {
    shard: FlightShard<u32, ModelWork, usize>,
    tasks: Tasks,
    detached: bool,
    /// The number of polls that each work needs.
    polls: usize,
    /// The counter that work changes, if runs must exclude each other.
    sum: Option<AtomicUsize>,
    /// The event that the work waits for. Without an event, the work wakes itself.
    event: Option<Event>,

    // Not part of the model: loom runs one thread at a time.
    touches: StdAtomicUsize,
    started: StdAtomicUsize,
    spawned: StdAtomicUsize,
    running_tasks: StdMutex<Vec<thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Event {
    is_set: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

/// The work of a run. Its outcome is the run's number.
struct ModelWork {
    shared: Arc<Shared>,
    run: usize,
    polls: usize,
}

impl std::fmt::Debug for ModelWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelWork({})", self.run)
    }
}

impl ModelWork {
    fn make(shared: &Arc<Shared>) -> Self {
        let run = shared.started.fetch_add(1, Ordering::Relaxed) + 1;
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
            if event.is_set.load(Ordering::Acquire) > 0 {
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

impl Drop for ModelWork {
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
            shard: FlightShard::new(),
            tasks,
            detached: false,
            polls: 2,
            sum: Some(AtomicUsize::new(0)),
            event: None,
            touches: StdAtomicUsize::new(0),
            started: StdAtomicUsize::new(0),
            spawned: StdAtomicUsize::new(0),
            running_tasks: StdMutex::default(),
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
            Tasks::LostForever { .. } => spawned < 1,
        }
    }

    fn run_deferred(self: &Arc<Self>, index: u32, mut deferred: FlightDeferred<u32, ModelWork, usize>) {
        if deferred.spawn_task {
            self.spawn(index);
        }
        wake_all(std::mem::take(&mut deferred.wakers));
        if let Some(work) = deferred.cancelled_work.take() {
            drop(work);
            let deferred = self.shard.finish_cancel(index);
            wake_all(deferred.wakers);
        }
    }

    fn spawn(self: &Arc<Self>, index: u32) {
        let nth = self.spawned.fetch_add(1, Ordering::Relaxed);
        let polls = match self.tasks {
            Tasks::Lost { after } | Tasks::LostForever { after } if nth == 0 => after,
            _ => usize::MAX,
        };
        let shared = Arc::clone(self);
        let task = thread::spawn(move || shared.run_task(index, polls));
        self.running_tasks.lock().unwrap().push(task);
    }

    fn run_task(self: &Arc<Self>, index: u32, polls: usize) {
        let mut left = polls;
        let is_finished = block_on(poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            match self.poll_task(index, cx) {
                Poll::Ready(()) => Poll::Ready(true),
                // The runtime shuts down before the task is woken.
                Poll::Pending if left == 0 => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        }));
        if !is_finished {
            let deferred = self.shard.lose_task(index);
            self.run_deferred(index, deferred);
        }
    }

    fn poll_task(self: &Arc<Self>, index: u32, cx: &Context<'_>) -> Poll<()> {
        let mut spare = None;
        let mut work = loop {
            match self.shard.poll_by_task(index, cx.waker(), &mut spare) {
                DriverTaskPoll::Drive(work) => break work,
                DriverTaskPoll::Pending => return Poll::Pending,
                DriverTaskPoll::NeedsWaker => spare = Some(cx.waker().clone()),
                DriverTaskPoll::Finished => return Poll::Ready(()),
            }
        };
        if let Poll::Ready(run) = work.poll(cx) {
            drop(work);
            let (_completion, deferred) = self.shard.complete(index, Driver::Task, run, |run| run);
            self.run_deferred(index, deferred);
            return Poll::Ready(());
        }
        let deferred = self.shard.put_back_by_task(index, work, cx.waker().clone());
        let is_finished = deferred.cancelled_work.is_some();
        self.run_deferred(index, deferred);
        if is_finished { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Joins or starts a run, waits for it, and returns the number of the run whose outcome it got.
    fn call(self: &Arc<Self>) -> usize {
        Caller::new(self).wait()
    }

    /// Polls once and leaves. Returns an outcome if the poll was enough or the run completed meanwhile.
    fn poll_and_leave(self: &Arc<Self>) -> Option<usize> {
        let mut caller = Caller::new(self);
        match caller.poll_once() {
            Poll::Ready(run) => Some(run),
            Poll::Pending => caller.leave(),
        }
    }

    fn set_event(&self) {
        let event = self.event.as_ref().unwrap();
        event.is_set.store(1, Ordering::Release);
        let waker = lock(&event.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn started(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    fn cancelled(&self) -> u64 {
        self.shard.counters.cancelled.value()
    }

    /// Asserts at the end of an execution that no waiter, task or entry remains, and that the works excluded each
    /// other.
    fn assert_over(&self) {
        loop {
            let task = self.running_tasks.lock().unwrap().pop();
            let Some(task) = task else { break };
            task.join().unwrap();
        }
        if let Some(sum) = &self.sum {
            assert_eq!(sum.load(Ordering::Relaxed), self.touches.load(Ordering::Relaxed), "works overlapped");
        }
        let counters = &self.shard.counters;
        assert_eq!((counters.running.value(), counters.waiting.value()), (0, 0));
        assert_eq!(counters.runs.value(), self.started() as u64);
        assert!(lock(&self.shard.runs).indices().is_empty(), "the entry of a run remains");
    }
}

struct Caller {
    shared: Arc<Shared>,
    joined: Option<(u32, RunWaiterId)>,
}

impl Caller {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), joined: None }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<usize> {
        loop {
            let Some((index, id)) = self.joined else { return self.join(cx) };
            let mut spare = None;
            loop {
                match self.shared.shard.poll(index, id, cx.waker(), &mut spare) {
                    RunPoll::Pending => return Poll::Pending,
                    RunPoll::NeedsWaker => spare = Some(cx.waker().clone()),
                    RunPoll::Drive(work) => return self.drive(index, id, work, cx),
                    RunPoll::Completed(run) => {
                        self.joined = None;
                        return Poll::Ready(run);
                    }
                    RunPoll::Rejoin => {
                        self.joined = None;
                        break;
                    }
                }
            }
        }
    }

    fn join(&mut self, cx: &Context<'_>) -> Poll<usize> {
        let (mut key, mut waker) = (Some(KEY), None);
        let can_spawn = || self.shared.can_spawn();
        loop {
            match self.shared.shard.join(HASH, &mut key, &mut waker, usize::MAX, |_| false, can_spawn) {
                JoinOutcome::Started { index, id } => {
                    self.joined = Some((index, id));
                    let work = ModelWork::make(&self.shared);
                    return self.drive(index, id, work, cx);
                }
                JoinOutcome::Joined { index, id, spawn_task, needs_driver } => {
                    self.joined = Some((index, id));
                    if spawn_task {
                        self.shared.spawn(index);
                    }
                    return if needs_driver { self.poll(cx) } else { Poll::Pending };
                }
                JoinOutcome::NeedsWaker => waker = Some(cx.waker().clone()),
                JoinOutcome::Closed => return Poll::Ready(REFUSED),
                outcome @ (JoinOutcome::Full | JoinOutcome::WouldDeadlock) => {
                    panic!("nothing refuses the caller: {outcome:?}")
                }
            }
        }
    }

    fn drive(&mut self, index: u32, id: RunWaiterId, mut work: ModelWork, cx: &Context<'_>) -> Poll<usize> {
        if let Poll::Ready(run) = work.poll(cx) {
            drop(work);
            self.joined = None;
            if self.shared.shard.complete_unshared(index).is_some() {
                return Poll::Ready(run);
            }
            let (_completion, deferred) = self.shared.shard.complete(index, Driver::Waiter(id), run, |run| run);
            self.shared.run_deferred(index, deferred);
            return Poll::Ready(run);
        }
        let can_spawn = || self.shared.can_spawn();
        let deferred = self.shared.shard.put_back(index, id, work, cx.waker().clone(), can_spawn);
        self.shared.run_deferred(index, deferred);
        Poll::Pending
    }

    fn poll_once(&mut self) -> Poll<usize> {
        block_on(poll_fn(|cx| Poll::Ready(self.poll(cx))))
    }

    fn wait(mut self) -> usize {
        block_on(poll_fn(|cx| self.poll(cx)))
    }

    /// Leaves, as a caller does that is dropped or times out. Returns the outcome if the run completed meanwhile.
    fn leave(mut self) -> Option<usize> {
        let (index, id) = self.joined.take().expect("the caller is a waiter");
        let mut deferred = self.shared.shard.leave(index, id, self.shared.detached, || self.shared.can_spawn());
        let outcome = deferred.outcome.take();
        self.shared.run_deferred(index, deferred);
        outcome
    }
}

/// Checks `model` with at most `preemptions` preemptions per execution. That finds nearly all known bugs of such code
/// ("Iterative context bounding for systematic testing of multithreaded programs", PLDI 2007), and takes seconds.
fn check_bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn spawn<T: 'static>(shared: &Arc<Shared>, f: impl FnOnce(&Arc<Shared>) -> T + 'static) -> thread::JoinHandle<T> {
    let shared = Arc::clone(shared);
    thread::spawn(move || f(&shared))
}

/// Starts a run on the model's main thread.
fn start(shared: &Arc<Shared>) -> Caller {
    let mut leader = Caller::new(shared);
    assert!(leader.poll_once().is_pending());
    leader
}

/// Joins the run on the model's main thread.
fn join(shared: &Arc<Shared>) -> Caller {
    start(shared)
}

#[test]
fn caller_that_joins_as_the_run_completes_shares_it_or_starts_another() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let other = spawn(&shared, Shared::call);
            let first = shared.call();
            let second = other.join().unwrap();
            assert!(first == second || shared.started() == 2, "{first} {second}");
            shared.assert_over();
        });
    }
}

#[test]
fn closed_flight_that_has_drained_starts_no_run() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let callers = [spawn(&shared, Shared::call), spawn(&shared, Shared::call)];
            shared.shard.close();
            let (has_drained, runs) = (shared.shard.is_drained(), shared.shard.counters.runs.value());
            let completed =
                callers.map(|caller| caller.join().unwrap()).into_iter().filter(|run| *run != REFUSED).max();
            assert!(!has_drained || runs == shared.shard.counters.runs.value(), "a run started after the drain");
            assert_eq!(completed.unwrap_or(0), shared.started());
            assert!(shared.shard.is_drained());
            shared.assert_over();
        });
    }
}

#[test]
fn three_callers_without_a_runtime_get_their_outcomes() {
    check_bounded(2, || {
        let shared = Shared::new(Tasks::None);
        let callers = [spawn(&shared, Shared::call), spawn(&shared, Shared::call)];
        shared.call();
        for caller in callers {
            caller.join().unwrap();
        }
        shared.assert_over();
    });
}

#[test]
fn caller_that_joins_as_the_leader_leaves_gets_the_run_or_a_new_one() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let leader = start(&shared);
            let joiner = spawn(&shared, Shared::call);
            leader.leave();
            let run = joiner.join().unwrap();
            assert_eq!(run, shared.started());
            shared.assert_over();
        });
    }
}

#[test]
fn last_of_three_callers_drives_without_a_runtime_when_the_others_leave() {
    check_bounded(3, || {
        let shared = Shared::new(Tasks::None);
        let leader = start(&shared);
        let next = join(&shared);
        let waiter = spawn(&shared, Shared::call);
        leader.leave();
        next.leave();
        assert_eq!(waiter.join().unwrap(), shared.started());
        shared.assert_over();
    });
}

#[test]
fn caller_that_polls_once_and_leaves_hands_the_work_to_the_waiters() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(2, move || {
            let shared = Shared::new(tasks);
            let callers = [spawn(&shared, Shared::call), spawn(&shared, |shared| shared.poll_and_leave().unwrap_or(0))];
            shared.poll_and_leave();
            for caller in callers {
                caller.join().unwrap();
            }
            shared.assert_over();
        });
    }
}

#[test]
fn caller_that_joins_as_the_last_waiter_leaves_never_overlaps_the_cancelled_work() {
    // With two polls, the task's first poll completes the run. With three, it does not.
    for polls in [2, 3] {
        check_bounded(3, move || {
            let shared = Shared::with(Tasks::Run, |shared| shared.polls = polls);
            let leader = start(&shared);
            let joiner = join(&shared);
            let late = spawn(&shared, Shared::call);
            let outcome = [leader.leave(), joiner.leave()];
            let run = late.join().unwrap();
            assert_eq!(run, shared.started());
            // No caller gets a cancelled run, and only the first run can complete for those that left.
            assert!(shared.cancelled() == 0 || run == 2, "the caller got the outcome of a cancelled run");
            assert!(outcome.into_iter().flatten().all(|run| run == 1));
            shared.assert_over();
        });
    }
}

#[test]
fn two_callers_that_leave_at_once_cancel_the_run_once() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let leader = start(&shared);
            let joiner = join(&shared);
            let other = thread::spawn(move || joiner.leave());
            let outcome = [leader.leave(), other.join().unwrap()];
            let cancelled = shared.cancelled();
            assert!(cancelled <= 1);
            if outcome.iter().any(Option::is_some) {
                assert_eq!(cancelled, 0);
            }
            if matches!(tasks, Tasks::None) {
                assert_eq!((cancelled, outcome), (1, [None, None]));
            }
            shared.assert_over();
        });
    }
}

#[test]
fn caller_that_leaves_as_the_run_completes_gets_the_outcome_or_nothing() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::new(tasks);
            let leader = start(&shared);
            let leaver = join(&shared);
            let waiter = thread::spawn(move || leader.wait());
            let outcome = leaver.leave();
            assert_eq!(waiter.join().unwrap(), 1);
            assert!(outcome.is_none_or(|run| run == 1));
            assert_eq!((shared.started(), shared.cancelled()), (1, 0));
            shared.assert_over();
        });
    }
}

#[test]
fn lost_task_leaves_the_run_to_its_waiters() {
    for after in [0, 1] {
        for tasks in [Tasks::LostForever { after }, Tasks::Lost { after }] {
            check_bounded(2, move || {
                let shared = Shared::new(tasks);
                let leader = start(&shared);
                let joiner = join(&shared);
                let other = thread::spawn(move || joiner.wait());
                assert_eq!((leader.wait(), other.join().unwrap()), (1, 1));
            });
        }
    }
}

#[test]
fn task_that_is_lost_as_the_last_waiters_leave_drops_the_work() {
    for detached in [false, true] {
        check_bounded(3, move || {
            let shared = Shared::with(Tasks::LostForever { after: 1 }, |shared| shared.detached = detached);
            let leader = start(&shared);
            let joiner = join(&shared);
            let other = thread::spawn(move || joiner.leave());
            leader.leave();
            other.join().unwrap();
            shared.assert_over();
        });
    }
}

#[test]
fn caller_that_joins_as_a_detached_run_ends_shares_it_or_starts_another() {
    check_bounded(3, || {
        let shared = Shared::with(Tasks::Run, |shared| shared.detached = true);
        start(&shared).leave();
        let run = shared.call();
        assert_eq!(run, shared.started());
        assert_eq!(shared.cancelled(), 0);
        shared.assert_over();
    });
}

#[test]
fn run_that_is_forgotten_as_another_caller_joins_completes_for_its_own_waiters() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            // The two runs may overlap: nothing excludes them.
            let shared = Shared::with(tasks, |shared| shared.sum = None);
            let leader = start(&shared);
            let other = spawn(&shared, Shared::call);
            let had_run = shared.shard.forget(HASH, &KEY);
            assert_eq!(leader.wait(), 1);
            let run = other.join().unwrap();
            // A task may have completed the run before.
            assert!(had_run || matches!(tasks, Tasks::Run));
            assert_eq!(run, shared.started());
            shared.assert_over();
        });
    }
}

#[test]
fn forgotten_run_that_all_waiters_leave_ends_alongside_the_new_one() {
    check_bounded(3, || {
        let shared = Shared::with(Tasks::None, |shared| shared.sum = None);
        let leader = start(&shared);
        let other = spawn(&shared, |shared| {
            // The run may have been cancelled before.
            shared.shard.forget(HASH, &KEY);
            shared.call()
        });
        leader.leave();
        assert_eq!(other.join().unwrap(), 2);
        assert_eq!(shared.cancelled(), 1);
        shared.assert_over();
    });
}

#[test]
fn event_of_the_work_wakes_the_current_driver() {
    for tasks in [Tasks::None, Tasks::Run] {
        check_bounded(3, move || {
            let shared = Shared::with(tasks, |shared| shared.event = Some(Event::default()));
            let leader = start(&shared);
            let joiner = join(&shared);
            let waiter = thread::spawn(move || joiner.wait());
            let leaver = thread::spawn(move || leader.leave());
            shared.set_event();
            leaver.join().unwrap();
            assert_eq!((waiter.join().unwrap(), shared.started()), (1, 1));
            shared.assert_over();
        });
    }
}

#[test]
fn event_of_the_work_wakes_a_waiter_after_the_task_is_lost() {
    check_bounded(2, || {
        let shared = Shared::with(Tasks::LostForever { after: 1 }, |shared| shared.event = Some(Event::default()));
        let leader = start(&shared);
        let joiner = join(&shared);
        let waiter = thread::spawn(move || joiner.wait());
        shared.set_event();
        assert_eq!((leader.wait(), waiter.join().unwrap(), shared.started()), (1, 1, 1));
        shared.assert_over();
    });
}
