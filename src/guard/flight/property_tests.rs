//! Compares a [`FlightShard`] with a naive model over random programs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::outcome::{Completion, DriverTaskPoll, FlightDeferred, JoinOutcome, RunPoll};
use super::run_entry::{Driver, RunEntryState, RunWaiterId};
use super::shard::FlightShard;
use crate::guard::key_map::Hash64;
use crate::sync::lock;

/// One step of a program. `pick` selects one of the waiters, drivers or tasks that exist at that step.
#[derive(Clone, Debug)]
enum Step {
    /// A caller joins the run of a key, or starts one.
    Join {
        key: u32,
        can_spawn: bool,
    },
    /// The work of a run asks for its own key.
    JoinFromWork {
        pick: usize,
    },
    /// A waiter is polled, with its registered waker or with a fresh one.
    Poll {
        pick: usize,
        fresh: bool,
    },
    Leave {
        pick: usize,
        can_spawn: bool,
    },
    /// A driver has polled the work, which is pending.
    PutBack {
        pick: usize,
        can_spawn: bool,
    },
    /// A driver has polled the work to its end.
    Complete {
        pick: usize,
    },
    /// The work of a cancelled run has been dropped.
    FinishCancel {
        pick: usize,
    },
    PollTask {
        pick: usize,
        fresh: bool,
    },
    LoseTask {
        pick: usize,
    },
    Forget {
        key: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>;
    prop_oneof![
        8 => (0..3_u32, any::<bool>()).prop_map(|(key, can_spawn)| Step::Join { key, can_spawn }),
        1 => pick().prop_map(|pick| Step::JoinFromWork { pick }),
        8 => (pick(), any::<bool>()).prop_map(|(pick, fresh)| Step::Poll { pick, fresh }),
        5 => (pick(), any::<bool>()).prop_map(|(pick, can_spawn)| Step::Leave { pick, can_spawn }),
        8 => (pick(), any::<bool>()).prop_map(|(pick, can_spawn)| Step::PutBack { pick, can_spawn }),
        3 => pick().prop_map(|pick| Step::Complete { pick }),
        3 => pick().prop_map(|pick| Step::FinishCancel { pick }),
        6 => (pick(), any::<bool>()).prop_map(|(pick, fresh)| Step::PollTask { pick, fresh }),
        2 => pick().prop_map(|pick| Step::LoseTask { pick }),
        1 => (0..3_u32).prop_map(|key| Step::Forget { key }),
    ]
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The model's view of a run's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunPhase {
    Polling,
    Idle,
    /// Cancelled. A driver that is polling the work finds out after its poll; without a driver, the work is being
    /// dropped.
    Cancelling,
    Ended,
    Completed,
}

/// The driver of a run, which polls its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelDriver {
    Waiter(usize),
    Task,
}

#[derive(Debug)]
struct ModelRun {
    index: u32,
    key: u32,
    phase: RunPhase,
    is_linked: bool,
    is_counted: bool,
    /// The driver that is polling the work right now.
    driver: Option<ModelDriver>,
    /// The work is being dropped right now.
    is_being_dropped: bool,
    waiters: BTreeSet<usize>,
    has_task: bool,
    /// The latest task was lost before it ran.
    cannot_run_tasks: bool,
    task_ran: bool,
    /// The index of the task's latest waker, if it has registered one.
    task_waker: Option<usize>,
    /// The task was spawned or woken, and will be polled.
    task_is_due: bool,
    /// The work was last polled with the waker of this driver, and wakes it.
    last_driver: Option<ModelDriver>,
}

#[derive(Debug)]
struct ModelWaiter {
    run: usize,
    id: RunWaiterId,
    /// The index of the waiter's latest waker.
    waker: Option<usize>,
    /// The waiter was woken or must be polled for another reason, and has not been polled since.
    is_due: bool,
    /// The waiter joined a cancelled run, and waits for it to end.
    is_late: bool,
}

type TestShard = FlightShard<u32, usize, usize>;

/// A shard and its naive model. Work and outcomes are the numbers of their runs.
struct Comparison {
    shard: TestShard,
    max_callers: usize,
    detached: bool,
    runs: BTreeMap<usize, ModelRun>,
    waiters: BTreeMap<usize, ModelWaiter>,
    wakers: Vec<Arc<Wakes>>,
    /// The number of wake-ups of each waker at the last check.
    seen: Vec<usize>,
    numbers: usize,

    started: u64,
    shared: u64,
    cancelled: u64,
}

fn hash(key: u32) -> Hash64 {
    // Keys 0 and 1 share a hash.
    Hash64(u64::from(key / 2))
}

impl Comparison {
    fn new(max_callers: usize, detached: bool) -> Self {
        Self {
            shard: FlightShard::new(),
            max_callers,
            detached,
            runs: BTreeMap::new(),
            waiters: BTreeMap::new(),
            wakers: Vec::new(),
            seen: Vec::new(),
            numbers: 0,
            started: 0,
            shared: 0,
            cancelled: 0,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Join { key, can_spawn } => self.join(key, can_spawn),
            Step::JoinFromWork { pick } => self.join_from_work(pick),
            Step::Poll { pick, fresh } => {
                if let Some(waiter) = pick_from(&self.idle_waiters(), pick) {
                    self.poll(waiter, fresh);
                }
            }
            Step::Leave { pick, can_spawn } => {
                if let Some(waiter) = pick_from(&self.idle_waiters(), pick) {
                    self.leave(waiter, can_spawn);
                }
            }
            Step::PutBack { pick, can_spawn } => {
                if let Some(run) = pick_from(&self.polling(), pick) {
                    self.put_back(run, can_spawn);
                }
            }
            Step::Complete { pick } => {
                if let Some(run) = pick_from(&self.polling(), pick) {
                    self.complete(run);
                }
            }
            Step::FinishCancel { pick } => {
                if let Some(run) = pick_from(&self.runs_where(|run| run.is_being_dropped), pick) {
                    self.finish_cancel(run);
                }
            }
            Step::PollTask { pick, fresh } => {
                if let Some(run) = pick_from(&self.idle_tasks(), pick) {
                    self.poll_task(run, fresh);
                }
            }
            Step::LoseTask { pick } => {
                if let Some(run) = pick_from(&self.idle_tasks(), pick) {
                    self.lose_task(run);
                }
            }
            Step::Forget { key } => self.forget(key),
        }
        self.compare();
    }

    fn runs_where(&self, is: impl Fn(&ModelRun) -> bool) -> Vec<usize> {
        self.runs.iter().filter(|(_, run)| is(run)).map(|(number, _)| *number).collect()
    }

    fn polling(&self) -> Vec<usize> {
        self.runs_where(|run| run.driver.is_some())
    }

    fn idle_tasks(&self) -> Vec<usize> {
        self.runs_where(|run| run.has_task && run.driver != Some(ModelDriver::Task))
    }

    /// Waiters that are not polling the work right now.
    fn idle_waiters(&self) -> Vec<usize> {
        let is_polling =
            |number: usize, waiter: &ModelWaiter| self.runs[&waiter.run].driver == Some(ModelDriver::Waiter(number));
        self.waiters
            .iter()
            .filter(|(number, waiter)| !is_polling(**number, waiter))
            .map(|(number, _)| *number)
            .collect()
    }

    fn linked(&self, key: u32) -> Option<usize> {
        let linked = self.runs_where(|run| run.is_linked && run.key == key);
        assert!(linked.len() <= 1, "a key has one run");
        linked.first().copied()
    }

    fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }

    fn fresh_waker(&mut self) -> (usize, Waker) {
        let wakes = Arc::new(Wakes::default());
        self.wakers.push(Arc::clone(&wakes));
        self.seen.push(0);
        (self.wakers.len() - 1, Waker::from(wakes))
    }

    fn waker(&self, index: usize) -> Waker {
        Waker::from(Arc::clone(&self.wakers[index]))
    }

    fn run(&mut self, number: usize) -> &mut ModelRun {
        self.runs.get_mut(&number).expect("the model has the run")
    }

    fn index(&self, number: usize) -> u32 {
        self.runs[&number].index
    }

    fn run_deferred(&mut self, run: usize, mut deferred: FlightDeferred<u32, usize, usize>, may_spawn: bool) {
        if deferred.spawn_task {
            assert!(may_spawn, "a task is spawned although that is impossible");
            let run = self.run(run);
            assert!(!run.has_task, "a run has one task");
            run.has_task = true;
            run.task_ran = false;
            run.cannot_run_tasks = false;
            run.task_is_due = true;
            run.task_waker = None;
        }
        for waker in std::mem::take(&mut deferred.wakers) {
            waker.wake();
        }
        if let Some(work) = deferred.cancelled_work.take() {
            assert_eq!(work, run, "the work belongs to this run");
            let run = self.run(run);
            assert_eq!(run.phase, RunPhase::Cancelling);
            assert!(run.driver.is_none() && !run.is_being_dropped);
            run.is_being_dropped = true;
        } else {
            let run = &self.runs.get(&run);
            if let Some(run) = run
                && run.phase == RunPhase::Cancelling
            {
                assert!(run.is_being_dropped || run.driver.is_some(), "the work of a cancelled run is lost");
            }
        }
        drop(deferred);
        self.note_wakes();
    }

    /// Marks the waiters and tasks that were woken as due.
    fn note_wakes(&mut self) {
        for (index, wakes) in self.wakers.iter().enumerate() {
            let now = wakes.0.load(Ordering::Relaxed);
            if now == self.seen[index] {
                continue;
            }
            self.seen[index] = now;
            for waiter in self.waiters.values_mut().filter(|waiter| waiter.waker == Some(index)) {
                waiter.is_due = true;
            }
            for run in self.runs.values_mut().filter(|run| run.task_waker == Some(index)) {
                run.task_is_due = true;
            }
        }
    }

    fn join(&mut self, key: u32, can_spawn: bool) {
        let current = self.linked(key);
        let mut key_slot = Some(key);
        let mut waker = None;
        let first = self.shard.join(hash(key), &mut key_slot, &mut waker, self.max_callers, |_| false, || can_spawn);
        let (index, waker_now) = self.fresh_waker();
        let outcome = if matches!(first, JoinOutcome::NeedsWaker) {
            waker = Some(waker_now);
            self.shard.join(hash(key), &mut key_slot, &mut waker, self.max_callers, |_| false, || can_spawn)
        } else {
            first
        };
        let number = self.number();
        let Some(run) = current else {
            let JoinOutcome::Started { index, id } = outcome else { panic!("the key is free: {outcome:?}") };
            assert_eq!(key_slot, None, "the run has the key");
            self.started += 1;
            let model = ModelRun {
                index,
                key,
                phase: RunPhase::Polling,
                is_linked: true,
                is_counted: true,
                driver: Some(ModelDriver::Waiter(number)),
                is_being_dropped: false,
                waiters: BTreeSet::from([number]),
                has_task: false,
                cannot_run_tasks: false,
                task_ran: false,
                task_waker: None,
                task_is_due: false,
                last_driver: None,
            };
            // A run has the number of its leader.
            self.runs.insert(number, model);
            self.waiters.insert(number, ModelWaiter { run: number, id, waker: None, is_due: false, is_late: false });
            return;
        };
        assert_eq!(key_slot, Some(key), "a follower keeps its key");
        if self.runs[&run].waiters.len() >= self.max_callers {
            assert!(matches!(outcome, JoinOutcome::Full), "{outcome:?}");
            return;
        }
        let JoinOutcome::Joined { index: at, id, spawn_task, needs_driver } = outcome else {
            panic!("the key has a run: {outcome:?}")
        };
        assert_eq!(at, self.index(run));
        let is_late = self.runs[&run].phase == RunPhase::Cancelling;
        let model = self.run(run);
        assert_eq!(spawn_task, can_spawn && !is_late && !model.has_task);
        model.waiters.insert(number);
        if spawn_task {
            model.has_task = true;
            model.task_ran = false;
            model.cannot_run_tasks = false;
            model.task_is_due = true;
            model.task_waker = None;
        }
        self.shared += u64::from(!is_late);
        let model = &self.runs[&run];
        let has_driver = model.has_task || model.last_driver.is_some();
        assert_eq!(
            needs_driver,
            model.phase == RunPhase::Idle && !has_driver,
            "a caller that joins drives a run that needs a driver"
        );
        self.waiters.insert(number, ModelWaiter { run, id, waker: Some(index), is_due: needs_driver, is_late });
        if needs_driver {
            self.poll(number, false);
        }
    }

    fn join_from_work(&mut self, pick: usize) {
        let inside = self.runs_where(|run| run.is_linked && (run.driver.is_some() || run.is_being_dropped));
        let Some(run) = pick_from(&inside, pick) else { return };
        let (key, index) = (self.runs[&run].key, self.index(run));
        let mut key_slot = Some(key);
        let outcome =
            self.shard.join(hash(key), &mut key_slot, &mut None, self.max_callers, |inside| inside == index, || true);
        assert!(matches!(outcome, JoinOutcome::WouldDeadlock), "{outcome:?}");
        assert_eq!(key_slot, Some(key));
    }

    /// Returns the registered waker if there is one and `fresh` is `false`, or else a fresh one.
    fn choose_waker(&mut self, registered: Option<usize>, fresh: bool) -> (usize, Waker) {
        match registered {
            Some(index) if !fresh => (index, self.waker(index)),
            _ => self.fresh_waker(),
        }
    }

    fn poll(&mut self, number: usize, fresh: bool) {
        let ModelWaiter { run, id, waker, is_late, .. } = self.waiters[&number];
        let (index, waker_now) = self.choose_waker(waker, fresh);
        let at = self.index(run);
        let mut spare = None;
        let mut poll = self.shard.poll(at, id, &waker_now, &mut spare);
        if matches!(poll, RunPoll::NeedsWaker) {
            spare = Some(waker_now.clone());
            poll = self.shard.poll(at, id, &waker_now, &mut spare);
            assert!(!is_same(spare.as_ref(), &waker_now), "the shard requested a clone and did not store it");
        }
        let phase = self.runs[&run].phase;
        match poll {
            RunPoll::Pending => {
                assert!(matches!(phase, RunPhase::Polling | RunPhase::Idle | RunPhase::Cancelling), "{phase:?}");
                if phase == RunPhase::Idle {
                    let model = &self.runs[&run];
                    let other = model.last_driver.is_some_and(|driver| driver != ModelDriver::Waiter(number));
                    assert!(other || model.has_task, "nothing else would drive the work");
                }
                let waiter = self.waiters.get_mut(&number).expect("the caller is a waiter");
                waiter.waker = Some(index);
                waiter.is_due = false;
            }
            RunPoll::Drive(work) => {
                assert_eq!(work, run);
                assert_eq!(phase, RunPhase::Idle);
                let model = self.run(run);
                assert!(
                    model.last_driver.is_none_or(|driver| driver == ModelDriver::Waiter(number)),
                    "another driver is responsible for the work"
                );
                assert!(!model.has_task, "the task drives");
                model.phase = RunPhase::Polling;
                model.driver = Some(ModelDriver::Waiter(number));
                self.waiters.get_mut(&number).expect("the caller is a waiter").is_due = false;
            }
            RunPoll::Completed(outcome) => {
                assert_eq!((phase, outcome, is_late), (RunPhase::Completed, run, false));
                self.remove_waiter(number);
            }
            RunPoll::Rejoin => {
                assert_eq!((phase, is_late), (RunPhase::Ended, true));
                self.remove_waiter(number);
            }
            RunPoll::NeedsWaker => panic!("the shard has a clone"),
        }
    }

    fn remove_waiter(&mut self, number: usize) {
        let waiter = self.waiters.remove(&number).expect("the caller was a waiter");
        self.run(waiter.run).waiters.remove(&number);
        self.forget_if_over(waiter.run);
    }

    fn forget_if_over(&mut self, run: usize) {
        let model = &self.runs[&run];
        if matches!(model.phase, RunPhase::Ended | RunPhase::Completed) && model.waiters.is_empty() && !model.has_task {
            self.runs.remove(&run);
        }
    }

    fn cancel(&mut self, run: usize) {
        let model = self.run(run);
        model.phase = RunPhase::Cancelling;
        model.is_counted = false;
        if model.has_task {
            model.task_is_due = true;
        }
    }

    fn leave(&mut self, number: usize, can_spawn: bool) {
        let ModelWaiter { run, id, .. } = self.waiters[&number];
        let mut deferred = self.shard.leave(self.index(run), id, self.detached, || can_spawn);
        let phase = self.runs[&run].phase;
        let outcome = deferred.outcome.take();
        assert_eq!(outcome, (phase == RunPhase::Completed).then_some(run));
        if matches!(phase, RunPhase::Cancelling | RunPhase::Ended | RunPhase::Completed) {
            assert!(deferred.wakers.is_empty() && deferred.cancelled_work.is_none() && !deferred.spawn_task);
            self.remove_waiter(number);
            drop(deferred);
            return;
        }
        self.waiters.remove(&number);
        let detached = self.detached;
        let model = self.run(run);
        model.waiters.remove(&number);
        if model.last_driver == Some(ModelDriver::Waiter(number)) {
            model.last_driver = None;
        }
        let continues = !model.waiters.is_empty() || detached && (model.has_task || can_spawn);
        assert_eq!(deferred.spawn_task, continues && model.waiters.is_empty() && !model.has_task);
        if !continues {
            self.cancel(run);
        }
        self.run_deferred(run, deferred, can_spawn);
    }

    fn put_back(&mut self, run: usize, can_spawn: bool) {
        let driver = self.run(run).driver.take().expect("the work is being polled");
        let (index, waker_now) = self.fresh_waker();
        let at = self.index(run);
        match driver {
            ModelDriver::Waiter(number) => {
                let id = self.waiters[&number].id;
                let deferred = self.shard.put_back(at, id, run, waker_now, || can_spawn);
                assert!(deferred.cancelled_work.is_none());
                let model = self.run(run);
                model.phase = RunPhase::Idle;
                model.last_driver = Some(driver);
                let may_spawn = can_spawn && !model.cannot_run_tasks;
                assert_eq!(deferred.spawn_task, may_spawn && model.waiters.len() > 1 && !model.has_task);
                self.waiters.get_mut(&number).expect("the caller is a waiter").waker = Some(index);
                self.run_deferred(run, deferred, can_spawn);
            }
            ModelDriver::Task => {
                let deferred = self.shard.put_back_by_task(at, run, waker_now);
                assert!(!deferred.spawn_task && deferred.wakers.is_empty());
                let model = self.run(run);
                if model.phase == RunPhase::Cancelling {
                    assert!(deferred.cancelled_work.is_some());
                    model.has_task = false;
                } else {
                    model.phase = RunPhase::Idle;
                    model.last_driver = Some(driver);
                    model.task_waker = Some(index);
                }
                self.run_deferred(run, deferred, false);
            }
        }
    }

    fn complete(&mut self, run: usize) {
        let polled_by = self.run(run).driver.take().expect("the work is being polled");
        let driver = match polled_by {
            ModelDriver::Waiter(number) => Driver::Waiter(self.waiters[&number].id),
            ModelDriver::Task => Driver::Task,
        };
        let (completion, deferred) = self.shard.complete(self.index(run), driver, run, |result| result);
        assert!(!deferred.spawn_task && deferred.cancelled_work.is_none());
        match polled_by {
            ModelDriver::Waiter(number) => {
                self.waiters.remove(&number);
                self.run(run).waiters.remove(&number);
            }
            ModelDriver::Task => self.run(run).has_task = false,
        }
        let was_cancelled = self.runs[&run].phase == RunPhase::Cancelling;
        self.cancelled += u64::from(was_cancelled);
        let is_wanted = !was_cancelled && !self.runs[&run].waiters.is_empty();
        match completion {
            Completion::Unshared(outcome) => assert!(outcome == run && !is_wanted),
            Completion::Shared(outcome) => assert!(outcome == run && is_wanted),
        }
        let model = self.run(run);
        model.phase = if is_wanted { RunPhase::Completed } else { RunPhase::Ended };
        model.is_linked = false;
        model.is_counted = false;
        self.run_deferred(run, deferred, false);
        self.forget_if_over(run);
    }

    fn finish_cancel(&mut self, run: usize) {
        let deferred = self.shard.finish_cancel(self.index(run));
        assert!(!deferred.spawn_task && deferred.cancelled_work.is_none() && deferred.outcome.is_none());
        self.cancelled += 1;
        let model = self.run(run);
        model.is_being_dropped = false;
        model.is_linked = false;
        model.phase = RunPhase::Ended;
        self.run_deferred(run, deferred, false);
        self.forget_if_over(run);
    }

    fn poll_task(&mut self, run: usize, fresh: bool) {
        let (index, waker_now) = self.choose_waker(self.runs[&run].task_waker, fresh);
        let at = self.index(run);
        self.run(run).task_ran = true;
        let mut spare = None;
        let mut poll = self.shard.poll_by_task(at, &waker_now, &mut spare);
        if matches!(poll, DriverTaskPoll::NeedsWaker) {
            spare = Some(waker_now.clone());
            poll = self.shard.poll_by_task(at, &waker_now, &mut spare);
            assert!(!is_same(spare.as_ref(), &waker_now), "the shard requested a clone and did not store it");
        }
        let model = self.run(run);
        match poll {
            DriverTaskPoll::Drive(work) => {
                assert_eq!((work, model.phase), (run, RunPhase::Idle));
                model.phase = RunPhase::Polling;
                model.driver = Some(ModelDriver::Task);
                model.task_is_due = false;
            }
            DriverTaskPoll::Pending => {
                assert_eq!(model.phase, RunPhase::Polling);
                model.task_waker = Some(index);
                model.task_is_due = false;
            }
            DriverTaskPoll::Finished => {
                assert!(matches!(model.phase, RunPhase::Cancelling | RunPhase::Ended | RunPhase::Completed));
                model.has_task = false;
                self.forget_if_over(run);
            }
            DriverTaskPoll::NeedsWaker => panic!("the shard has a clone"),
        }
    }

    fn lose_task(&mut self, run: usize) {
        let deferred = self.shard.lose_task(self.index(run));
        assert!(!deferred.spawn_task);
        let model = self.run(run);
        model.has_task = false;
        model.task_is_due = false;
        model.cannot_run_tasks = !model.task_ran;
        if matches!(model.phase, RunPhase::Polling | RunPhase::Idle) {
            model.last_driver = None;
            if model.waiters.is_empty() {
                self.cancel(run);
            }
        }
        self.run_deferred(run, deferred, false);
        self.forget_if_over(run);
    }

    fn forget(&mut self, key: u32) {
        let current = self.linked(key).filter(|run| self.runs[run].phase != RunPhase::Cancelling);
        assert_eq!(self.shard.forget(hash(key), &key), current.is_some());
        if let Some(run) = current {
            let model = self.run(run);
            model.is_linked = false;
            model.is_counted = false;
        }
    }

    fn compare(&mut self) {
        let counters = &self.shard.counters;
        assert_eq!(counters.waiting.value(), self.waiters.len() as u64);
        assert_eq!(counters.running.value(), self.runs.values().filter(|run| run.is_counted).count() as u64);
        assert_eq!((counters.runs.value(), counters.shared.value()), (self.started, self.shared));
        assert_eq!(counters.cancelled.value(), self.cancelled);
        let mut table = lock(&self.shard.runs);
        let entries: BTreeSet<_> = table.indices().into_iter().collect();
        assert_eq!(
            entries,
            self.runs.values().map(|run| run.index).collect(),
            "an entry exists exactly while it is needed"
        );
        for (number, run) in &self.runs {
            let phase = match &table.value(run.index).state {
                RunEntryState::Polling => RunPhase::Polling,
                RunEntryState::Idle(work) => {
                    assert_eq!(work, number);
                    RunPhase::Idle
                }
                RunEntryState::Cancelling => RunPhase::Cancelling,
                RunEntryState::Ended => RunPhase::Ended,
                RunEntryState::Completed(outcome) => {
                    assert_eq!(outcome, number);
                    RunPhase::Completed
                }
            };
            assert_eq!(phase, run.phase, "run {number}");
        }
        drop(table);
        self.assert_no_wakeup_is_lost();
    }

    /// Asserts that every waiter and task that has something to do will be polled.
    fn assert_no_wakeup_is_lost(&self) {
        for (number, run) in &self.runs {
            match run.phase {
                RunPhase::Polling => {}
                RunPhase::Idle => {
                    // The work wakes its last driver. Without one, a waiter that may drive must be due.
                    let task_is_due = run.has_task && run.task_is_due;
                    let last_driver_stays = match run.last_driver {
                        Some(ModelDriver::Task) => run.has_task,
                        // A task takes over from a waiter.
                        Some(ModelDriver::Waiter(waiter)) => run.waiters.contains(&waiter) && !run.has_task,
                        None => run.waiters.iter().any(|waiter| self.waiters[waiter].is_due),
                    };
                    assert!(task_is_due || last_driver_stays, "nothing will drive run {number}: {run:?}");
                }
                RunPhase::Cancelling => {
                    assert!(run.is_being_dropped || run.driver == Some(ModelDriver::Task), "run {number}")
                }
                RunPhase::Ended | RunPhase::Completed => {
                    let all_are_due = run.waiters.iter().all(|waiter| self.waiters[waiter].is_due);
                    assert!(all_are_due, "a waiter of run {number} is not woken at its end");
                    assert!(!run.has_task || run.task_is_due, "the task of run {number} is not woken at its end");
                }
            }
        }
    }

    /// Runs steps until every run is over, in an order that `choice` determines.
    fn drain(&mut self, mut choice: usize) {
        let mut steps = 0;
        while !self.runs.is_empty() {
            choice = choice.rotate_right(3) ^ steps;
            let (pick, can_spawn, fresh) = (choice, false, choice.is_multiple_of(2));
            let step = match choice % 7 {
                0 => Step::Poll { pick, fresh },
                1 => Step::PutBack { pick, can_spawn },
                2 => Step::Complete { pick },
                3 => Step::FinishCancel { pick },
                4 => Step::PollTask { pick, fresh },
                5 => Step::LoseTask { pick },
                _ => Step::Leave { pick, can_spawn },
            };
            self.apply(&step);
            steps += 1;
            assert!(steps < 100_000, "a run does not end: {:?}", self.runs);
        }
        assert!(self.waiters.is_empty());
        for wakes in &self.wakers {
            assert_eq!(Arc::strong_count(wakes), 1, "the shard keeps a waker of a waiter that has left");
        }
    }
}

fn is_same(spare: Option<&Waker>, waker: &Waker) -> bool {
    spare.is_some_and(|spare| spare.will_wake(waker))
}

fn pick_from(all: &[usize], pick: usize) -> Option<usize> {
    all.get(pick.checked_rem(all.len())?).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shard_agrees_with_a_naive_model(
        max_callers in 1..=4_usize,
        detached in any::<bool>(),
        program in prop::collection::vec(step(), 0..100),
        choice in any::<usize>(),
    ) {
        let mut comparison = Comparison::new(max_callers, detached);
        for step in &program {
            comparison.apply(step);
        }
        comparison.drain(choice);
    }
}
