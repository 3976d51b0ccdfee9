//! Models of [`Workers`]: no task is lost, none runs twice, none runs without a token, and no token is lost.
//!
//! No time passes in a model. An idle worker stays until the other threads have had their turn, and then times out. So
//! the models cover a worker that is activated before it times out as well as one that times out before it is
//! activated.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};

use super::config::{KeepAlive, WorkersConfig};
use super::queue::QueuePosition;
use super::registry::Registry;
use super::state::ThreadWait;
use super::threads::{SpawnError, WorkerThreads};
use super::worker::Worker;
use super::workers::Workers;
use crate::offload::error::{OffloadError, OffloadErrorKind};
use crate::offload::job::{
    AwaitableJob, CallerContext, Job, Priority, RunnableJob, TaskContext, TaskOptions, TaskPlace,
};
use crate::offload::limiter::{CapacityLimiter, SharedLimiter};
use crate::semaphore::{EnqueueOutcome, TokenSemaphore, Tokens};
use crate::sync::{Mutex, lock};

const KEEPS_THREAD: KeepAlive = KeepAlive { max_busy: Duration::MAX, spins: 1, idle_timeout: Some(Duration::ZERO) };
/// Leaves its thread after each task, unless it was idle before.
const IDLES_ONCE: KeepAlive = KeepAlive { max_busy: Duration::ZERO, spins: 1, idle_timeout: Some(Duration::ZERO) };
/// Leaves its thread as soon as no task is queued.
const NEVER_IDLES: KeepAlive = KeepAlive { max_busy: Duration::MAX, spins: 2, idle_timeout: None };
/// Leaves its thread after each task.
const RUNS_ONCE: KeepAlive = KeepAlive { max_busy: Duration::ZERO, spins: 1, idle_timeout: None };

/// Threads of the model.
struct LoomThreads(Arc<SpawnedThreads>);

struct SpawnedThreads {
    /// How many threads start. loom has four in addition to the main thread.
    max_threads: AtomicUsize,
    started: AtomicUsize,
    /// Workers that wait for one of these threads.
    waiting: Mutex<Vec<Worker>>,
    handles: Mutex<Vec<JoinHandle<()>>>,
    spawned: AtomicUsize,
    fails_from: Option<SpawnFailure>,
    /// The worker whose request for a thread was forgotten.
    forgotten: Mutex<Option<Worker>>,
}

impl SpawnedThreads {
    fn new(fails_from: Option<SpawnFailure>) -> Self {
        Self {
            max_threads: AtomicUsize::new(usize::MAX),
            started: AtomicUsize::new(0),
            waiting: Mutex::default(),
            handles: Mutex::default(),
            spawned: AtomicUsize::new(0),
            fails_from,
            forgotten: Mutex::default(),
        }
    }
}

/// What happens to the workers with this number and all later numbers.
enum SpawnFailure {
    /// The runtime is gone.
    Drops(usize),
    /// No thread is available at the moment.
    Refuses(usize),
    /// The request for the worker with this number is forgotten, and all later requests are served.
    Forgets(usize),
}

impl LoomThreads {
    /// Runs a worker on a new thread, or after another one if there is none left.
    fn start(&self, worker: Worker) {
        let threads = Arc::clone(&self.0);
        if threads.started.fetch_add(1, Ordering::SeqCst) >= threads.max_threads.load(Ordering::SeqCst) {
            lock(&threads.waiting).push(worker);
            return;
        }
        let run = move || {
            worker.run();
            threads.run_waiting();
        };
        lock(&self.0.handles).push(thread::spawn(run));
    }
}

impl SpawnedThreads {
    /// Runs the workers that wait for a thread.
    fn run_waiting(&self) {
        loop {
            let Some(worker) = lock(&self.waiting).pop() else { return };
            worker.run();
        }
    }
}

impl WorkerThreads for LoomThreads {
    fn spawn(&self, worker: Worker) -> Result<(), SpawnError> {
        let spawned = self.0.spawned.fetch_add(1, Ordering::SeqCst);
        match self.0.fails_from {
            Some(SpawnFailure::Drops(from)) if spawned >= from => drop(worker),
            Some(SpawnFailure::Forgets(number)) if spawned == number => *lock(&self.0.forgotten) = Some(worker),
            Some(SpawnFailure::Refuses(from)) if spawned >= from => {
                return Err(SpawnError { worker, cause: io::Error::other("no thread") });
            }
            _ => self.start(worker),
        }
        Ok(())
    }

    fn request_again(&self) -> Result<(), SpawnError> {
        let forgotten = lock(&self.0.forgotten).take();
        if let Some(worker) = forgotten {
            self.start(worker);
        }
        Ok(())
    }
}

struct World {
    tokens: usize,
    workers: Arc<Workers>,
    threads: Arc<SpawnedThreads>,
    limiter: SharedLimiter,
    /// Tasks that are running, and the maximum that ran at the same time.
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    ran: Arc<AtomicUsize>,
}

type UnitJob = Job<Box<dyn FnOnce(&TaskContext) + Send>, ()>;

impl World {
    fn new(tokens: usize, keep_alive: KeepAlive) -> Arc<Self> {
        Self::with(tokens, None, keep_alive, None)
    }

    /// Creates workers whose queue has no room.
    fn strict(tokens: usize, keep_alive: KeepAlive) -> Arc<Self> {
        Self::with(tokens, Some(0), keep_alive, None)
    }

    fn failing(tokens: usize, keep_alive: KeepAlive, fails_from: SpawnFailure) -> Arc<Self> {
        Self::with(tokens, None, keep_alive, Some(fails_from))
    }

    /// Creates another pool of the same limiter.
    fn sharing(&self, max_queued: Option<usize>, keep_alive: KeepAlive) -> Arc<Self> {
        self.sharing_with(max_queued, keep_alive, None)
    }

    fn sharing_with(
        &self,
        max_queued: Option<usize>,
        keep_alive: KeepAlive,
        fails_from: Option<SpawnFailure>,
    ) -> Arc<Self> {
        let counts = [&self.running, &self.most, &self.ran].map(Arc::clone);
        Self::of(self.limiter.clone(), self.tokens, max_queued, keep_alive, fails_from, counts)
    }

    fn with(
        tokens: usize,
        max_queued: Option<usize>,
        keep_alive: KeepAlive,
        fails_from: Option<SpawnFailure>,
    ) -> Arc<Self> {
        let limiter = Arc::new(CapacityLimiter::new(tokens)).into();
        Self::of(limiter, tokens, max_queued, keep_alive, fails_from, Default::default())
    }

    fn of(
        limiter: SharedLimiter,
        tokens: usize,
        max_queued: Option<usize>,
        keep_alive: KeepAlive,
        fails_from: Option<SpawnFailure>,
        [running, most, ran]: [Arc<AtomicUsize>; 3],
    ) -> Arc<Self> {
        let config = Arc::new(WorkersConfig::new("model".into(), limiter.clone(), max_queued, keep_alive));
        let threads = Arc::new(SpawnedThreads::new(fails_from));
        let workers = Workers::new(config, Box::new(LoomThreads(Arc::clone(&threads))));
        Arc::new(Self { tokens, workers, threads, limiter, running, most, ran })
    }

    fn job(&self) -> Arc<UnitJob> {
        let (running, most, ran) = (Arc::clone(&self.running), Arc::clone(&self.most), Arc::clone(&self.ran));
        self.job_of(move |_| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            running.fetch_sub(1, Ordering::SeqCst);
            ran.fetch_add(1, Ordering::SeqCst);
        })
    }

    fn job_of(&self, work: impl FnOnce(&TaskContext) + Send + 'static) -> Arc<UnitJob> {
        let work: Box<dyn FnOnce(&TaskContext) + Send> = Box::new(work);
        Arc::new(Job::new(TaskPlace::default(), TaskOptions::default(), CallerContext::default(), work))
    }

    fn submit(&self) -> Arc<UnitJob> {
        let job = self.job();
        let submitted = self.workers.submit(Priority::Normal, Arc::clone(&job) as _);
        assert!(submitted.is_ok(), "the workers are open, and the queue has room: {submitted:?}");
        job
    }

    /// Runs `work` on another thread.
    fn spawn<T: 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> T + 'static) -> JoinHandle<T> {
        let world = Arc::clone(self);
        thread::spawn(move || work(&world))
    }

    /// Submits a task and waits for its result.
    fn run(&self) {
        let job = self.submit();
        block_on(poll_fn(|cx| job.poll(cx))).unwrap();
    }

    fn join_threads(&self) {
        loop {
            let threads = std::mem::take(&mut *lock(&self.threads.handles));
            if threads.is_empty() {
                break;
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
        self.threads.run_waiting();
    }

    /// Withdraws the last granted token, as happens after a while.
    fn withdraw_grant(&self) {
        let grant = lock(&self.workers.state).grants;
        self.workers.withdraw_grant(grant);
    }

    /// Checks what waits for a thread until nothing does, or it was found late.
    fn check_start(&self) {
        let mut seen = ThreadWait::default();
        for _ in 0..3 {
            let Some(waits) = self.workers.check_start(seen) else { return };
            seen = waits;
        }
    }

    /// Joins all threads. Checks that `ran` tasks have run, that nothing is left, and that all tokens were released.
    fn assert_ended(&self, ran: usize) {
        self.join_threads();
        assert_eq!(self.ran.load(Ordering::SeqCst), ran);
        assert!(self.most.load(Ordering::SeqCst) <= self.tokens.max(1), "more ran than there are tokens");
        let tokens = self.limiter.semaphore().snapshot();
        assert_eq!((tokens.held(), tokens.waiting), (0, 0));
        let snapshot = self.workers.snapshot();
        assert_eq!((snapshot.running.len(), snapshot.queued), (0, 0));
        let state = lock(&self.workers.state);
        assert_eq!((state.promised, state.waiting, state.is_late), (0, 0, false));
    }
}

fn is_done(job: &UnitJob) -> bool {
    job.poll(&Context::from_waker(Waker::noop())).is_ready()
}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

#[test]
fn task_submitted_while_a_worker_stops_still_runs() {
    model(3, || {
        let world = World::new(1, KEEPS_THREAD);
        let first = world.submit();
        let second = world.submit();
        world.assert_ended(2);
        assert!(is_done(&first) && is_done(&second));
    });
}

#[test]
fn tasks_of_two_callers_all_run_with_one_token() {
    model(2, || {
        let world = World::new(1, KEEPS_THREAD);
        let other = world.spawn(|world| drop(world.submit()));
        world.submit();
        other.join().unwrap();
        world.assert_ended(2);
    });
}

#[test]
fn workers_that_run_one_task_each_lose_no_task() {
    model(3, || {
        let world = World::new(1, RUNS_ONCE);
        let other = world.spawn(|world| drop(world.submit()));
        world.submit();
        other.join().unwrap();
        world.assert_ended(2);
    });
}

#[test]
fn task_queued_without_a_token_runs_when_the_total_is_raised() {
    model(3, || {
        let world = World::new(0, KEEPS_THREAD);
        let raising = world.spawn(|world| world.limiter.semaphore().set_total(1));
        world.submit();
        raising.join().unwrap();
        world.assert_ended(1);
    });
}

#[test]
fn token_released_by_another_holder_goes_to_the_queued_task() {
    model(3, || {
        let world = World::new(1, KEEPS_THREAD);
        assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
        let releasing = world.spawn(|world| world.limiter.semaphore().release(Tokens::ONE));
        world.submit();
        releasing.join().unwrap();
        world.assert_ended(1);
    });
}

#[test]
fn tasks_take_turns_with_another_waiter_for_the_token() {
    model(2, || {
        let world = World::new(1, KEEPS_THREAD);
        let other = world.spawn(|world| {
            let semaphore = world.limiter.semaphore();
            if let EnqueueOutcome::Queued(waiter) = semaphore.enqueue(Tokens::ONE, Waker::noop()) {
                let mut waiter = Some(waiter);
                while semaphore.poll(&mut waiter, Waker::noop()).is_none() {
                    thread::yield_now();
                }
            }
            semaphore.release(Tokens::ONE);
        });
        (0..2).for_each(|_| drop(world.submit()));
        other.join().unwrap();
        world.assert_ended(2);
    });
}

#[test]
fn task_cancelled_through_the_queue_while_it_starts_either_runs_or_does_not() {
    model(3, || {
        let world = World::new(1, RUNS_ONCE);
        let job = world.job();
        let position = world.workers.submit(Priority::Normal, Arc::clone(&job) as _).unwrap();
        world.workers.remove(position);
        let is_cancelled = job.cancel_if_queued();
        world.assert_ended(usize::from(!is_cancelled));
    });
}

#[test]
fn task_submitted_while_the_last_queued_one_is_removed_gets_a_token() {
    model(2, || {
        let world = World::new(0, RUNS_ONCE);
        let first = world.job();
        let position = world.workers.submit(Priority::Normal, Arc::clone(&first) as _).unwrap();
        let raising = world.spawn(|world| world.limiter.semaphore().set_total(1));
        let leaving = world.spawn(move |world| {
            world.workers.remove(position);
            usize::from(!first.cancel_if_queued())
        });
        let last = world.submit();
        raising.join().unwrap();
        let ran = leaving.join().unwrap();
        world.join_threads();
        assert!(is_done(&last));
        world.assert_ended(1 + ran);
    });
}

#[test]
fn task_cancelled_while_it_starts_ends_once() {
    model(3, || {
        let world = World::new(1, RUNS_ONCE);
        let job = world.submit();
        job.cancel();
        world.join_threads();
        let ran = world.ran.load(Ordering::SeqCst);
        let result = job.poll(&Context::from_waker(Waker::noop()));
        assert_eq!(result, Poll::Ready(if ran == 1 { Ok(()) } else { Err(OffloadErrorKind::Cancelled.into()) }));
        world.assert_ended(ran);
    });
}

#[test]
fn result_of_a_task_abandoned_while_it_ends_is_taken_at_most_once() {
    model(3, || {
        let world = World::new(1, RUNS_ONCE);
        let job = world.submit();
        let result = job.abandon(None);
        assert!(matches!(result, None | Some(Ok(()))));
        world.assert_ended(1);
        assert!(job.is_finished());
    });
}

#[test]
fn task_submitted_while_the_workers_are_closed_runs_or_is_refused() {
    model(2, || {
        let world = World::new(1, KEEPS_THREAD);
        let closing = world.spawn(|world| world.workers.close(OffloadErrorKind::Closed));
        let job = world.job();
        let is_queued = world.workers.submit(Priority::Normal, Arc::clone(&job) as _).is_ok();
        closing.join().unwrap();
        let ran = world.ran.load(Ordering::SeqCst);
        assert!(is_queued || ran == 0);
        let threads = std::mem::take(&mut *lock(&world.threads.handles));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.assert_ended(world.ran.load(Ordering::SeqCst));
        assert_eq!(is_done(&job), is_queued, "a task that was not refused has a result");
    });
}

#[test]
fn workers_that_leave_their_thread_pass_queued_tasks_on() {
    model(2, || {
        let world = World::new(1, IDLES_ONCE);
        let first = world.submit();
        let second = world.submit();
        world.assert_ended(2);
        assert!(is_done(&first) && is_done(&second));
    });
}

#[test]
fn two_tasks_both_run_with_two_tokens() {
    model(2, || {
        let world = World::new(2, KEEPS_THREAD);
        let first = world.submit();
        let second = world.submit();
        world.assert_ended(2);
        assert!(is_done(&first) && is_done(&second));
    });
}

#[test]
fn tasks_of_two_callers_both_run_with_two_tokens() {
    model(1, || {
        let world = World::new(2, KEEPS_THREAD);
        let other = world.spawn(|world| drop(world.submit()));
        world.submit();
        other.join().unwrap();
        world.assert_ended(2);
    });
}

#[test]
fn tasks_fail_when_the_runtime_drops_their_starting_worker() {
    for from in [0, 1] {
        model(2, move || {
            let world = World::failing(1, RUNS_ONCE, SpawnFailure::Drops(from));
            let tasks: Vec<Arc<UnitJob>> = (0..2)
                .map(|_| {
                    let job = world.job();
                    let _ = world.workers.submit(Priority::Normal, Arc::clone(&job) as _).inspect_err(|error| {
                        drop(job.refuse(error.clone()));
                    });
                    job
                })
                .collect();
            world.join_threads();
            assert!(tasks.iter().all(|job| is_done(job)), "no task hangs");
            world.assert_ended(world.ran.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn tasks_fail_or_run_when_no_thread_can_be_started() {
    for from in [0, 1] {
        model(2, move || {
            let world = World::failing(2, RUNS_ONCE, SpawnFailure::Refuses(from));
            let first = world.submit();
            let second = world.submit();
            world.join_threads();
            assert!(is_done(&first) && is_done(&second), "no task hangs");
            world.assert_ended(world.ran.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn result_wakes_its_waiting_caller() {
    model(3, || {
        let world = World::new(1, RUNS_ONCE);
        let job = world.submit();
        block_on(poll_fn(|cx| job.poll(cx))).unwrap();
        world.assert_ended(1);
    });
}

#[test]
fn caller_that_has_its_result_can_submit_the_next_task_to_a_full_pool() {
    for keep_alive in [KEEPS_THREAD, IDLES_ONCE, NEVER_IDLES, RUNS_ONCE] {
        model(3, move || {
            let world = World::strict(1, keep_alive);
            // The second run meets a worker that searches.
            (0..2).for_each(|_| world.run());
            world.submit();
            world.assert_ended(3);
        });
    }
}

#[test]
fn caller_that_has_its_result_can_submit_while_another_task_runs() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::strict(2, keep_alive);
            let job = world.submit();
            world.submit();
            block_on(poll_fn(|cx| job.poll(cx))).unwrap();
            world.submit();
            world.assert_ended(3);
        });
    }
}

#[test]
fn caller_that_has_its_result_can_submit_to_another_pool_of_the_limiter() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::strict(1, keep_alive);
            let other = world.sharing(Some(0), keep_alive);
            world.run();
            other.submit();
            other.join_threads();
            world.assert_ended(2);
            other.assert_ended(2);
        });
    }
}

#[test]
fn two_pools_of_one_limiter_lose_no_task() {
    for keep_alive in [KEEPS_THREAD, IDLES_ONCE, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            let other = world.sharing(None, keep_alive);
            world.threads.max_threads.store(2, Ordering::SeqCst);
            other.threads.max_threads.store(1, Ordering::SeqCst);
            let submitting = other.spawn(|other| drop(other.submit()));
            (0..2).for_each(|_| drop(world.submit()));
            submitting.join().unwrap();
            // Workers of one pool activate those of the other.
            (0..3).for_each(|_| [&world, &other].iter().for_each(|world| world.join_threads()));
            world.assert_ended(3);
            other.assert_ended(3);
        });
    }
}

#[test]
fn paused_pool_starts_no_task_even_if_a_worker_searches() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            world.run();
            world.limiter.semaphore().set_total(0);
            world.submit();
            world.join_threads();
            assert_eq!(world.ran.load(Ordering::SeqCst), 1);
            world.limiter.semaphore().set_total(1);
            world.assert_ended(2);
        });
    }
}

#[test]
fn pool_paused_for_a_moment_loses_no_task() {
    for keep_alive in [KEEPS_THREAD, IDLES_ONCE, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            let pausing =
                world.spawn(|world| [0, 1].iter().for_each(|total| world.limiter.semaphore().set_total(*total)));
            (0..2).for_each(|_| drop(world.submit()));
            pausing.join().unwrap();
            world.assert_ended(2);
        });
    }
}

#[test]
fn tasks_fail_when_their_limiter_is_closed() {
    for keep_alive in [KEEPS_THREAD, IDLES_ONCE, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            let closing = world.spawn(|world| world.limiter.semaphore().close());
            let jobs = [world.job(), world.job()].into_iter();
            let submitted: Vec<_> =
                jobs.filter(|job| world.workers.submit(Priority::Normal, Arc::clone(job) as _).is_ok()).collect();
            closing.join().unwrap();
            world.join_threads();
            assert!(submitted.iter().all(|job| is_done(job)), "no task hangs");
            world.assert_ended(world.ran.load(Ordering::SeqCst));
        });
    }
}

#[test]
fn drained_workers_have_published_all_results() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            let job = world.submit();
            world.workers.close(OffloadErrorKind::Closed);
            while !world.workers.is_drained() {
                thread::yield_now();
            }
            assert!(job.is_finished());
            world.join_threads();
        });
    }
}

#[test]
fn task_whose_worker_got_no_thread_runs_after_another_waiter_took_the_tokens() {
    model(2, || {
        let world = World::failing(2, KEEPS_THREAD, SpawnFailure::Refuses(1));
        let first = world.submit();
        let taking_both = world.spawn(|world| {
            let semaphore = world.limiter.semaphore();
            for _ in 0..2 {
                if let EnqueueOutcome::Queued(waiter) = semaphore.enqueue(Tokens::ONE, Waker::noop()) {
                    let mut waiter = Some(waiter);
                    while semaphore.poll(&mut waiter, Waker::noop()).is_none() {
                        thread::yield_now();
                    }
                }
            }
            (0..2).for_each(|_| semaphore.release(Tokens::ONE));
        });
        let second = world.submit();
        taking_both.join().unwrap();
        world.join_threads();
        assert!(is_done(&first) && is_done(&second), "no task hangs");
    });
}

#[test]
fn workers_registered_while_their_pool_is_closed_are_closed_too() {
    model(3, || {
        let world = World::new(0, RUNS_ONCE);
        let registry = Arc::new(Registry::default());
        let closing = {
            let registry = Arc::clone(&registry);
            world.spawn(move |world| world.workers.config.close(|| registry.all()))
        };
        assert!(registry.register(1, &world.workers).is_ok());
        let job = world.job();
        let is_queued = world.workers.submit(Priority::Normal, Arc::clone(&job) as _).is_ok();
        closing.join().unwrap();
        assert_eq!(is_done(&job), is_queued, "a queued task was refused");
        assert!(world.workers.is_drained());
        world.assert_ended(0);
    });
}

#[test]
fn forgotten_request_for_a_thread_is_repeated_by_the_next_task() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(3, move || {
            let world = World::failing(1, keep_alive, SpawnFailure::Forgets(0));
            let first = world.submit();
            let second = world.submit();
            world.assert_ended(2);
            assert!(is_done(&first) && is_done(&second));
        });
    }
}

#[test]
fn forgotten_request_for_a_thread_is_repeated_by_a_check() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(3, move || {
            let world = World::failing(1, keep_alive, SpawnFailure::Forgets(0));
            let only = world.submit();
            world.check_start();
            world.assert_ended(1);
            assert!(is_done(&only));
        });
    }
}

#[test]
fn checks_while_workers_start_lose_no_task_and_no_token() {
    for (tokens, keep_alive) in [(1, KEEPS_THREAD), (1, RUNS_ONCE), (2, NEVER_IDLES)] {
        model(2, move || {
            let world = World::new(tokens, keep_alive);
            world.threads.max_threads.store(2, Ordering::SeqCst);
            let first = world.submit();
            let checking = world.spawn(World::check_start);
            let second = world.submit();
            checking.join().unwrap();
            world.assert_ended(2);
            assert!(is_done(&first) && is_done(&second));
            assert!((0..tokens).all(|_| world.limiter.try_promise()), "no promise is left");
        });
    }
}

#[test]
fn late_worker_leaves_room_for_as_many_tasks_as_tokens_are_free_and_others_can_use_the_tokens() {
    model(1, || {
        let world = World::strict(2, NEVER_IDLES);
        let other = world.sharing(Some(0), NEVER_IDLES);
        [&world, &other].iter().for_each(|world| world.threads.max_threads.store(0, Ordering::SeqCst));
        let is_admitted = |world: &World| world.workers.submit(Priority::Normal, world.job()).is_ok();
        assert!(is_admitted(&world));
        world.check_start();
        assert!(is_admitted(&world) && !is_admitted(&world));
        assert!(is_admitted(&other) && is_admitted(&other) && !is_admitted(&other));
        assert!(!is_admitted(&world));
        world.join_threads();
        other.assert_ended(4);
        world.assert_ended(4);
        assert!((0..2).all(|_| world.limiter.try_promise()), "no promise is left");
    });
}

#[test]
fn token_granted_to_a_worker_without_a_thread_passes_to_the_next_waiter() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            let busy = world.sharing_with(None, keep_alive, Some(SpawnFailure::Forgets(0)));
            world.threads.max_threads.store(1, Ordering::SeqCst);
            busy.threads.max_threads.store(2, Ordering::SeqCst);
            assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
            let waiting = busy.submit();
            let behind = world.submit();
            world.limiter.semaphore().release(Tokens::ONE);
            assert_eq!(world.limiter.semaphore().snapshot().held(), 1, "the worker without a thread has it");
            busy.withdraw_grant();
            world.join_threads();
            assert!(is_done(&behind) && !waiting.is_finished());
            let last = busy.submit();
            (0..2).for_each(|_| [&world, &busy].iter().for_each(|world| world.join_threads()));
            assert!(is_done(&waiting) && is_done(&last));
            world.assert_ended(3);
            busy.assert_ended(3);
        });
    }
}

#[test]
fn token_withdrawn_while_its_worker_starts_loses_no_task() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            world.threads.max_threads.store(2, Ordering::SeqCst);
            assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
            let first = world.submit();
            world.limiter.semaphore().release(Tokens::ONE);
            let withdrawing = world.spawn(World::withdraw_grant);
            let second = world.submit();
            withdrawing.join().unwrap();
            world.assert_ended(2);
            assert!(is_done(&first) && is_done(&second));
        });
    }
}

#[test]
fn granted_token_is_released_with_the_last_queued_task() {
    model(3, || {
        let world = World::new(1, RUNS_ONCE);
        assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
        let job = world.job();
        let position = world.workers.submit(Priority::Normal, Arc::clone(&job) as _).unwrap();
        let releasing = world.spawn(|world| world.limiter.semaphore().release(Tokens::ONE));
        let withdrawing = world.spawn(World::withdraw_grant);
        world.workers.remove(position);
        let is_cancelled = job.cancel_if_queued();
        releasing.join().unwrap();
        withdrawing.join().unwrap();
        world.assert_ended(usize::from(!is_cancelled));
    });
}

#[test]
fn promised_token_is_free_while_only_pools_acquire_tokens() {
    for tokens in [1, 2] {
        model(3, move || {
            let limiter = Arc::new(CapacityLimiter::new(tokens));
            let admitted = Arc::new(AtomicUsize::new(0));
            let caller = || {
                let (limiter, admitted) = (Arc::clone(&limiter), Arc::clone(&admitted));
                move || {
                    if !limiter.try_promise() {
                        assert_eq!(tokens, 1, "two tokens are enough for two callers");
                        return;
                    }
                    assert!(
                        admitted.fetch_add(1, Ordering::SeqCst) < tokens,
                        "more tasks are admitted than tokens exist"
                    );
                    assert!(limiter.acquire_promised());
                    admitted.fetch_sub(1, Ordering::SeqCst);
                    limiter.release_for_pool();
                }
            };
            let other = thread::spawn(caller());
            (0..2).for_each(|_| caller()());
            other.join().unwrap();
            assert!(limiter.try_promise());
        });
    }
}

#[test]
fn waker_that_waits_for_a_task_of_its_own_pool_does_not_wait_for_itself() {
    use std::task::Wake;

    struct RunsTask(Arc<World>);
    impl Wake for RunsTask {
        fn wake(self: Arc<Self>) {
            self.0.run();
        }
    }

    for keep_alive in [KEEPS_THREAD, NEVER_IDLES] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            let job = world.submit();
            let waker = Arc::new(RunsTask(Arc::clone(&world))).into();
            let is_waiting = job.poll(&Context::from_waker(&waker)).is_pending();
            drop(waker);
            world.join_threads();
            world.assert_ended(1 + usize::from(is_waiting));
        });
    }
}

#[test]
fn idle_worker_ends_when_no_more_tasks_can_come() {
    model(2, || {
        let world = World::new(1, KEEPS_THREAD);
        let job = world.submit();
        world.workers.release_idle();
        world.assert_ended(1);
        assert!(is_done(&job));
        assert_eq!(world.workers.snapshot().idle, 0);
    });
}

/// Submits a nested task and waits for it, as a caller does that holds a token.
fn run_nested(world: &World) -> Result<(), OffloadError> {
    let job = world.job();
    let position = world.workers.submit_if_free(Priority::Normal, &(Arc::clone(&job) as _)).unwrap();
    await_nested(world, &job, position)
}

/// Waits for a task as a caller does that holds a token: the caller runs the task itself unless a worker is about to
/// run it.
fn await_nested(world: &World, job: &Arc<UnitJob>, position: Option<QueuePosition>) -> Result<(), OffloadError> {
    block_on(poll_fn(|cx| {
        let result = job.poll(cx);
        if result.is_ready()
            || position.is_some_and(|position| world.workers.is_about_to_take_task() || !world.workers.remove(position))
        {
            return result;
        }
        world.workers.admit_nested().unwrap();
        world.workers.run_nested(&(Arc::clone(job) as _));
        job.poll(cx)
    }))
}

#[test]
fn nested_task_runs_on_a_thread_or_on_its_callers() {
    for (tokens, keep_alive) in [(1, RUNS_ONCE), (2, NEVER_IDLES), (2, RUNS_ONCE)] {
        model(2, move || {
            let world = World::new(tokens, keep_alive);
            assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
            let other = world.spawn(|world| drop(world.submit()));
            run_nested(&world).unwrap();
            world.limiter.semaphore().release(Tokens::ONE);
            other.join().unwrap();
            world.assert_ended(2);
        });
    }
}

#[test]
fn nested_task_whose_worker_gets_no_thread_is_run_by_its_caller() {
    model(3, || {
        let world = World::failing(3, NEVER_IDLES, SpawnFailure::Refuses(1));
        let inside = Arc::clone(&world);
        let outer = world.job_of(move |_| run_nested(&inside).unwrap());
        world.workers.submit(Priority::Normal, Arc::clone(&outer) as _).unwrap();
        // Requests the thread that is refused, perhaps while the outer task waits.
        let other = world.submit();
        world.join_threads();
        let Poll::Ready(other) = other.poll(&Context::from_waker(Waker::noop())) else { panic!("the task has ended") };
        assert!(is_done(&outer));
        world.assert_ended(1 + usize::from(other.is_ok()));
    });
}

#[test]
fn nested_task_whose_promised_token_is_taken_is_run_by_its_caller() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(2, keep_alive);
            assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
            // Keeps the token until the outer task has ended.
            let taking = world.spawn(|world| world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
            run_nested(&world).unwrap();
            world.limiter.semaphore().release(Tokens::ONE);
            if taking.join().unwrap() {
                world.limiter.semaphore().release(Tokens::ONE);
            }
            world.assert_ended(1);
        });
    }
}

#[test]
fn nested_task_whose_granted_token_is_withdrawn_is_run_by_its_caller() {
    model(3, || {
        let world = World::failing(1, NEVER_IDLES, SpawnFailure::Forgets(0));
        let semaphore = world.limiter.semaphore();
        assert!(semaphore.try_acquire(Tokens::ONE).is_ok());
        let job = world.job();
        let position = world.workers.submit(Priority::Normal, Arc::clone(&job) as _).unwrap();
        let EnqueueOutcome::Queued(behind) = semaphore.enqueue(Tokens::ONE, Waker::noop()) else {
            panic!("the token is held")
        };
        semaphore.release(Tokens::ONE);
        let withdrawing = world.spawn(World::withdraw_grant);
        await_nested(&world, &job, Some(position)).unwrap();
        withdrawing.join().unwrap();
        assert!(semaphore.poll(&mut Some(behind), Waker::noop()).is_some(), "the token was passed on");
        semaphore.release(Tokens::ONE);
        world.assert_ended(1);
    });
}

#[test]
fn task_for_which_a_token_is_granted_does_not_count_for_the_bound_of_the_queue() {
    model(1, || {
        let world = World::with(1, Some(1), NEVER_IDLES, None);
        world.threads.max_threads.store(0, Ordering::SeqCst);
        let is_admitted = || world.workers.submit(Priority::Normal, world.job()).is_ok();
        assert!(world.limiter.semaphore().try_acquire(Tokens::ONE).is_ok());
        assert!(is_admitted() && !is_admitted());
        world.limiter.semaphore().release(Tokens::ONE);
        assert!(is_admitted() && !is_admitted());
        world.assert_ended(2);
    });
}

#[test]
fn grant_withdrawn_from_a_task_makes_it_count_for_the_bound_of_the_queue() {
    model(1, || {
        let world = World::with(1, Some(2), NEVER_IDLES, None);
        world.threads.max_threads.store(0, Ordering::SeqCst);
        let semaphore = world.limiter.semaphore();
        assert!(semaphore.try_acquire(Tokens::ONE).is_ok());
        world.submit();
        let EnqueueOutcome::Queued(behind) = semaphore.enqueue(Tokens::ONE, Waker::noop()) else {
            panic!("the token is held")
        };
        semaphore.release(Tokens::ONE);
        world.withdraw_grant();
        let is_admitted = || world.workers.submit(Priority::Normal, world.job()).is_ok();
        assert!(is_admitted() && !is_admitted());
        assert!(semaphore.poll(&mut Some(behind), Waker::noop()).is_some());
        semaphore.release(Tokens::ONE);
        world.assert_ended(2);
    });
}

#[test]
fn worker_takes_a_free_token_while_the_waker_of_a_granted_one_is_on_its_way() {
    model(2, || {
        let world = World::new(3, KEEPS_THREAD);
        world.threads.max_threads.store(2, Ordering::SeqCst);
        let all = Tokens::new(3).unwrap();
        assert!(world.limiter.semaphore().try_acquire(all).is_ok());
        world.submit();
        let releasing = world.spawn(move |world| world.limiter.semaphore().release(all));
        world.submit();
        releasing.join().unwrap();
        world.assert_ended(2);
    });
}

#[test]
fn task_without_a_token_is_stalled_even_if_a_worker_searches() {
    for keep_alive in [KEEPS_THREAD, NEVER_IDLES, RUNS_ONCE] {
        model(2, move || {
            let world = World::new(1, keep_alive);
            world.run();
            world.limiter.semaphore().set_total(0);
            world.submit();
            assert!(world.workers.is_stalled());
            world.limiter.semaphore().set_total(1);
            world.assert_ended(2);
        });
    }
}
