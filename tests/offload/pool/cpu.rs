//! CPU pools, which run their tasks on threads of their own.

use std::collections::HashSet;
use std::error::Error;
use std::hint::black_box;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use onelane::offload::{OffloadErrorKind, Priority, Progress, TaskContext};
use onelane::{CpuPool, OffloadError};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, task};

use super::recurse;
use crate::runtimes::runtimes;
use support::waiting::{Gate, MS, PATIENCE, soon, spin_until, until};

fn pool(name: &'static str, threads: usize) -> CpuPool {
    CpuPool::builder(name).threads(threads).build()
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn thousands_of_queued_tasks_that_are_dropped_never_run() {
    let (pool, gate, ran) = (pool("one", 1), Gate::default(), Arc::new(AtomicUsize::new(0)));
    let running = gate.fill_cpu(&pool, 1).await;
    let count = || {
        let ran = ran.clone();
        move |_: &TaskContext| ran.fetch_add(1, Ordering::SeqCst)
    };
    let handles: Vec<_> = (0..2_000).map(|_| pool.task(count()).start().unwrap()).collect();
    let mut futures: Vec<_> = (0..2_000).map(|_| task::spawn(pool.task(count()).into_future())).collect();
    futures.iter_mut().for_each(|future| assert_pending!(future.poll()));
    assert_eq!(pool.stats().queued, 4_000);
    drop((handles, futures));
    assert_eq!(pool.stats().queued, 0);
    assert_eq!(Arc::strong_count(&ran), 1, "the closures were dropped here");
    gate.open();
    for handle in running {
        handle.await.unwrap();
    }
    assert_eq!(soon("the next task runs", pool.run(|| 7)).await, Ok(7));
    assert_eq!((ran.load(Ordering::SeqCst), pool.stats().started), (0, 2));
}

#[tokio::test]
async fn task_dropped_while_its_thread_starts_runs_once_or_never_and_its_token_is_released() {
    for _ in 0..200 {
        let (pool, ran) = (pool("one", 1), Arc::new(AtomicUsize::new(0)));
        let count = ran.clone();
        drop(pool.task(move |_| count.fetch_add(1, Ordering::SeqCst)).start().unwrap());
        assert_eq!(pool.stats().queued, 0);
        assert_eq!(soon("the next task runs", pool.run(|| 7)).await, Ok(7));
        until("the tokens are released", || pool.limiter().stats().borrowed == 0).await;
        assert_eq!(pool.stats().started, 1 + ran.load(Ordering::SeqCst) as u64);
    }
}

/// How often each task of a storm has run, and how many ran at a time.
struct Storm {
    pool: CpuPool,
    ran: Vec<AtomicUsize>,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Callers that have an outcome, or have dropped their task.
    done: AtomicUsize,
}

/// The result that the caller of a task has got, unless it has dropped the task.
type CallOutcome = (usize, Option<Result<usize, OffloadError>>);

impl Storm {
    fn run(&self, n: usize) -> usize {
        self.ran[n].fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let crunch = |n: usize| black_box((0..n % 300 * 20).fold(n, |sum, n| sum ^ n));
        // The thread waits for both halves.
        rayon::join(|| crunch(n), || crunch(n / 2));
        self.running.fetch_sub(1, Ordering::SeqCst);
        if panics(n) {
            // Bypasses the panic hook, which would print every panic.
            resume_unwind(Box::new("one in seven"));
        }
        n
    }

    async fn call(self: Arc<Self>, n: usize) -> CallOutcome {
        let storm = self.clone();
        let patience = Duration::from_micros(fastrand::u64(0..100_000));
        let priority = [Priority::Low, Priority::Normal, Priority::High][n / 4 % 3];
        let task = self.pool.task(move |_| storm.run(n)).priority(priority);
        let outcome = match n % 4 {
            0 => Some(task.await),
            1 => timeout(patience, task.into_future()).await.ok(),
            2 => Some(task.timeout(patience).await),
            _ => Some(task.max_wait(patience).await),
        };
        self.done.fetch_add(1, Ordering::SeqCst);
        (n, outcome)
    }

    async fn call_all(self: Arc<Self>, tasks: Range<usize>) -> Vec<CallOutcome> {
        let callers: JoinSet<CallOutcome> = tasks.map(|n| self.clone().call(n)).collect();
        callers.join_all().await
    }

    /// Without a runtime there is no clock, so all callers wait for their result.
    async fn call_without_timeouts(self: Arc<Self>, tasks: Range<usize>) -> Vec<CallOutcome> {
        let call = async |n| {
            let storm = self.clone();
            (n, Some(self.pool.run(move || storm.run(n)).await))
        };
        join_all(tasks.map(call)).await
    }
}

fn panics(n: usize) -> bool {
    n.is_multiple_of(7)
}

#[test]
fn storm_exceeds_no_limit_and_every_outcome_matches_what_has_run() {
    const TOKENS: usize = 2;
    let (pool, gate, [left, right]) = (pool("storm", 4), Gate::default(), runtimes());
    pool.limiter().set_total(TOKENS);
    let storm = Arc::new(Storm {
        pool: pool.clone(),
        ran: (0..5_000).map(|_| AtomicUsize::new(0)).collect(),
        running: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
    });
    let blocked = left.block_on(gate.fill_cpu(&pool, TOKENS));
    let (send, outcomes) = mpsc::channel();
    let (in_left, in_right, without) = (storm.clone(), storm.clone(), storm.clone());
    let all = left.spawn(in_left.call_all(0..2_000));
    thread::spawn({
        let send = send.clone();
        move || send.send(right.block_on(in_right.call_all(2_000..4_000)))
    });
    thread::spawn({
        let send = send.clone();
        move || send.send(block_on(without.call_without_timeouts(4_000..5_000)))
    });
    left.block_on(async {
        until("many callers have given up before a task could start", || storm.done.load(Ordering::SeqCst) >= 500)
            .await;
        gate.open();
        send.send(soon("all tasks end", all).await.unwrap()).unwrap();
    });
    let outcomes: Vec<CallOutcome> =
        (0..3).flat_map(|_| outcomes.recv_timeout(PATIENCE).expect("all callers end")).collect();
    left.block_on(until("all tokens are released", || pool.limiter().stats().borrowed == 0));
    let statistics = pool.stats();
    assert_eq!((statistics.running, statistics.abandoned, statistics.queued), (0, 0, 0));
    assert_eq!(storm.running.load(Ordering::SeqCst), 0);
    assert!(storm.most.load(Ordering::SeqCst) <= TOKENS, "{:?}", storm.most);
    assert_eq!(outcomes.len(), 5_000);
    for (n, outcome) in outcomes {
        let ran = storm.ran[n].load(Ordering::SeqCst);
        let is_consistent = match &outcome {
            None => ran <= 1,
            Some(Ok(value)) => ran == 1 && *value == n && !panics(n),
            Some(Err(error)) => match (error.kind(), error.progress()) {
                (OffloadErrorKind::Panicked, Progress::Stopped) => ran == 1 && panics(n),
                (OffloadErrorKind::Timeout, Progress::Running) => ran == 1,
                (OffloadErrorKind::Timeout | OffloadErrorKind::QueueTimeout, Progress::NotStarted) => ran == 0,
                _ => false,
            },
        };
        assert!(is_consistent, "task {n} ran {ran} times, and its caller got {outcome:?}");
    }
    for handle in blocked {
        assert_eq!(block_on(handle), Ok(()));
    }
}

#[tokio::test]
async fn higher_priorities_start_first_and_every_eighth_task_is_of_a_lower_one() {
    let (pool, gate) = (pool("one", 1), Gate::default());
    let blocked = gate.fill_cpu(&pool, 1).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let handles: Vec<_> = [(Priority::Normal, 2), (Priority::Low, 2), (Priority::High, 14)]
        .into_iter()
        .flat_map(|(priority, tasks)| (0..tasks).map(move |n| (priority, n)))
        .map(|(priority, n)| {
            let order = order.clone();
            pool.task(move |_| order.lock().unwrap().push((priority, n))).priority(priority).start().unwrap()
        })
        .collect();
    gate.open();
    for handle in handles.into_iter().chain(blocked) {
        soon("all tasks end", handle).await.unwrap();
    }
    let mut expected: Vec<_> = (0..14).map(|n| (Priority::High, n)).collect();
    // Every eighth task is the oldest of those below the highest priority that waits.
    expected.insert(7, (Priority::Normal, 0));
    expected.extend([(Priority::Low, 0), (Priority::Normal, 1), (Priority::Low, 1)]);
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test]
async fn tasks_beyond_the_bound_of_the_queue_are_refused_as_full() {
    let pool = CpuPool::builder("bounded").threads(2).max_queued(3).build();
    let gate = Gate::default();
    let running = gate.fill_cpu(&pool, 2).await;
    let mut queued: Vec<_> = (0..3).map(|n| pool.task(move |_| n).start().unwrap()).collect();
    for _ in 0..4 {
        let refused = soon("the result arrives", pool.run(|| panic!("the task must not run"))).await;
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.pool()), (OffloadErrorKind::Full, Some("bounded")));
        assert!(error.to_string().contains("and 3 tasks are queued"), "{error}");
    }
    drop(queued.remove(0));
    queued.push(pool.task(|_| 3).start().unwrap());
    assert!(pool.task(|_| ()).start().is_err(), "there was room for one task only");
    assert_eq!((pool.stats().queued, pool.stats().refused), (3, 5));
    gate.open();
    for (handle, n) in queued.into_iter().zip(1..) {
        assert_eq!(soon("the task runs", handle).await, Ok(n));
    }
    for handle in running {
        handle.await.unwrap();
    }
    assert_eq!(pool.stats().started, 5);
}

#[tokio::test(start_paused = true)]
async fn max_wait_of_the_pool_applies_unless_the_task_has_its_own() {
    let pool = CpuPool::builder("one").max_wait(MS * 50).build();
    pool.limiter().set_total(0);
    let task = || pool.task(|_| panic!("the task must not run"));
    for (task, limit) in [(task(), MS * 50), (task().max_wait(MS * 20), MS * 20), (task().max_wait(MS * 80), MS * 80)] {
        let result: Result<(), OffloadError> = soon("its queue timeout expires", task.into_future()).await;
        let error = result.unwrap_err();
        assert_eq!(error, OffloadErrorKind::QueueTimeout);
        let waited = error.waited().unwrap();
        assert_eq!(waited, limit);
    }
    assert_eq!(pool.stats().queued, 0);
    pool.limiter().set_total(1);
    // The paused clock advances while the thread starts.
    assert_eq!(pool.task(|_| 7).max_wait(Duration::MAX).await, Ok(7));
    assert_eq!(pool.stats().started, 1);
}

#[tokio::test(start_paused = true)]
async fn thread_that_starts_too_late_uses_the_clock_of_the_caller() {
    let pool = pool("one", 1);
    pool.limiter().set_total(0);
    let late = pool.task(|_| panic!("the task must not run")).max_wait(MS * 50).start().unwrap();
    advance(MS * 60).await;
    pool.limiter().set_total(1);
    // The handle is not polled meanwhile.
    spin_until(|| pool.limiter().stats().borrowed == 0 && pool.stats().queued == 0);
    let result: Result<(), OffloadError> = late.await;
    let error = result.unwrap_err();
    assert_eq!(error, OffloadErrorKind::QueueTimeout);
    let waited = error.waited().unwrap();
    assert_eq!((waited, pool.stats().started), (MS * 60, 0), "it was withdrawn");
}

#[tokio::test(start_paused = true)]
async fn paused_clock_stands_still_while_a_task_runs() {
    let (pool, start) = (pool("one", 1), Instant::now());
    let busy = || thread::sleep(MS * 50);
    assert_eq!(timeout(Duration::from_secs(100), pool.run(busy)).await, Ok(Ok(())));
    let four = join_all((0..4).map(|_| pool.run(busy)));
    assert_eq!(timeout(Duration::from_secs(100), four).await, Ok(vec![Ok(()); 4]));
    // The result of a started task, and a task that is dropped.
    let task = pool.task(|_| 7).start().unwrap();
    assert_eq!(timeout(Duration::from_secs(100), task).await, Ok(Ok(7)));
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(task::spawn(pool.run(busy)).poll());
    sleep(Duration::from_secs(100)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(100));
}

/// The task is not polled, or only before it had a token.
#[tokio::test(start_paused = true)]
async fn paused_clock_stands_still_for_tasks_that_nobody_polls() {
    let (pool, start, ended) = (pool("one", 1), Instant::now(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&ended);
    let busy = move |_: &TaskContext| {
        thread::sleep(MS * 50);
        count.fetch_add(1, Ordering::SeqCst);
    };
    let _kept = pool.task(busy.clone()).start().unwrap();
    sleep(MS).await;
    assert_eq!(ended.load(Ordering::SeqCst), 1, "started");
    pool.task(busy.clone()).start().unwrap().detach();
    sleep(MS).await;
    assert_eq!(ended.load(Ordering::SeqCst), 2, "detached");
    drop(pool.task(busy.clone()).shield().start().unwrap());
    sleep(MS).await;
    assert_eq!(ended.load(Ordering::SeqCst), 3, "shielded");

    pool.limiter().set_total(0);
    let mut waits = task::spawn(pool.task(busy).into_future());
    assert_pending!(waits.poll());
    sleep(Duration::from_secs(1)).await;
    pool.limiter().set_total(1);
    assert_pending!(waits.poll());
    sleep(MS).await;
    assert_eq!(ended.load(Ordering::SeqCst), 4, "it waited for a token");
    assert_eq!(waits.await, Ok(()));
    // Tasks of a few real milliseconds took no time.
    assert_eq!(start.elapsed(), Duration::from_secs(1) + MS * 4);
}

#[tokio::test(start_paused = true)]
async fn paused_clock_stands_still_while_a_task_runs_that_has_waited_for_a_token() {
    let (pool, start) = (pool("one", 1), Instant::now());
    let held = pool.limiter().try_acquire().unwrap();
    let mut waiting = task::spawn(pool.run(|| thread::sleep(MS * 50)));
    assert_pending!(waiting.poll());
    // The clock goes on while the task waits: its limits apply.
    sleep(MS * 10).await;
    assert_eq!(start.elapsed(), MS * 10);
    drop(held);
    assert_eq!(timeout(Duration::from_secs(100), waiting).await, Ok(Ok(())));
    assert_eq!(start.elapsed(), MS * 10);
}

#[test]
fn runtime_shutdown_neither_waits_for_tasks_nor_ends_those_whose_caller_remains() {
    for runtime in runtimes() {
        let (pool, gate, ran) = (pool("outlives", 1), Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let note = |what: &'static str| {
            let ran = ran.clone();
            move || ran.lock().unwrap().push(what)
        };
        runtime.block_on(async {
            let (task_pool, block, abandoned, never) = (pool.clone(), gate.block(), note("abandoned"), note("never"));
            tokio::spawn(async move {
                let running = task_pool.run(move || {
                    block();
                    abandoned();
                });
                tokio::join!(running, task_pool.run(never))
            });
            until("one task runs and the other is queued", || gate.inside() == 1 && pool.stats().queued == 1).await;
        });
        let entered = runtime.enter();
        let (kept, shielded) = (note("kept"), note("shielded"));
        let kept = pool.task(move |_| kept()).start().unwrap();
        drop(pool.task(move |_| shielded()).shield().start().unwrap());
        drop(entered);
        let (send, dropped) = mpsc::channel();
        thread::spawn(move || {
            drop(runtime);
            send.send(()).unwrap();
        });
        dropped.recv_timeout(PATIENCE).expect("the shutdown does not wait for running tasks");
        let statistics = pool.stats();
        assert_eq!((statistics.running, statistics.abandoned, statistics.queued), (1, 1, 2));
        gate.open();
        assert_eq!((block_on(kept), block_on(pool.run(|| 7))), (Ok(()), Ok(7)));
        assert_eq!(*ran.lock().unwrap(), ["abandoned", "kept", "shielded"]);
    }
}

#[tokio::test]
async fn panic_has_message_and_location_and_the_threads_continue() {
    let pool = pool("panics", 2);
    for _ in 0..10 {
        let line = line!() + 1;
        let result = soon("the result arrives", pool.run(|| -> u8 { panic!("broken {}", 7) })).await;
        let panic = result.unwrap_err().into_panic().unwrap();
        assert_eq!(panic.message(), "broken 7");
        assert_eq!(panic.location(), Some(&*format!("{}:{line}:69", file!())));
        // rayon passes the panic of a part on to the task's thread.
        let halves = pool.run(|| [0, 1].into_par_iter().for_each(|n| assert_eq!(n, 0, "a half")));
        let halves = soon("the result arrives", halves).await;
        let panic = halves.unwrap_err().into_panic().unwrap();
        assert!(panic.message().contains("a half"), "{panic}");
    }
    let both = Arc::new(Barrier::new(2));
    let meet = [0, 1].map(|_| {
        let both = both.clone();
        pool.task(move |_| both.wait().is_leader()).start().unwrap()
    });
    let leaders = soon("two threads meet", join_all(meet)).await;
    assert!(leaders == [Ok(true), Ok(false)] || leaders == [Ok(false), Ok(true)], "{leaders:?}");
}

#[tokio::test]
async fn closed_pool_refuses_queued_and_new_tasks_and_is_drained_when_the_running_ones_end() {
    let (pool, gate) = (pool("closes", 1), Gate::default());
    let running = gate.fill_cpu(&pool, 1).await;
    let task = || pool.task(|_| panic!("the task must not run"));
    let (queued, shielded) = (task().priority(Priority::High).start().unwrap(), task().shield().start().unwrap());
    let mut drained = task::spawn(pool.drained());
    assert_pending!(drained.poll());
    pool.close();
    for refused in [queued, shielded] {
        assert_eq!(soon("the result arrives", refused).await.unwrap_err(), OffloadErrorKind::Closed);
    }
    assert_eq!(soon("the result arrives", pool.clone().run(|| ())).await.unwrap_err(), OffloadErrorKind::Closed);
    assert_pending!(drained.poll());
    gate.open();
    soon("no task is running", drained).await.unwrap();
    assert_eq!((pool.stats().running, pool.stats().queued), (0, 0));
    for handle in running {
        assert_eq!(handle.await, Ok(()));
    }
}

#[tokio::test]
async fn pool_has_as_many_threads_and_tokens_as_the_machine_has_processors() {
    let (pool, gate) = (CpuPool::new("machine"), Gate::default());
    let processors = available_parallelism().unwrap().get();
    assert_eq!(pool.limiter().stats().total, processors);
    let running = gate.fill_cpu(&pool, processors).await;
    let queued = pool.task(|_| ()).start().unwrap();
    assert_eq!((pool.stats().running, pool.stats().queued), (processors, 1));
    gate.open();
    for handle in running.into_iter().chain([queued]) {
        soon("all tasks end", handle).await.unwrap();
    }
}

#[tokio::test]
async fn par_iter_stays_on_the_threads_of_rayon() {
    let (pool, names) = (pool("crunch", 2), |_| thread_name());
    let global = pool.run(move || (0..10_000).into_par_iter().map(names).collect::<HashSet<_>>()).await.unwrap();
    assert!(global.iter().all(|name| !name.starts_with("crunch-")), "{global:?}");
    let mine = ThreadPoolBuilder::new().num_threads(2).thread_name(|n| format!("mine-{n}")).build().unwrap();
    let installed = move || mine.install(|| (0..10_000).into_par_iter().map(names).collect::<HashSet<_>>());
    let installed = pool.run(installed).await.unwrap();
    assert!(installed.iter().all(|name| name.starts_with("mine-")), "{installed:?}");
}

#[tokio::test]
async fn parts_need_no_token() {
    let pool = pool("halves", 1);
    let two = Arc::new(ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let both = Arc::new(Barrier::new(2));
    // No other task may take a thread of rayon: then each half would wait forever.
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (two, both) = (two.clone(), both.clone());
            let halves = move |_: &TaskContext| {
                let meet = || {
                    both.wait();
                    thread::current().id()
                };
                let (left, right) = two.install(|| rayon::join(meet, meet));
                left != right
            };
            pool.task(halves).start().unwrap()
        })
        .collect();
    let results = soon("all tasks end", join_all(tasks)).await;
    assert!(results.iter().all(|result| *result == Ok(true)), "{results:?}");
}

#[tokio::test]
async fn tasks_have_the_stack_of_their_pool() {
    let pool = CpuPool::builder("deep").stack_size(256 << 20).build();
    assert_eq!(pool.run(|| recurse(100_000)).await, Ok(50_000));
}

#[tokio::test]
async fn pool_that_can_start_no_thread_reports_it_each_time_and_loses_no_token() {
    // No machine has enough memory for this stack.
    let pool = CpuPool::builder("no threads").stack_size(1 << 46).build();
    for refused in 1..=3 {
        let error = soon("the result arrives", pool.run(|| ())).await.unwrap_err();
        assert_eq!((error.kind(), error.pool()), (OffloadErrorKind::NoThread, Some("no threads")));
        assert!(error.source().is_some(), "the source is what the operating system says");
        assert_eq!((pool.stats().started, pool.stats().queued), (0, 0), "after {refused}");
    }
    assert_eq!(pool.limiter().stats().borrowed, 0);
}

#[tokio::test]
async fn name_of_a_pool_may_contain_what_a_thread_name_may_not() {
    assert_eq!(CpuPool::builder("nul\0l").build().run(thread_name).await.as_deref(), Ok("null-0"));
}

#[cfg(target_os = "linux")]
mod end_of_threads {
    use std::fs;

    use super::*;

    /// Counts the threads of the process whose name starts with `name`. The system keeps 15 bytes of a thread name.
    fn named(name: &str) -> usize {
        let comms = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path().join("comm"));
        // A thread may end between listing it and reading its name.
        comms.filter(|comm| fs::read_to_string(comm).is_ok_and(|comm| comm.starts_with(name))).count()
    }

    #[tokio::test]
    async fn threads_start_with_the_first_tasks_and_end_with_the_last_clone_of_the_pool() {
        let (pool, gate) = (pool("copies", 3), Gate::default());
        let (copy, sharer) = (pool.clone(), CpuPool::builder("sharer").limiter(pool.limiter().clone()).build());
        assert_eq!(named("copies-"), 0);
        let running = gate.fill_cpu(&pool, 3).await;
        until("the threads have their names", || named("copies-") == 3).await;
        gate.open();
        for handle in running {
            handle.await.unwrap();
        }
        drop(pool);
        assert_eq!(copy.run(thread_name).await.unwrap().split('-').next(), Some("copies"));
        assert_eq!(sharer.run(thread_name).await.as_deref(), Ok("sharer-0"));
        assert_eq!((named("copies-"), named("sharer-")), (3, 1), "idle threads stay");
        drop(copy);
        until("the threads have ended", || named("copies-") == 0).await;
        assert_eq!(named("sharer-"), 1);
    }

    #[tokio::test]
    async fn tasks_one_after_the_other_share_a_thread() {
        let pool = pool("numbers", 1);
        for _ in 0..100 {
            assert_eq!(pool.run(thread_name).await.as_deref(), Ok("numbers-0"));
        }
        assert_eq!(named("numbers-"), 1);
    }

    #[tokio::test]
    async fn threads_end_after_the_last_task_of_a_pool_that_is_dropped() {
        let (pool, gate) = (pool("leftover", 2), Gate::default());
        let running = gate.fill_cpu(&pool, 2).await;
        let queued = pool.task(|_| thread_name()).start().unwrap();
        drop(pool);
        gate.open();
        assert!(soon("the task runs", queued).await.unwrap().starts_with("leftover-"));
        drop(running);
        until("the threads have ended", || named("leftover-") == 0).await;
    }

    #[tokio::test]
    async fn threads_end_when_the_pool_is_dropped_by_its_own_task() {
        let pool = pool("selfdrop", 2);
        let last = pool.clone();
        let drops = pool.task(move |_| drop(last)).start().unwrap();
        drop(pool);
        assert_eq!(soon("the task ends", drops).await, Ok(()));
        until("the threads have ended", || named("selfdrop-") == 0).await;
    }
}
