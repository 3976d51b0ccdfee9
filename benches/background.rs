//! What a service host costs, beside raw tokens and the supervisors that people use today. Ids are `group/variant`; the
//! goals are ratios.
//!
//! `cargo bench --features full --bench background`
//!
//! `start_stop_10k` makes 10,000 services, waits until all of them run, stops them, and waits until all have ended. What
//! the variants promise differs:
//!
//! - `raw_tokens` is a floor: a task and a child token each, and nobody who would notice that one has failed.
//! - `task_supervisor` restarts what fails, and has no start phase, no order and no clean-up.
//! - `tokio_graceful_shutdown` restarts nothing, and has no start phase.
//!
//! Before the groups, it prints what memory a service takes and what CPU time 10,000 of them take while nothing happens.

#![allow(clippy::print_stdout, reason = "it prints what criterion does not measure")]
#![allow(unsafe_code, reason = "counting bytes takes an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use criterion::{Criterion, criterion_group, criterion_main};
use onelane::background::{ServiceHost, Supervision, service_fn};
use task_supervisor::{SupervisedTask, SupervisorBuilder, TaskResult, TaskStatus};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::sync::CancellationToken;

const MANY: usize = 10_000;
/// How long the idle services are watched, several times.
const IDLE: Duration = Duration::from_millis(1500);

/// How many run, and how many have ended.
#[derive(Default)]
struct Tally {
    running: AtomicUsize,
    ended: AtomicUsize,
}

impl Tally {
    /// The work of a service: none, until it is told to stop.
    async fn work(&self, told: impl Future<Output = ()>) {
        self.running.fetch_add(1, Ordering::Relaxed);
        told.await;
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    async fn wait_for_all(&self) {
        while self.running.load(Ordering::Relaxed) < MANY {
            tokio::task::yield_now().await;
        }
    }

    fn assert_all_ended(&self) {
        assert_eq!(self.running.load(Ordering::Relaxed), MANY);
        assert_eq!(self.ended.load(Ordering::Relaxed), MANY);
    }
}

/// Starts and stops many services. In between, `idle` is called.
trait Supervises {
    const NAME: &str;

    fn start_and_stop(tally: &Arc<Tally>, idle: impl AsyncFnOnce()) -> impl Future<Output = ()>;
}

struct Onelane;

/// The supervisor in a task of the runtime.
struct OnelaneWithoutThread;

struct RawTokens;

struct TaskSupervisor;

struct TokioGracefulShutdown;

async fn host(tally: &Arc<Tally>, supervision: Supervision, idle: impl AsyncFnOnce()) {
    let mut builder = ServiceHost::builder().supervision(supervision);
    for n in 0..MANY {
        let tally = Arc::clone(tally);
        builder = builder.service(service_fn(&n.to_string(), move |cx| {
            let tally = Arc::clone(&tally);
            async move {
                tally.work(cx.stopping()).await;
                Ok(())
            }
        }));
    }
    let host = builder.build().expect("the names differ");
    host.start().await.expect("nothing fails");
    tally.wait_for_all().await;
    idle().await;
    let report = host.shutdown().await.expect("it was started");
    assert!(report.is_clean());
}

impl Supervises for Onelane {
    const NAME: &str = "onelane";

    async fn start_and_stop(tally: &Arc<Tally>, idle: impl AsyncFnOnce()) {
        host(tally, Supervision::OwnThread, idle).await;
    }
}

impl Supervises for OnelaneWithoutThread {
    const NAME: &str = "onelane_without_thread";

    async fn start_and_stop(tally: &Arc<Tally>, idle: impl AsyncFnOnce()) {
        host(tally, Supervision::ServerRuntime, idle).await;
    }
}

impl Supervises for RawTokens {
    const NAME: &str = "raw_tokens";

    async fn start_and_stop(tally: &Arc<Tally>, idle: impl AsyncFnOnce()) {
        let parent = CancellationToken::new();
        let spawn = |_| {
            let (token, tally) = (parent.child_token(), Arc::clone(tally));
            tokio::spawn(async move { tally.work(token.cancelled()).await })
        };
        let tasks: Vec<JoinHandle<()>> = (0..MANY).map(spawn).collect();
        tally.wait_for_all().await;
        idle().await;
        parent.cancel();
        for task in tasks {
            task.await.expect("nothing panics");
        }
    }
}

#[derive(Clone)]
struct Task(Arc<Tally>);

impl SupervisedTask for Task {
    async fn run(self, token: CancellationToken) -> TaskResult {
        self.0.work(token.cancelled()).await;
        Ok(())
    }
}

impl Supervises for TaskSupervisor {
    const NAME: &str = "task_supervisor";

    async fn start_and_stop(tally: &Arc<Tally>, idle: impl AsyncFnOnce()) {
        let mut builder = SupervisorBuilder::new();
        for n in 0..MANY {
            builder = builder.with_task(&n.to_string(), Task(Arc::clone(tally)));
        }
        let handle = builder.spawn();
        tally.wait_for_all().await;
        idle().await;
        handle.shutdown().await.expect("nothing is dead");
    }
}

impl Supervises for TokioGracefulShutdown {
    const NAME: &str = "tokio_graceful_shutdown";

    async fn start_and_stop(tally: &Arc<Tally>, idle: impl AsyncFnOnce()) {
        let token = CancellationToken::new();
        let all = Arc::clone(tally);
        let spawn_all = async move |root: &mut SubsystemHandle| {
            for n in 0..MANY {
                let tally = Arc::clone(&all);
                let subsystem = async move |subsystem: &mut SubsystemHandle| {
                    tally.work(subsystem.on_shutdown_requested()).await;
                    Ok::<(), Infallible>(())
                };
                root.start(SubsystemBuilder::new(n.to_string(), subsystem));
            }
        };
        let toplevel =
            Toplevel::<Box<dyn std::error::Error + Send + Sync>>::new_with_shutdown_token(spawn_all, token.clone());
        let stopped = tokio::spawn(toplevel.handle_shutdown_requests(Duration::from_secs(60)));
        tally.wait_for_all().await;
        idle().await;
        token.cancel();
        stopped.await.expect("nothing panics").expect("nothing fails");
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("there are threads")
}

fn start_stop<S: Supervises>(runtime: &Runtime) {
    let tally = Arc::new(Tally::default());
    runtime.block_on(S::start_and_stop(&tally, async || {}));
    tally.assert_all_ended();
}

fn start_stop_10k(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("start_stop_10k");
    group.sample_size(20);
    group.bench_function(Onelane::NAME, |b| b.iter(|| start_stop::<Onelane>(&runtime)));
    group.bench_function(OnelaneWithoutThread::NAME, |b| b.iter(|| start_stop::<OnelaneWithoutThread>(&runtime)));
    group.bench_function(RawTokens::NAME, |b| b.iter(|| start_stop::<RawTokens>(&runtime)));
    group.bench_function(TaskSupervisor::NAME, |b| b.iter(|| start_stop::<TaskSupervisor>(&runtime)));
    group.bench_function(TokioGracefulShutdown::NAME, |b| b.iter(|| start_stop::<TokioGracefulShutdown>(&runtime)));
    group.finish();
}

fn status_1000(c: &mut Criterion) {
    let runtime = runtime();
    let mut builder = ServiceHost::builder();
    for n in 0..1_000 {
        builder = builder.service(service_fn(&n.to_string(), |cx| async move {
            cx.stopping().await;
            Ok(())
        }));
    }
    let host = builder.build().expect("the names differ");
    runtime.block_on(host.start()).expect("nothing fails");
    let mut group = c.benchmark_group("status_1000");
    group.bench_function("onelane", |b| {
        b.iter(|| {
            let status = host.status();
            assert!(status.service("999").is_some_and(|service| service.is_ready()));
            status
        });
    });
    group.bench_function("is_ready", |b| b.iter(|| assert!(host.status().is_ready())));
    let report = runtime.block_on(host.shutdown()).expect("it was started");
    assert!(report.is_clean());

    let tally = Arc::new(Tally::default());
    let tasks = runtime.block_on(async {
        let add = |builder: SupervisorBuilder, n: usize| builder.with_task(&n.to_string(), Task(Arc::clone(&tally)));
        (0..1_000).fold(SupervisorBuilder::new(), add).spawn()
    });
    // It has no snapshot: it is asked by a message, for all, or for one.
    group.bench_function("task_supervisor", |b| {
        b.to_async(&runtime).iter(async || {
            let statuses = tasks.task_statuses().await.expect("it runs");
            assert_eq!(statuses.get("999"), Some(&TaskStatus::Running));
            statuses
        });
    });
    group.bench_function("task_supervisor_one", |b| {
        b.to_async(&runtime).iter(async || {
            assert_eq!(tasks.task_status("999").await.expect("it runs"), TaskStatus::Running);
        });
    });
    runtime.block_on(tasks.shutdown()).expect("nothing is dead");
    group.finish();
}

/// What can't be a group: bytes, and CPU time while nothing happens.
fn weigh<S: Supervises>() {
    let runtime = runtime();
    let tally = Arc::new(Tally::default());
    // A thread of the variant before may still be at its end.
    thread::sleep(Duration::from_millis(200));
    let before = ALLOCATED.load(Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::Relaxed);
    let weighed = async || {
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        IS_COUNTING.store(false, Ordering::Relaxed);
        // What has just started settles first. Then the quietest of several: others use this machine, too.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut least = f64::MAX;
        for _ in 0..5 {
            let (cpu, start) = (cpu_time(), Instant::now());
            tokio::time::sleep(IDLE).await;
            let used = (cpu_time() - cpu).as_secs_f64() * 1e3 / start.elapsed().as_secs_f64();
            least = least.min(used);
        }
        println!(
            "{}: {} bytes a service, {least:.2} ms of CPU a second for {MANY} idle ones",
            S::NAME,
            bytes / MANY as isize
        );
    };
    runtime.block_on(S::start_and_stop(&tally, weighed));
    tally.assert_all_ended();
}

/// The CPU time that this process has had, in all its threads.
fn cpu_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("it is Linux");
    let nanos = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let statistics = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.filter_map(nanos).sum())
}

fn weights(c: &mut Criterion) {
    // `cargo test --benches` asks whether it runs, not what it weighs.
    if std::env::args().any(|argument| argument == "--bench") {
        weigh::<Onelane>();
        weigh::<OnelaneWithoutThread>();
        weigh::<RawTokens>();
        weigh::<TaskSupervisor>();
        weigh::<TokioGracefulShutdown>();
    }
    let _ = c;
}

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);
/// Not in the groups, where it would cost time.
static IS_COUNTING: AtomicBool = AtomicBool::new(false);

fn count(bytes: isize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Counts the bytes that are allocated.
struct Counting;

// SAFETY: it hands all on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

criterion_group!(benches, weights, start_stop_10k, status_1000);
criterion_main!(benches);
