//! The board beside a naive model, over random programs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::{Board, Boarding, Found, Hash64, Landing, Pilot, Rest, Seat, State, lock};
use crate::guard::flight::found::TaskFound;

/// One step of a program. The indices choose among the callers, pilots and tasks there are.
#[derive(Clone, Debug)]
enum Step {
    /// A caller of a key comes, where a task can be spawned or not.
    Come {
        key: u32,
        can_spawn: bool,
    },
    /// The work of a run asks for its own key.
    ComeInside {
        who: usize,
    },
    /// Polled with the waker of last time, or with a fresh one.
    Poll {
        who: usize,
        fresh: bool,
    },
    Leave {
        who: usize,
        can_spawn: bool,
    },
    /// Who polls the work has done so: it goes on.
    PutBack {
        who: usize,
        can_spawn: bool,
    },
    Land {
        who: usize,
    },
    /// The work of a cancelled run has been dropped.
    End {
        who: usize,
    },
    PollTask {
        who: usize,
        fresh: bool,
    },
    LoseTask {
        who: usize,
    },
    Forget {
        key: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = any::<usize>;
    prop_oneof![
        8 => (0..3_u32, any::<bool>()).prop_map(|(key, can_spawn)| Step::Come { key, can_spawn }),
        1 => who().prop_map(|who| Step::ComeInside { who }),
        8 => (who(), any::<bool>()).prop_map(|(who, fresh)| Step::Poll { who, fresh }),
        5 => (who(), any::<bool>()).prop_map(|(who, can_spawn)| Step::Leave { who, can_spawn }),
        8 => (who(), any::<bool>()).prop_map(|(who, can_spawn)| Step::PutBack { who, can_spawn }),
        3 => who().prop_map(|who| Step::Land { who }),
        3 => who().prop_map(|who| Step::End { who }),
        6 => (who(), any::<bool>()).prop_map(|(who, fresh)| Step::PollTask { who, fresh }),
        2 => who().prop_map(|who| Step::LoseTask { who }),
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

/// What the model says of the work of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Polled,
    Resting,
    /// Cancelled. Who polls it right now is told so then; otherwise somebody is dropping it.
    Ending,
    Ended,
    Landed,
}

/// Who polls a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Caller(usize),
    Task,
}

#[derive(Debug)]
struct Model {
    index: u32,
    key: u32,
    phase: Phase,
    is_linked: bool,
    is_counted: bool,
    pilot: Option<Who>,
    /// Someone drops the work.
    is_dropped_now: bool,
    callers: BTreeSet<usize>,
    has_task: bool,
    /// The last task was lost before it ran.
    is_without_tasks: bool,
    task_ran: bool,
    /// Index of the task's latest waker, if it waits with one.
    task_waker: Option<usize>,
    /// The task is spawned, or was woken: it will be polled.
    task_comes: bool,
    /// Who has the work's own wake-ups: it was polled last with the waker of this one.
    minder: Option<Who>,
}

#[derive(Debug)]
struct Caller {
    run: usize,
    seat: Seat,
    /// Index of its latest waker.
    waker: Option<usize>,
    /// It was woken, or has not been polled since it had to be.
    comes: bool,
    /// It waits for a cancelled run to end.
    is_late: bool,
}

type TestBoard = Board<u32, usize, usize>;

/// A board and what a naive model says of it. Works and outcomes are the numbers of their runs.
struct Pair {
    board: TestBoard,
    most: usize,
    detached: bool,
    runs: BTreeMap<usize, Model>,
    callers: BTreeMap<usize, Caller>,
    wakers: Vec<Arc<Wakes>>,
    /// How often each was woken when last looked at.
    seen: Vec<usize>,
    numbers: usize,

    begun: u64,
    shared: u64,
    cancelled: u64,
}

fn hash(key: u32) -> Hash64 {
    // Two of the keys have the same.
    Hash64(u64::from(key / 2))
}

impl Pair {
    fn new(most: usize, detached: bool) -> Self {
        Self {
            board: Board::new(),
            most,
            detached,
            runs: BTreeMap::new(),
            callers: BTreeMap::new(),
            wakers: Vec::new(),
            seen: Vec::new(),
            numbers: 0,
            begun: 0,
            shared: 0,
            cancelled: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Come { key, can_spawn } => self.come(key, can_spawn),
            Step::ComeInside { who } => self.come_inside(who),
            Step::Poll { who, fresh } => {
                if let Some(caller) = nth(&self.idle_callers(), who) {
                    self.poll(caller, fresh);
                }
            }
            Step::Leave { who, can_spawn } => {
                if let Some(caller) = nth(&self.idle_callers(), who) {
                    self.leave(caller, can_spawn);
                }
            }
            Step::PutBack { who, can_spawn } => {
                if let Some(run) = nth(&self.piloted(), who) {
                    self.put_back(run, can_spawn);
                }
            }
            Step::Land { who } => {
                if let Some(run) = nth(&self.piloted(), who) {
                    self.land(run);
                }
            }
            Step::End { who } => {
                if let Some(run) = nth(&self.runs_where(|run| run.is_dropped_now), who) {
                    self.end(run);
                }
            }
            Step::PollTask { who, fresh } => {
                if let Some(run) = nth(&self.idle_tasks(), who) {
                    self.poll_task(run, fresh);
                }
            }
            Step::LoseTask { who } => {
                if let Some(run) = nth(&self.idle_tasks(), who) {
                    self.lose_task(run);
                }
            }
            Step::Forget { key } => self.forget(key),
        }
        self.compare();
    }

    fn runs_where(&self, is: impl Fn(&Model) -> bool) -> Vec<usize> {
        self.runs.iter().filter(|(_, run)| is(run)).map(|(number, _)| *number).collect()
    }

    fn piloted(&self) -> Vec<usize> {
        self.runs_where(|run| run.pilot.is_some())
    }

    fn idle_tasks(&self) -> Vec<usize> {
        self.runs_where(|run| run.has_task && run.pilot != Some(Who::Task))
    }

    /// Callers that don't poll the work right now.
    fn idle_callers(&self) -> Vec<usize> {
        let is_pilot = |number: usize, caller: &Caller| self.runs[&caller.run].pilot == Some(Who::Caller(number));
        self.callers.iter().filter(|(number, caller)| !is_pilot(**number, caller)).map(|(number, _)| *number).collect()
    }

    fn linked(&self, key: u32) -> Option<usize> {
        let found = self.runs_where(|run| run.is_linked && run.key == key);
        assert!(found.len() <= 1, "a key has one run");
        found.first().copied()
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

    fn run(&mut self, number: usize) -> &mut Model {
        self.runs.get_mut(&number).expect("the model has the run")
    }

    fn index(&self, number: usize) -> u32 {
        self.runs[&number].index
    }

    fn settle(&mut self, run: usize, mut rest: Rest<u32, usize, usize>, may_spawn: bool) {
        if rest.spawn_task {
            assert!(may_spawn, "a task is spawned where none can be");
            let run = self.run(run);
            assert!(!run.has_task, "a run has one task");
            run.has_task = true;
            run.task_ran = false;
            run.is_without_tasks = false;
            run.task_comes = true;
            run.task_waker = None;
        }
        for waker in std::mem::take(&mut rest.wakers) {
            waker.wake();
        }
        if let Some(work) = rest.cancelled.take() {
            assert_eq!(work, run, "it is this run's work");
            let run = self.run(run);
            assert_eq!(run.phase, Phase::Ending);
            assert!(run.pilot.is_none() && !run.is_dropped_now);
            run.is_dropped_now = true;
        } else {
            let run = &self.runs.get(&run);
            if let Some(run) = run
                && run.phase == Phase::Ending
            {
                assert!(run.is_dropped_now || run.pilot.is_some(), "nobody has the work of a cancelled run");
            }
        }
        drop(rest);
        self.note_wakes();
    }

    /// Who was woken will come.
    fn note_wakes(&mut self) {
        for (index, wakes) in self.wakers.iter().enumerate() {
            let now = wakes.0.load(Ordering::Relaxed);
            if now == self.seen[index] {
                continue;
            }
            self.seen[index] = now;
            for caller in self.callers.values_mut().filter(|caller| caller.waker == Some(index)) {
                caller.comes = true;
            }
            for run in self.runs.values_mut().filter(|run| run.task_waker == Some(index)) {
                run.task_comes = true;
            }
        }
    }

    fn come(&mut self, key: u32, can_spawn: bool) {
        let there = self.linked(key);
        let mut brought = Some(key);
        let mut waker = None;
        let first = self.board.come_aboard(hash(key), &mut brought, &mut waker, self.most, |_| false, || can_spawn);
        let (index, given) = self.fresh_waker();
        let boarding = if matches!(first, Boarding::WantsWaker) {
            waker = Some(given);
            self.board.come_aboard(hash(key), &mut brought, &mut waker, self.most, |_| false, || can_spawn)
        } else {
            first
        };
        let number = self.number();
        let Some(run) = there else {
            let Boarding::Started { index, seat } = boarding else { panic!("the key is free: {boarding:?}") };
            assert_eq!(brought, None, "the run has the key");
            self.begun += 1;
            let model = Model {
                index,
                key,
                phase: Phase::Polled,
                is_linked: true,
                is_counted: true,
                pilot: Some(Who::Caller(number)),
                is_dropped_now: false,
                callers: BTreeSet::from([number]),
                has_task: false,
                is_without_tasks: false,
                task_ran: false,
                task_waker: None,
                task_comes: false,
                minder: None,
            };
            // Runs are numbered by their first caller.
            self.runs.insert(number, model);
            self.callers.insert(number, Caller { run: number, seat, waker: None, comes: false, is_late: false });
            return;
        };
        assert_eq!(brought, Some(key), "who joins keeps the key");
        if self.runs[&run].callers.len() >= self.most {
            assert!(matches!(boarding, Boarding::Full), "{boarding:?}");
            return;
        }
        let Boarding::Joined { index: at, seat, spawn_task, is_adrift } = boarding else {
            panic!("a run goes on: {boarding:?}")
        };
        assert_eq!(at, self.index(run));
        let is_late = self.runs[&run].phase == Phase::Ending;
        let model = self.run(run);
        assert_eq!(spawn_task, can_spawn && !is_late && !model.has_task);
        model.callers.insert(number);
        if spawn_task {
            model.has_task = true;
            model.task_ran = false;
            model.is_without_tasks = false;
            model.task_comes = true;
            model.task_waker = None;
        }
        self.shared += u64::from(!is_late);
        let model = &self.runs[&run];
        let has_driver = model.has_task || model.minder.is_some();
        assert_eq!(is_adrift, model.phase == Phase::Resting && !has_driver, "who comes drives what nobody drives");
        self.callers.insert(number, Caller { run, seat, waker: Some(index), comes: is_adrift, is_late });
        if is_adrift {
            self.poll(number, false);
        }
    }

    fn come_inside(&mut self, who: usize) {
        let inside = self.runs_where(|run| run.is_linked && (run.pilot.is_some() || run.is_dropped_now));
        let Some(run) = nth(&inside, who) else { return };
        let (key, index) = (self.runs[&run].key, self.index(run));
        let mut brought = Some(key);
        let boarding =
            self.board.come_aboard(hash(key), &mut brought, &mut None, self.most, |inside| inside == index, || true);
        assert!(matches!(boarding, Boarding::WouldDeadlock), "{boarding:?}");
        assert_eq!(brought, Some(key));
    }

    /// The waker of last time if there is one, and a fresh one otherwise.
    fn choose_waker(&mut self, known: Option<usize>, fresh: bool) -> (usize, Waker) {
        match known {
            Some(index) if !fresh => (index, self.waker(index)),
            _ => self.fresh_waker(),
        }
    }

    fn poll(&mut self, number: usize, fresh: bool) {
        let Caller { run, seat, waker, is_late, .. } = self.callers[&number];
        let (index, given) = self.choose_waker(waker, fresh);
        let at = self.index(run);
        let mut spare = None;
        let mut found = self.board.find(at, seat, &given, &mut spare);
        if matches!(found, Found::WantsWaker) {
            spare = Some(given.clone());
            found = self.board.find(at, seat, &given, &mut spare);
            assert!(spare.is_none(), "it asked for a waker and took none");
        }
        let phase = self.runs[&run].phase;
        match found {
            Found::Pending => {
                assert!(matches!(phase, Phase::Polled | Phase::Resting | Phase::Ending), "{phase:?}");
                if phase == Phase::Resting {
                    let model = &self.runs[&run];
                    let other = model.minder.is_some_and(|minder| minder != Who::Caller(number));
                    assert!(other || model.has_task, "nobody else would drive the work");
                }
                let caller = self.callers.get_mut(&number).expect("it is aboard");
                caller.waker = Some(index);
                caller.comes = false;
            }
            Found::Drive(work) => {
                assert_eq!(work, run);
                assert_eq!(phase, Phase::Resting);
                let model = self.run(run);
                assert!(model.minder.is_none_or(|minder| minder == Who::Caller(number)), "it is another one's work");
                assert!(!model.has_task, "the task drives");
                model.phase = Phase::Polled;
                model.pilot = Some(Who::Caller(number));
                self.callers.get_mut(&number).expect("it is aboard").comes = false;
            }
            Found::Landed(outcome) => {
                assert_eq!((phase, outcome, is_late), (Phase::Landed, run, false));
                self.disembark(number);
            }
            Found::Again => {
                assert_eq!((phase, is_late), (Phase::Ended, true));
                self.disembark(number);
            }
            Found::WantsWaker => panic!("it has one"),
        }
    }

    fn disembark(&mut self, number: usize) {
        let caller = self.callers.remove(&number).expect("it was aboard");
        self.run(caller.run).callers.remove(&number);
        self.forget_if_over(caller.run);
    }

    fn forget_if_over(&mut self, run: usize) {
        let model = &self.runs[&run];
        if matches!(model.phase, Phase::Ended | Phase::Landed) && model.callers.is_empty() && !model.has_task {
            self.runs.remove(&run);
        }
    }

    fn cancel(&mut self, run: usize) {
        let model = self.run(run);
        model.phase = Phase::Ending;
        model.is_counted = false;
        if model.has_task {
            model.task_comes = true;
        }
    }

    fn leave(&mut self, number: usize, can_spawn: bool) {
        let Caller { run, seat, .. } = self.callers[&number];
        let mut rest = self.board.leave(self.index(run), seat, self.detached, || can_spawn);
        let phase = self.runs[&run].phase;
        let landed = rest.landed.take();
        assert_eq!(landed, (phase == Phase::Landed).then_some(run));
        if matches!(phase, Phase::Ending | Phase::Ended | Phase::Landed) {
            assert!(rest.wakers.is_empty() && rest.cancelled.is_none() && !rest.spawn_task);
            self.disembark(number);
            drop(rest);
            return;
        }
        self.callers.remove(&number);
        let detached = self.detached;
        let model = self.run(run);
        model.callers.remove(&number);
        if model.minder == Some(Who::Caller(number)) {
            model.minder = None;
        }
        let goes_on = !model.callers.is_empty() || detached && (model.has_task || can_spawn);
        assert_eq!(rest.spawn_task, goes_on && model.callers.is_empty() && !model.has_task);
        if !goes_on {
            self.cancel(run);
        }
        self.settle(run, rest, can_spawn);
    }

    fn put_back(&mut self, run: usize, can_spawn: bool) {
        let pilot = self.run(run).pilot.take().expect("someone polls it");
        let (index, given) = self.fresh_waker();
        let at = self.index(run);
        match pilot {
            Who::Caller(number) => {
                let seat = self.callers[&number].seat;
                let rest = self.board.put_back(at, seat, run, given, || can_spawn);
                assert!(rest.cancelled.is_none());
                let model = self.run(run);
                model.phase = Phase::Resting;
                model.minder = Some(pilot);
                let may_spawn = can_spawn && !model.is_without_tasks;
                assert_eq!(rest.spawn_task, may_spawn && model.callers.len() > 1 && !model.has_task);
                self.callers.get_mut(&number).expect("it has a share").waker = Some(index);
                self.settle(run, rest, can_spawn);
            }
            Who::Task => {
                let rest = self.board.put_back_by_task(at, run, given);
                assert!(!rest.spawn_task && rest.wakers.is_empty());
                let model = self.run(run);
                if model.phase == Phase::Ending {
                    assert!(rest.cancelled.is_some());
                    model.has_task = false;
                } else {
                    model.phase = Phase::Resting;
                    model.minder = Some(pilot);
                    model.task_waker = Some(index);
                }
                self.settle(run, rest, false);
            }
        }
    }

    fn land(&mut self, run: usize) {
        let who = self.run(run).pilot.take().expect("someone polls it");
        let pilot = match who {
            Who::Caller(number) => Pilot::Caller(self.callers[&number].seat),
            Who::Task => Pilot::Task,
        };
        let (landing, rest) = self.board.land(self.index(run), pilot, run, |result| result);
        assert!(!rest.spawn_task && rest.cancelled.is_none());
        match who {
            Who::Caller(number) => {
                self.callers.remove(&number);
                self.run(run).callers.remove(&number);
            }
            Who::Task => self.run(run).has_task = false,
        }
        let was_cancelled = self.runs[&run].phase == Phase::Ending;
        self.cancelled += u64::from(was_cancelled);
        let is_wanted = !was_cancelled && !self.runs[&run].callers.is_empty();
        match landing {
            Landing::Own(outcome) => assert!(outcome == run && !is_wanted),
            Landing::Shared(outcome) => assert!(outcome == run && is_wanted),
        }
        let model = self.run(run);
        model.phase = if is_wanted { Phase::Landed } else { Phase::Ended };
        model.is_linked = false;
        model.is_counted = false;
        self.settle(run, rest, false);
        self.forget_if_over(run);
    }

    fn end(&mut self, run: usize) {
        let rest = self.board.end(self.index(run));
        assert!(!rest.spawn_task && rest.cancelled.is_none() && rest.landed.is_none());
        self.cancelled += 1;
        let model = self.run(run);
        model.is_dropped_now = false;
        model.is_linked = false;
        model.phase = Phase::Ended;
        self.settle(run, rest, false);
        self.forget_if_over(run);
    }

    fn poll_task(&mut self, run: usize, fresh: bool) {
        let (index, given) = self.choose_waker(self.runs[&run].task_waker, fresh);
        let at = self.index(run);
        self.run(run).task_ran = true;
        let mut spare = None;
        let mut found = self.board.find_by_task(at, &given, &mut spare);
        if matches!(found, TaskFound::WantsWaker) {
            spare = Some(given.clone());
            found = self.board.find_by_task(at, &given, &mut spare);
            assert!(spare.is_none(), "it asked for a waker and took none");
        }
        let model = self.run(run);
        match found {
            TaskFound::Drive(work) => {
                assert_eq!((work, model.phase), (run, Phase::Resting));
                model.phase = Phase::Polled;
                model.pilot = Some(Who::Task);
                model.task_comes = false;
            }
            TaskFound::Pending => {
                assert_eq!(model.phase, Phase::Polled);
                model.task_waker = Some(index);
                model.task_comes = false;
            }
            TaskFound::Over => {
                assert!(matches!(model.phase, Phase::Ending | Phase::Ended | Phase::Landed));
                model.has_task = false;
                self.forget_if_over(run);
            }
            TaskFound::WantsWaker => panic!("it has one"),
        }
    }

    fn lose_task(&mut self, run: usize) {
        let rest = self.board.lose_task(self.index(run));
        assert!(!rest.spawn_task);
        let model = self.run(run);
        model.has_task = false;
        model.task_comes = false;
        model.is_without_tasks = !model.task_ran;
        if matches!(model.phase, Phase::Polled | Phase::Resting) {
            model.minder = None;
            if model.callers.is_empty() {
                self.cancel(run);
            }
        }
        self.settle(run, rest, false);
        self.forget_if_over(run);
    }

    fn forget(&mut self, key: u32) {
        let there = self.linked(key).filter(|run| self.runs[run].phase != Phase::Ending);
        assert_eq!(self.board.forget(hash(key), &key), there.is_some());
        if let Some(run) = there {
            let model = self.run(run);
            model.is_linked = false;
            model.is_counted = false;
        }
    }

    fn compare(&mut self) {
        let tally = &self.board.tally;
        assert_eq!(tally.callers.value(), self.callers.len() as u64);
        assert_eq!(tally.running.value(), self.runs.values().filter(|run| run.is_counted).count() as u64);
        assert_eq!((tally.runs.value(), tally.shared.value()), (self.begun, self.shared));
        assert_eq!(tally.cancelled.value(), self.cancelled);
        let mut table = lock(&self.board.runs);
        let entries: BTreeSet<_> = table.indices().into_iter().collect();
        assert_eq!(
            entries,
            self.runs.values().map(|run| run.index).collect(),
            "entries are there while they are needed"
        );
        for (number, run) in &self.runs {
            let phase = match &table.value(run.index).state {
                State::Out => Phase::Polled,
                State::Here(work) => {
                    assert_eq!(work, number);
                    Phase::Resting
                }
                State::Ending => Phase::Ending,
                State::Ended => Phase::Ended,
                State::Landed(outcome) => {
                    assert_eq!(outcome, number);
                    Phase::Landed
                }
            };
            assert_eq!(phase, run.phase, "run {number}");
        }
        drop(table);
        self.assert_nobody_is_forgotten();
    }

    /// Whoever has something to do will be polled.
    fn assert_nobody_is_forgotten(&self) {
        for (number, run) in &self.runs {
            match run.phase {
                Phase::Polled => {}
                Phase::Resting => {
                    // The work wakes its minder. Without one, somebody who may drive it must come.
                    let task_comes = run.has_task && run.task_comes;
                    let minder_stays = match run.minder {
                        Some(Who::Task) => run.has_task,
                        // A task that is there is the one to drive: it takes over from a caller.
                        Some(Who::Caller(caller)) => run.callers.contains(&caller) && !run.has_task,
                        None => run.callers.iter().any(|caller| self.callers[caller].comes),
                    };
                    assert!(task_comes || minder_stays, "nobody comes to drive run {number}: {run:?}");
                }
                Phase::Ending => assert!(run.is_dropped_now || run.pilot == Some(Who::Task), "run {number}"),
                Phase::Ended | Phase::Landed => {
                    let all_come = run.callers.iter().all(|caller| self.callers[caller].comes);
                    assert!(all_come, "a caller of run {number} is not told of its end");
                    assert!(!run.has_task || run.task_comes, "the task of run {number} is not told of its end");
                }
            }
        }
    }

    /// Lets everybody go, in an order that the number decides.
    fn drain(&mut self, mut choice: usize) {
        let mut steps = 0;
        while !self.runs.is_empty() {
            choice = choice.rotate_right(3) ^ steps;
            let (who, can_spawn, fresh) = (choice, false, choice.is_multiple_of(2));
            let step = match choice % 7 {
                0 => Step::Poll { who, fresh },
                1 => Step::PutBack { who, can_spawn },
                2 => Step::Land { who },
                3 => Step::End { who },
                4 => Step::PollTask { who, fresh },
                5 => Step::LoseTask { who },
                _ => Step::Leave { who, can_spawn },
            };
            self.take(&step);
            steps += 1;
            assert!(steps < 100_000, "something does not end: {:?}", self.runs);
        }
        assert!(self.callers.is_empty());
        for wakes in &self.wakers {
            assert_eq!(Arc::strong_count(wakes), 1, "the board keeps a waker of someone who has gone");
        }
    }
}

fn nth(all: &[usize], who: usize) -> Option<usize> {
    all.get(who.checked_rem(all.len())?).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn board_does_what_a_naive_model_does(
        most in 1..=4_usize,
        detached in any::<bool>(),
        program in prop::collection::vec(step(), 0..100),
        choice in any::<usize>(),
    ) {
        let mut pair = Pair::new(most, detached);
        for step in &program {
            pair.take(step);
        }
        pair.drain(choice);
    }
}
