//! Models of the crew: no task is forgotten, none runs twice, none runs without a token, no token is lost.
//!
//! In a model no time passes, so an idle worker stays for as long as others have not had their turn, and then goes. A
//! worker that was called before it went is thus met as often as one that went before it was called.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};

use super::config::{KeepAlive, Threads, WorkersConfig};
use super::worker::Worker;
use super::workers::Workers;
use crate::offload::error::OffloadError;
use crate::offload::limiter::CapacityLimiter;
use crate::offload::task::{CallerContext, Job, Outcome, Priority, TaskContext, Terms, Work};
use crate::semaphore::{EnqueueOutcome, TokenSemaphore, Tokens};
use crate::sync::{Mutex, lock};

const STAYS: Option<KeepAlive> = Some(KeepAlive { shift: Duration::MAX, looks: 1, linger: Some(Duration::ZERO) });
/// Goes after each task, unless it was idle before.
const GOES: Option<KeepAlive> = Some(KeepAlive { shift: Duration::ZERO, looks: 1, linger: Some(Duration::ZERO) });
/// Goes as soon as there is no task.
const BRIEF: Option<KeepAlive> = Some(KeepAlive { shift: Duration::MAX, looks: 2, linger: None });
/// Goes after each task.
const ONCE: KeepAlive = KeepAlive { shift: Duration::ZERO, looks: 1, linger: None };

/// Threads of the model.
#[derive(Default)]
struct OfLoom(Arc<Begun>);

#[derive(Default)]
struct Begun {
    threads: Mutex<Vec<JoinHandle<()>>>,
    begun: AtomicUsize,
    fails_from: Option<Failure>,
}

/// What becomes of workers from the one with that number on.
enum Failure {
    /// The runtime is gone.
    Drops(usize),
    /// There is no thread at the moment.
    Refuses(usize),
}

impl Threads for OfLoom {
    fn begin(&self, worker: Worker) -> Result<(), Worker> {
        let begun = self.0.begun.fetch_add(1, Ordering::SeqCst);
        match self.0.fails_from {
            Some(Failure::Drops(from)) if begun >= from => drop(worker),
            Some(Failure::Refuses(from)) if begun >= from => return Err(worker),
            _ => lock(&self.0.threads).push(thread::spawn(|| worker.work())),
        }
        Ok(())
    }
}

struct World {
    tokens: usize,
    crew: Arc<Workers>,
    begun: Arc<Begun>,
    limiter: Arc<CapacityLimiter>,
    /// Tasks that run, and the most that did at a time.
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    ran: Arc<AtomicUsize>,
}

type Unit = Job<Box<dyn FnOnce(&TaskContext) + Send>, ()>;

impl World {
    fn new(tokens: usize, stay: Option<KeepAlive>) -> Arc<Self> {
        Self::with(tokens, usize::MAX, stay, None)
    }

    /// Where no task waits for another one.
    fn strict(tokens: usize, stay: Option<KeepAlive>) -> Arc<Self> {
        Self::with(tokens, 0, stay, None)
    }

    fn failing(tokens: usize, stay: Option<KeepAlive>, fails_from: Failure) -> Arc<Self> {
        Self::with(tokens, usize::MAX, stay, Some(fails_from))
    }

    /// Another pool of the same limiter.
    fn sharing(&self, max_queued: usize, stay: Option<KeepAlive>) -> Arc<Self> {
        let counts = [&self.running, &self.most, &self.ran].map(Arc::clone);
        Self::of(Arc::clone(&self.limiter), self.tokens, max_queued, stay, None, counts)
    }

    fn with(tokens: usize, max_queued: usize, stay: Option<KeepAlive>, fails_from: Option<Failure>) -> Arc<Self> {
        let limiter = Arc::new(CapacityLimiter(TokenSemaphore::with_total(tokens)));
        Self::of(limiter, tokens, max_queued, stay, fails_from, Default::default())
    }

    fn of(
        limiter: Arc<CapacityLimiter>,
        tokens: usize,
        max_queued: usize,
        stay: Option<KeepAlive>,
        fails_from: Option<Failure>,
        [running, most, ran]: [Arc<AtomicUsize>; 3],
    ) -> Arc<Self> {
        let rules = Arc::new(WorkersConfig::new("model", Arc::clone(&limiter), max_queued, stay.unwrap_or(ONCE)));
        let threads = OfLoom(Arc::new(Begun { fails_from, ..Begun::default() }));
        let begun = Arc::clone(&threads.0);
        let crew = Workers::new(rules, Box::new(threads));
        Arc::new(Self { tokens, crew, begun, limiter, running, most, ran })
    }

    fn job(&self) -> Arc<Unit> {
        let (running, most, ran) = (Arc::clone(&self.running), Arc::clone(&self.most), Arc::clone(&self.ran));
        let work: Box<dyn FnOnce(&TaskContext) + Send> = Box::new(move |_| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            running.fetch_sub(1, Ordering::SeqCst);
            ran.fetch_add(1, Ordering::SeqCst);
        });
        Arc::new(Job::new(0, Terms::default(), CallerContext::default(), work))
    }

    fn submit(&self) -> Arc<Unit> {
        let job = self.job();
        let submitted = self.crew.submit(Priority::Normal, Arc::clone(&job) as _);
        assert!(submitted.is_ok(), "the crew is open, and its queue has room: {submitted:?}");
        job
    }

    /// Another thread, which does something with the world.
    fn beside<T: 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> T + 'static) -> JoinHandle<T> {
        let world = Arc::clone(self);
        thread::spawn(move || work(&world))
    }

    /// Submits a task, and waits for its result.
    fn run(&self) {
        let job = self.submit();
        block_on(poll_fn(|cx| job.poll(cx))).unwrap();
    }

    fn end_threads(&self) {
        loop {
            let threads = std::mem::take(&mut *lock(&self.begun.threads));
            if threads.is_empty() {
                return;
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    /// When all threads have gone, everything was done, and every token is back.
    fn ends(&self, ran: usize) {
        self.end_threads();
        assert_eq!(self.ran.load(Ordering::SeqCst), ran);
        assert!(self.most.load(Ordering::SeqCst) <= self.tokens.max(1), "more ran than there are tokens");
        let look = self.limiter.lane().snapshot();
        assert_eq!((look.held(), look.waiting), (0, 0));
        let look = self.crew.look();
        assert_eq!((look.running.len(), look.queued), (0, 0));
    }
}

fn is_done(job: &Unit) -> bool {
    job.poll(&Context::from_waker(Waker::noop())).is_ready()
}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

#[test]
fn task_that_comes_as_a_worker_goes_is_not_forgotten() {
    model(3, || {
        let world = World::new(1, STAYS);
        let first = world.submit();
        let second = world.submit();
        world.ends(2);
        assert!(is_done(&first) && is_done(&second));
    });
}

#[test]
fn tasks_of_two_callers_on_one_token_all_run() {
    model(2, || {
        let world = World::new(1, STAYS);
        let other = world.beside(|world| drop(world.submit()));
        world.submit();
        other.join().unwrap();
        world.ends(2);
    });
}

#[test]
fn workers_that_do_not_stay_forget_no_task() {
    model(3, || {
        let world = World::new(1, None);
        let other = world.beside(|world| drop(world.submit()));
        world.submit();
        other.join().unwrap();
        world.ends(2);
    });
}

#[test]
fn task_that_waits_for_the_first_token_runs_when_it_comes() {
    model(3, || {
        let world = World::new(0, STAYS);
        let raises = world.beside(|world| world.limiter.lane().set_total(1));
        world.submit();
        raises.join().unwrap();
        world.ends(1);
    });
}

#[test]
fn token_that_another_one_gives_back_goes_to_the_task_that_waits() {
    model(3, || {
        let world = World::new(1, STAYS);
        assert!(world.limiter.lane().try_acquire(Tokens::ONE).is_ok());
        let gives_back = world.beside(|world| world.limiter.lane().release(Tokens::ONE));
        world.submit();
        gives_back.join().unwrap();
        world.ends(1);
    });
}

#[test]
fn tasks_take_turns_with_another_one_who_waits_for_the_token() {
    model(2, || {
        let world = World::new(1, STAYS);
        let other = world.beside(|world| {
            let lane = world.limiter.lane();
            if let EnqueueOutcome::Queued(ticket) = lane.enqueue(Tokens::ONE, Waker::noop()) {
                let mut ticket = Some(ticket);
                while lane.poll(&mut ticket, Waker::noop()).is_none() {
                    thread::yield_now();
                }
            }
            lane.release(Tokens::ONE);
        });
        (0..2).for_each(|_| drop(world.submit()));
        other.join().unwrap();
        world.ends(2);
    });
}

#[test]
fn task_that_is_withdrawn_as_it_begins_runs_or_not_but_never_both() {
    model(3, || {
        let world = World::new(1, None);
        let job = world.job();
        let place = world.crew.submit(Priority::Normal, Arc::clone(&job) as _).unwrap();
        world.crew.forget(place);
        let is_withdrawn = job.withdraw();
        world.ends(usize::from(!is_withdrawn));
    });
}

#[test]
fn task_that_comes_as_the_last_one_leaves_the_line_gets_a_token() {
    model(2, || {
        let world = World::new(0, None);
        let left = world.job();
        let place = world.crew.submit(Priority::Normal, Arc::clone(&left) as _).unwrap();
        let raises = world.beside(|world| world.limiter.lane().set_total(1));
        let leaves = world.beside(move |world| {
            world.crew.forget(place);
            usize::from(!left.withdraw())
        });
        let stays = world.submit();
        raises.join().unwrap();
        let ran = leaves.join().unwrap();
        world.end_threads();
        assert!(is_done(&stays));
        world.ends(1 + ran);
    });
}

#[test]
fn task_that_is_cancelled_as_it_begins_ends_once() {
    model(3, || {
        let world = World::new(1, None);
        let job = world.submit();
        job.cancel();
        world.end_threads();
        let ran = world.ran.load(Ordering::SeqCst);
        let result = job.poll(&Context::from_waker(Waker::noop()));
        assert_eq!(result, Poll::Ready(if ran == 1 { Ok(()) } else { Err(OffloadError::Cancelled) }));
        world.ends(ran);
    });
}

#[test]
fn result_of_a_task_that_is_abandoned_as_it_ends_goes_to_one_of_both() {
    model(3, || {
        let world = World::new(1, None);
        let job = world.submit();
        let result = job.abandon();
        assert!(matches!(result, None | Some(Ok(()))));
        world.ends(1);
        assert!(job.is_finished());
    });
}

#[test]
fn crew_that_is_closed_as_a_task_comes_runs_it_or_refuses_it() {
    model(2, || {
        let world = World::new(1, STAYS);
        let closes = world.beside(|world| world.crew.close(&OffloadError::Closed));
        let job = world.job();
        let is_taken = world.crew.submit(Priority::Normal, Arc::clone(&job) as _).is_ok();
        closes.join().unwrap();
        let ran = world.ran.load(Ordering::SeqCst);
        assert!(is_taken || ran == 0);
        let threads = std::mem::take(&mut *lock(&world.begun.threads));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.ends(world.ran.load(Ordering::SeqCst));
        assert_eq!(is_done(&job), is_taken, "who was not refused hears how it went");
    });
}

#[test]
fn workers_whose_shift_is_over_leave_the_tasks_to_others() {
    model(2, || {
        let world = World::new(1, GOES);
        let first = world.submit();
        let second = world.submit();
        world.ends(2);
        assert!(is_done(&first) && is_done(&second));
    });
}

#[test]
fn two_tasks_on_two_tokens_both_run() {
    model(2, || {
        let world = World::new(2, STAYS);
        let first = world.submit();
        let second = world.submit();
        world.ends(2);
        assert!(is_done(&first) && is_done(&second));
    });
}

#[test]
fn two_callers_on_two_tokens_call_as_many_workers_as_it_takes() {
    model(1, || {
        let world = World::new(2, STAYS);
        let other = world.beside(|world| drop(world.submit()));
        world.submit();
        other.join().unwrap();
        world.ends(2);
    });
}

#[test]
fn tasks_are_told_when_the_runtime_goes_before_their_worker_comes() {
    for from in [0, 1] {
        model(2, move || {
            let world = World::failing(1, None, Failure::Drops(from));
            let tasks: Vec<Arc<Unit>> = (0..2)
                .map(|_| {
                    let job = world.job();
                    let _ = world.crew.submit(Priority::Normal, Arc::clone(&job) as _).inspect_err(|error| {
                        drop(job.refuse(error.clone()));
                    });
                    job
                })
                .collect();
            world.end_threads();
            assert!(tasks.iter().all(|job| is_done(job)), "none of them hangs");
            world.ends(world.ran.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn tasks_are_told_or_run_when_there_is_no_thread_for_their_worker() {
    for from in [0, 1] {
        model(2, move || {
            let world = World::failing(2, None, Failure::Refuses(from));
            let first = world.submit();
            let second = world.submit();
            world.end_threads();
            assert!(is_done(&first) && is_done(&second), "none of them hangs");
            world.ends(world.ran.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn result_wakes_who_waits_for_it() {
    model(3, || {
        let world = World::new(1, None);
        let job = world.submit();
        block_on(poll_fn(|cx| job.poll(cx))).unwrap();
        world.ends(1);
    });
}

#[test]
fn who_has_its_result_finds_room_for_the_next_task() {
    for stay in [STAYS, GOES, BRIEF, None] {
        model(3, move || {
            let world = World::strict(1, stay);
            // The second look is that of a worker that searches.
            (0..2).for_each(|_| world.run());
            world.submit();
            world.ends(3);
        });
    }
}

#[test]
fn who_has_its_result_finds_room_beside_another_one() {
    for stay in [STAYS, BRIEF, None] {
        model(2, move || {
            let world = World::strict(2, stay);
            let job = world.submit();
            world.submit();
            block_on(poll_fn(|cx| job.poll(cx))).unwrap();
            world.submit();
            world.ends(3);
        });
    }
}

#[test]
fn who_has_its_result_finds_room_in_another_pool_of_the_limiter() {
    for stay in [STAYS, BRIEF, None] {
        model(2, move || {
            let world = World::strict(1, stay);
            let other = world.sharing(0, stay);
            world.run();
            other.submit();
            other.end_threads();
            world.ends(2);
            other.ends(2);
        });
    }
}

#[test]
fn two_pools_of_a_limiter_forget_no_task() {
    for stay in [STAYS, GOES, BRIEF, None] {
        model(2, move || {
            let world = World::new(1, stay);
            let other = world.sharing(usize::MAX, stay);
            let submits = other.beside(|other| drop(other.submit()));
            (0..2).for_each(|_| drop(world.submit()));
            submits.join().unwrap();
            // The threads of one call those of the other.
            (0..3).for_each(|_| [&world, &other].iter().for_each(|world| world.end_threads()));
            world.ends(3);
            other.ends(3);
        });
    }
}

#[test]
fn pool_that_is_paused_begins_nothing_also_if_a_worker_searches() {
    for stay in [STAYS, BRIEF, None] {
        model(2, move || {
            let world = World::new(1, stay);
            world.run();
            world.limiter.lane().set_total(0);
            world.submit();
            world.end_threads();
            assert_eq!(world.ran.load(Ordering::SeqCst), 1);
            world.limiter.lane().set_total(1);
            world.ends(2);
        });
    }
}

#[test]
fn pool_that_is_paused_for_a_moment_forgets_no_task() {
    for stay in [STAYS, GOES, BRIEF, None] {
        model(2, move || {
            let world = World::new(1, stay);
            let pauses = world.beside(|world| [0, 1].iter().for_each(|total| world.limiter.lane().set_total(*total)));
            (0..2).for_each(|_| drop(world.submit()));
            pauses.join().unwrap();
            world.ends(2);
        });
    }
}

#[test]
fn tasks_are_told_when_their_limiter_is_closed() {
    for stay in [STAYS, GOES, BRIEF, None] {
        model(2, move || {
            let world = World::new(1, stay);
            let closes = world.beside(|world| world.limiter.lane().close());
            let jobs = [world.job(), world.job()].into_iter();
            let submitted: Vec<_> =
                jobs.filter(|job| world.crew.submit(Priority::Normal, Arc::clone(job) as _).is_ok()).collect();
            closes.join().unwrap();
            world.end_threads();
            assert!(submitted.iter().all(|job| is_done(job)), "none of them hangs");
            world.ends(world.ran.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn crew_that_is_drained_has_told_all_results() {
    for stay in [STAYS, BRIEF, None] {
        model(2, move || {
            let world = World::new(1, stay);
            let job = world.submit();
            world.crew.close(&OffloadError::Closed);
            while !world.crew.is_drained() {
                thread::yield_now();
            }
            assert!(job.is_finished());
            world.end_threads();
        });
    }
}

#[test]
fn task_whose_worker_has_no_thread_is_not_forgotten_by_one_who_yields_to_another() {
    model(2, || {
        let world = World::failing(2, STAYS, Failure::Refuses(1));
        let first = world.submit();
        let takes_both = world.beside(|world| {
            let lane = world.limiter.lane();
            for _ in 0..2 {
                if let EnqueueOutcome::Queued(ticket) = lane.enqueue(Tokens::ONE, Waker::noop()) {
                    let mut ticket = Some(ticket);
                    while lane.poll(&mut ticket, Waker::noop()).is_none() {
                        thread::yield_now();
                    }
                }
            }
            (0..2).for_each(|_| lane.release(Tokens::ONE));
        });
        let second = world.submit();
        takes_both.join().unwrap();
        world.end_threads();
        assert!(is_done(&first) && is_done(&second), "none of them hangs");
    });
}
