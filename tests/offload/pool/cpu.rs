//! Pools that compute: what holds for rayon's threads, which a pool gives back as soon as there is no task.

use std::collections::HashSet;
use std::hint::black_box;
use std::num::NonZero;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use onelane::offload::{Priority, TaskContext};
use onelane::{CpuPool, OffloadError};
use rayon::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{advance, timeout};
use tokio_test::{assert_pending, task};

use crate::pool::gate::runtimes;
use support::waiting::{Gate, MS, PATIENCE, soon, spin_until, until};

fn pool(name: &'static str, threads: usize) -> CpuPool {
    CpuPool::builder(name).threads(NonZero::new(threads).unwrap()).build().unwrap()
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn thousands_that_wait_and_are_dropped_never_run() {
    let (pool, gate, ran) = (pool("one", 1), Gate::default(), Arc::new(AtomicUsize::new(0)));
    let running = gate.fill_cpu(&pool, 1).await;
    let count = || {
        let ran = ran.clone();
        move |_: &TaskContext| ran.fetch_add(1, Ordering::SeqCst)
    };
    let handles: Vec<_> = (0..2_000).map(|_| pool.task(count()).start().unwrap()).collect();
    let mut futures: Vec<_> = (0..2_000).map(|_| task::spawn(pool.task(count()).into_future())).collect();
    futures.iter_mut().for_each(|future| assert_pending!(future.poll()));
    assert_eq!(pool.statistics().queued, 4_000);
    drop((handles, futures));
    assert_eq!(pool.statistics().queued, 0);
    assert_eq!(Arc::strong_count(&ran), 1, "what their closures held was dropped here");
    gate.open();
    for handle in running {
        handle.await.unwrap();
    }
    assert_eq!(soon("the next one runs", pool.run(|| 7)).await, Ok(7));
    assert_eq!((ran.load(Ordering::SeqCst), pool.statistics().started), (0, 2));
}

#[tokio::test]
async fn task_that_is_dropped_while_its_thread_comes_never_runs_and_its_token_comes_back() {
    let (pool, gate) = (pool("one", 1), Gate::default());
    // What a task leaves to rayon holds the thread, and no token.
    let block = gate.block();
    soon("it ends", pool.run(|| rayon::spawn(block))).await.unwrap();
    until("it is blocked", || gate.inside() == 1).await;
    let comes = pool.task(|_| panic!("it runs")).start().unwrap();
    assert_eq!((pool.statistics().queued, pool.limiter().statistics().borrowed), (1, 1));
    drop(comes);
    assert_eq!(pool.statistics().queued, 0);
    gate.open();
    until("its token is back", || pool.limiter().statistics().borrowed == 0).await;
    assert_eq!(pool.statistics().started, 1);
    assert_eq!(soon("the next one runs", pool.run(|| 7)).await, Ok(7));
}

/// How often each task of a storm ran, and how many did at a time.
struct Storm {
    pool: CpuPool,
    ran: Vec<AtomicUsize>,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Callers that were told, or have left.
    over: AtomicUsize,
}

/// What the caller of a task was told, unless it has left.
type Told = (usize, Option<Result<usize, OffloadError>>);

impl Storm {
    fn run(&self, n: usize) -> usize {
        self.ran[n].fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let crunch = |n: usize| black_box((0..n % 300 * 20).fold(n, |sum, n| sum ^ n));
        // A thread that waits for the other half works for others meanwhile.
        rayon::join(|| crunch(n), || crunch(n / 2));
        self.running.fetch_sub(1, Ordering::SeqCst);
        if panics(n) {
            // Without the hook, which would print each of them.
            resume_unwind(Box::new("one in seven"));
        }
        n
    }

    async fn call(self: Arc<Self>, n: usize) -> Told {
        let there = self.clone();
        let patience = Duration::from_micros(fastrand::u64(0..100_000));
        let priority = [Priority::Low, Priority::Normal, Priority::High][n / 4 % 3];
        let task = self.pool.task(move |_| there.run(n)).priority(priority);
        let told = match n % 4 {
            0 => Some(task.await),
            1 => timeout(patience, task.into_future()).await.ok(),
            2 => Some(task.timeout(patience).await),
            _ => Some(task.queue_timeout(patience).await),
        };
        self.over.fetch_add(1, Ordering::SeqCst);
        (n, told)
    }

    async fn call_all(self: Arc<Self>, tasks: Range<usize>) -> Vec<Told> {
        let callers: JoinSet<Told> = tasks.map(|n| self.clone().call(n)).collect();
        callers.join_all().await
    }

    /// Where there is no runtime there is no clock either: all of them stay.
    async fn call_and_stay(self: Arc<Self>, tasks: Range<usize>) -> Vec<Told> {
        let call = async |n| {
            let there = self.clone();
            (n, Some(self.pool.run(move || there.run(n)).await))
        };
        join_all(tasks.map(call)).await
    }
}

fn panics(n: usize) -> bool {
    n.is_multiple_of(7)
}

#[test]
fn storm_never_lets_more_run_than_may_and_all_who_stay_are_told_the_truth() {
    const TOKENS: usize = 2;
    let (pool, gate, [left, right]) = (pool("storm", 4), Gate::default(), runtimes());
    // Fewer than threads: with as many, no others could run.
    pool.limiter().set_total(TOKENS);
    let storm = Arc::new(Storm {
        pool: pool.clone(),
        ran: (0..5_000).map(|_| AtomicUsize::new(0)).collect(),
        running: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        over: AtomicUsize::new(0),
    });
    let blocked = left.block_on(gate.fill_cpu(&pool, TOKENS));
    let (tell, told) = mpsc::channel();
    let (of_left, of_right, without) = (storm.clone(), storm.clone(), storm.clone());
    let all = left.spawn(of_left.call_all(0..2_000));
    thread::spawn({
        let tell = tell.clone();
        move || tell.send(right.block_on(of_right.call_all(2_000..4_000)))
    });
    thread::spawn({
        let tell = tell.clone();
        move || tell.send(block_on(without.call_and_stay(4_000..5_000)))
    });
    left.block_on(async {
        until("many have left before anything began", || storm.over.load(Ordering::SeqCst) >= 500).await;
        gate.open();
        tell.send(soon("all end", all).await.unwrap()).unwrap();
    });
    let told: Vec<Told> = (0..3).flat_map(|_| told.recv_timeout(PATIENCE).expect("all end")).collect();
    left.block_on(until("all tokens are back", || pool.limiter().statistics().borrowed == 0));
    let statistics = pool.statistics();
    assert_eq!((statistics.running, statistics.abandoned, statistics.queued), (0, 0, 0));
    assert_eq!(storm.running.load(Ordering::SeqCst), 0);
    assert!(storm.most.load(Ordering::SeqCst) <= TOKENS, "{:?}", storm.most);
    assert_eq!(told.len(), 5_000);
    for (n, told) in told {
        let ran = storm.ran[n].load(Ordering::SeqCst);
        let is_true = match &told {
            None => ran <= 1,
            Some(Ok(value)) => ran == 1 && *value == n && !panics(n),
            Some(Err(OffloadError::Panicked(_))) => ran == 1 && panics(n),
            Some(Err(OffloadError::Timeout { still_running, .. })) => ran == usize::from(*still_running),
            Some(Err(OffloadError::QueueTimeout { .. })) => ran == 0,
            Some(Err(_)) => false,
        };
        assert!(is_true, "{n} ran {ran} times, and its caller was told {told:?}");
    }
    for handle in blocked {
        assert_eq!(block_on(handle), Ok(()));
    }
}

#[tokio::test]
async fn higher_priorities_begin_first_and_one_in_eight_is_of_a_lower_one() {
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
        soon("all end", handle).await.unwrap();
    }
    let mut expected: Vec<_> = (0..14).map(|n| (Priority::High, n)).collect();
    // Each eighth is the one that has waited longest of those below the highest that waits.
    expected.insert(7, (Priority::Normal, 0));
    expected.extend([(Priority::Low, 0), (Priority::Normal, 1), (Priority::Low, 1)]);
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test]
async fn as_many_wait_as_may_and_the_others_are_told_that_it_is_full() {
    let pool = CpuPool::builder("bounded").threads(NonZero::new(2).unwrap()).max_queued(3).build().unwrap();
    let gate = Gate::default();
    let running = gate.fill_cpu(&pool, 2).await;
    let mut waiting: Vec<_> = (0..3).map(|n| pool.task(move |_| n).start().unwrap()).collect();
    for _ in 0..4 {
        let refused = soon("it is told", pool.run(|| panic!("it runs"))).await;
        assert!(matches!(refused, Err::<(), _>(OffloadError::Full { pool: "bounded", queued: 3, .. })), "{refused:?}");
    }
    drop(waiting.remove(0));
    waiting.push(pool.task(|_| 3).start().unwrap());
    assert!(pool.task(|_| ()).start().is_err(), "there was room for one");
    assert_eq!((pool.statistics().queued, pool.statistics().refused), (3, 5));
    gate.open();
    for (handle, n) in waiting.into_iter().zip(1..) {
        assert_eq!(soon("it runs", handle).await, Ok(n));
    }
    for handle in running {
        handle.await.unwrap();
    }
    assert_eq!(pool.statistics().started, 5);
}

#[tokio::test(start_paused = true)]
async fn queue_timeout_is_that_of_the_pool_unless_the_task_has_its_own() {
    let pool = CpuPool::builder("one").queue_timeout(MS * 50).build().unwrap();
    pool.limiter().set_total(0);
    let task = || pool.task(|_| panic!("it runs"));
    for (task, limit) in
        [(task(), MS * 50), (task().queue_timeout(MS * 20), MS * 20), (task().queue_timeout(MS * 80), MS * 80)]
    {
        let result: Result<(), OffloadError> = soon("its time is over", task.into_future()).await;
        let Err(OffloadError::QueueTimeout { waited, .. }) = result else { panic!("{result:?}") };
        assert_eq!(waited, limit);
    }
    assert_eq!(pool.statistics().queued, 0);
    pool.limiter().set_total(1);
    // The clock does not wait for its thread.
    assert_eq!(pool.task(|_| 7).queue_timeout(Duration::MAX).await, Ok(7));
    assert_eq!(pool.statistics().started, 1);
}

#[tokio::test(start_paused = true)]
async fn thread_that_comes_too_late_goes_by_the_clock_of_the_caller() {
    let pool = pool("one", 1);
    pool.limiter().set_total(0);
    let late = pool.task(|_| panic!("it runs")).queue_timeout(MS * 50).start().unwrap();
    advance(MS * 60).await;
    pool.limiter().set_total(1);
    // Nobody polls it meanwhile.
    spin_until(|| pool.limiter().statistics().borrowed == 0 && pool.statistics().queued == 0);
    let result: Result<(), OffloadError> = late.await;
    let Err(OffloadError::QueueTimeout { waited, .. }) = result else { panic!("{result:?}") };
    assert_eq!((waited, pool.statistics().started), (MS * 60, 1));
}

#[test]
fn runtime_that_shuts_down_waits_for_no_task_and_ends_none_whose_caller_is_left() {
    for runtime in runtimes() {
        let (pool, gate, ran) = (pool("outlives", 1), Gate::default(), Arc::new(Mutex::new(Vec::new())));
        let note = |what: &'static str| {
            let ran = ran.clone();
            move || ran.lock().unwrap().push(what)
        };
        runtime.block_on(async {
            let (there, block, abandoned, never) = (pool.clone(), gate.block(), note("abandoned"), note("never"));
            tokio::spawn(async move {
                let running = there.run(move || {
                    block();
                    abandoned();
                });
                tokio::join!(running, there.run(never))
            });
            until("one runs and the other waits", || gate.inside() == 1 && pool.statistics().queued == 1).await;
        });
        let entered = runtime.enter();
        let (kept, shielded) = (note("kept"), note("shielded"));
        let kept = pool.task(move |_| kept()).start().unwrap();
        drop(pool.task(move |_| shielded()).shield().start().unwrap());
        drop(entered);
        let (tell, is_gone) = mpsc::channel();
        thread::spawn(move || {
            drop(runtime);
            tell.send(()).unwrap();
        });
        is_gone.recv_timeout(PATIENCE).expect("it does not wait for what runs");
        let statistics = pool.statistics();
        assert_eq!((statistics.running, statistics.abandoned, statistics.queued), (1, 1, 2));
        gate.open();
        assert_eq!((block_on(kept), block_on(pool.run(|| 7))), (Ok(()), Ok(7)));
        assert_eq!(*ran.lock().unwrap(), ["abandoned", "kept", "shielded"]);
    }
}

#[tokio::test]
async fn panic_comes_with_message_and_place_and_the_threads_go_on() {
    let pool = pool("panics", 2);
    for _ in 0..10 {
        let line = line!() + 1;
        let result = soon("it is told", pool.run(|| -> u8 { panic!("broken {}", 7) })).await;
        let Err(OffloadError::Panicked(panic)) = result else { panic!("it panicked: {result:?}") };
        assert_eq!(&*panic.message, "broken 7");
        assert_eq!(panic.location.as_deref(), Some(&*format!("{}:{line}:61", file!())));
        // On whichever of the two threads: rayon takes it from there to the task's.
        let halves = pool.run(|| [0, 1].into_par_iter().for_each(|n| assert_eq!(n, 0, "a half")));
        let halves = soon("it is told", halves).await;
        let Err(OffloadError::Panicked(panic)) = halves else { panic!("it panicked: {halves:?}") };
        assert!(panic.message.contains("a half"), "{panic}");
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
async fn closed_pool_refuses_who_waits_and_who_comes_and_is_drained_when_what_runs_has_ended() {
    let (pool, gate) = (pool("closes", 1), Gate::default());
    let running = gate.fill_cpu(&pool, 1).await;
    let task = || pool.task(|_| panic!("it runs"));
    let (waits, shielded) = (task().priority(Priority::High).start().unwrap(), task().shield().start().unwrap());
    let mut drained = task::spawn(pool.drained());
    assert_pending!(drained.poll());
    pool.close();
    for refused in [waits, shielded] {
        assert_eq!(soon("it is told", refused).await, Err::<(), _>(OffloadError::Closed));
    }
    assert_eq!(soon("it is told", pool.clone().run(|| ())).await, Err(OffloadError::Closed));
    assert_pending!(drained.poll());
    gate.open();
    soon("nothing runs any more", drained).await;
    assert_eq!((pool.statistics().running, pool.statistics().queued), (0, 0));
    for handle in running {
        assert_eq!(handle.await, Ok(()));
    }
}

#[tokio::test]
async fn pool_has_as_many_threads_and_tokens_as_the_machine_has_processors() {
    let pool = CpuPool::new("machine").unwrap();
    let processors = available_parallelism().unwrap().get();
    assert_eq!(pool.limiter().statistics().total, processors);
    assert_eq!(pool.run(rayon::current_num_threads).await, Ok(processors));
}

#[tokio::test]
async fn par_iter_stays_in_its_pool() {
    let pool = pool("crunch", 2);
    let names = pool.run(|| (0..10_000).into_par_iter().map(|_| thread_name()).collect::<HashSet<_>>()).await.unwrap();
    assert!(names.iter().all(|name| name == "crunch-0" || name == "crunch-1"), "{names:?}");
}

#[tokio::test]
async fn par_iter_has_the_threads_for_itself_for_which_there_is_no_token() {
    let pool = pool("halves", 2);
    pool.limiter().set_total(1);
    let both = Arc::new(Barrier::new(2));
    // Nothing of the others may take the second thread: each half would wait for ever.
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let both = both.clone();
            let halves = move |_: &TaskContext| {
                let meet = || {
                    both.wait();
                    thread_name()
                };
                let (left, right) = rayon::join(meet, meet);
                left != right
            };
            pool.task(halves).start().unwrap()
        })
        .collect();
    let results = soon("all end", join_all(tasks)).await;
    assert!(results.iter().all(|result| *result == Ok(true)), "{results:?}");
}

#[cfg(target_os = "linux")]
mod end_of_threads {
    use std::fs;

    use super::*;

    /// How many threads of the process have a name that begins so. The system keeps 15 bytes of one.
    fn named(name: &str) -> usize {
        let comms = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path().join("comm"));
        // A thread may end between the two looks.
        comms.filter(|comm| fs::read_to_string(comm).is_ok_and(|comm| comm.starts_with(name))).count()
    }

    #[tokio::test]
    async fn threads_end_with_the_last_copy_of_the_pool() {
        let pool = pool("copies", 3);
        let (copy, sharer) = (pool.clone(), CpuPool::builder("sharer").share_threads(&pool).build().unwrap());
        until("they have their names", || named("copies-") == 3).await;
        drop((pool, copy));
        assert_eq!(sharer.run(thread_name).await.unwrap().split('-').next(), Some("copies"));
        assert_eq!((named("copies-"), named("sharer")), (3, 0));
        drop(sharer);
        until("they have ended", || named("copies-") == 0).await;
    }

    #[tokio::test]
    async fn threads_end_after_the_last_task_of_a_pool_that_is_dropped() {
        let (pool, gate) = (pool("leftover", 2), Gate::default());
        let running = gate.fill_cpu(&pool, 2).await;
        let waits = pool.task(|_| thread_name()).start().unwrap();
        drop(pool);
        gate.open();
        assert!(soon("it runs", waits).await.unwrap().starts_with("leftover-"));
        drop(running);
        until("they have ended", || named("leftover-") == 0).await;
    }

    #[tokio::test]
    async fn threads_end_with_a_pool_that_its_own_task_drops() {
        let pool = pool("suicide", 2);
        let there = pool.clone();
        let drops = pool.task(move |_| drop(there)).start().unwrap();
        drop(pool);
        assert_eq!(soon("it ends", drops).await, Ok(()));
        until("they have ended", || named("suicide-") == 0).await;
    }
}
