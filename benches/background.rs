//! The cost of a service host, next to raw tokens and to other supervisors for tokio. Ids are `group/variant`; the
//! goals are ratios.
//!
//! `cargo bench --features full --bench background`
//!
//! `start_stop_100` and `start_stop_10k` create that many services, wait until all of them run, stop them, and wait
//! until all have ended. The variants differ in what they guarantee:
//!
//! - `raw_tokens` is the floor: one task and one child token for each service, and no detection of failures.
//! - `task_supervisor` restarts failed tasks. It has no start phase, no order and no clean-up.
//! - `tokio_graceful_shutdown` restarts nothing, and has no start phase.
//!
//! Before the groups, the bench prints the memory that a service takes, and the CPU time that 10,000 idle services
//! take.

#![allow(clippy::print_stdout, reason = "the bench prints figures that criterion does not measure")]
#![allow(unsafe_code, reason = "an allocator is needed to count bytes")]

mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use onelane::background::{ServiceHost, Supervision, service_fn};
use task_supervisor::{SupervisedTask, SupervisorBuilder, TaskResult, TaskStatus};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::sync::CancellationToken;

use harness::{cpu_time, is_measured};

/// The number of services that are weighed.
const WEIGHED: usize = 10_000;
/// How long the CPU time of the idle services is measured, several times.
const IDLE: Duration = Duration::from_millis(1500);

/// Counts the services that run, and those that have ended.
struct Progress {
    count: usize,
    running: AtomicUsize,
    ended: AtomicUsize,
}

impl Progress {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { count, running: AtomicUsize::new(0), ended: AtomicUsize::new(0) })
    }

    /// Does the work of a service, which is to wait until it has to stop.
    async fn work(&self, stopping: impl Future<Output = ()>) {
        self.running.fetch_add(1, Ordering::Relaxed);
        stopping.await;
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    async fn all_running(&self) {
        while self.running.load(Ordering::Relaxed) < self.count {
            tokio::task::yield_now().await;
        }
    }

    fn assert_all_ended(&self) {
        assert_eq!(self.running.load(Ordering::Relaxed), self.count);
        assert_eq!(self.ended.load(Ordering::Relaxed), self.count);
    }
}

/// Starts and stops services. `idle` is called in between.
trait Supervises {
    const NAME: &str;

    fn start_and_stop(progress: &Arc<Progress>, idle: impl AsyncFnOnce()) -> impl Future<Output = ()>;
}

struct Onelane;

/// Runs the supervisor in a task of the runtime.
struct OnelaneWithoutThread;

struct RawTokens;

struct TaskSupervisor;

struct TokioGracefulShutdown;

async fn host(progress: &Arc<Progress>, supervision: Supervision, idle: impl AsyncFnOnce()) {
    let mut builder = ServiceHost::builder().supervision(supervision);
    for n in 0..progress.count {
        let progress = Arc::clone(progress);
        builder = builder.service(service_fn(&n.to_string(), move |cx| {
            let progress = Arc::clone(&progress);
            async move {
                progress.work(cx.stopping()).await;
                Ok(())
            }
        }));
    }
    let host = builder.build().expect("the names differ");
    host.start().await.expect("nothing fails");
    progress.all_running().await;
    idle().await;
    let report = host.shutdown().await.expect("the host was started");
    assert!(report.is_clean());
}

impl Supervises for Onelane {
    const NAME: &str = "onelane";

    async fn start_and_stop(progress: &Arc<Progress>, idle: impl AsyncFnOnce()) {
        host(progress, Supervision::OwnThread, idle).await;
    }
}

impl Supervises for OnelaneWithoutThread {
    const NAME: &str = "onelane_without_thread";

    async fn start_and_stop(progress: &Arc<Progress>, idle: impl AsyncFnOnce()) {
        host(progress, Supervision::ServerRuntime, idle).await;
    }
}

impl Supervises for RawTokens {
    const NAME: &str = "raw_tokens";

    async fn start_and_stop(progress: &Arc<Progress>, idle: impl AsyncFnOnce()) {
        let parent = CancellationToken::new();
        let spawn = |_| {
            let (token, progress) = (parent.child_token(), Arc::clone(progress));
            tokio::spawn(async move { progress.work(token.cancelled()).await })
        };
        let tasks: Vec<JoinHandle<()>> = (0..progress.count).map(spawn).collect();
        progress.all_running().await;
        idle().await;
        parent.cancel();
        for task in tasks {
            task.await.expect("nothing panics");
        }
    }
}

#[derive(Clone)]
struct Task(Arc<Progress>);

impl SupervisedTask for Task {
    async fn run(self, token: CancellationToken) -> TaskResult {
        self.0.work(token.cancelled()).await;
        Ok(())
    }
}

impl Supervises for TaskSupervisor {
    const NAME: &str = "task_supervisor";

    async fn start_and_stop(progress: &Arc<Progress>, idle: impl AsyncFnOnce()) {
        let mut builder = SupervisorBuilder::new();
        for n in 0..progress.count {
            builder = builder.with_task(&n.to_string(), Task(Arc::clone(progress)));
        }
        let handle = builder.spawn();
        progress.all_running().await;
        idle().await;
        handle.shutdown().await.expect("nothing is dead");
    }
}

impl Supervises for TokioGracefulShutdown {
    const NAME: &str = "tokio_graceful_shutdown";

    async fn start_and_stop(progress: &Arc<Progress>, idle: impl AsyncFnOnce()) {
        let token = CancellationToken::new();
        let all = Arc::clone(progress);
        let spawn_all = async move |root: &mut SubsystemHandle| {
            for n in 0..all.count {
                let progress = Arc::clone(&all);
                let subsystem = async move |subsystem: &mut SubsystemHandle| {
                    progress.work(subsystem.on_shutdown_requested()).await;
                    Ok::<(), Infallible>(())
                };
                root.start(SubsystemBuilder::new(n.to_string(), subsystem));
            }
        };
        let toplevel =
            Toplevel::<Box<dyn std::error::Error + Send + Sync>>::new_with_shutdown_token(spawn_all, token.clone());
        let stopped = tokio::spawn(toplevel.handle_shutdown_requests(Duration::from_secs(60)));
        progress.all_running().await;
        idle().await;
        token.cancel();
        stopped.await.expect("nothing panics").expect("nothing fails");
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("there are threads")
}

fn start_stop<S: Supervises>(runtime: &Runtime, count: usize) {
    let progress = Progress::new(count);
    runtime.block_on(S::start_and_stop(&progress, async || {}));
    progress.assert_all_ended();
}

fn start_stop_group(c: &mut Criterion, name: &str, count: usize) {
    let runtime = runtime();
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    group.bench_function(Onelane::NAME, |b| b.iter(|| start_stop::<Onelane>(&runtime, count)));
    group.bench_function(OnelaneWithoutThread::NAME, |b| {
        b.iter(|| start_stop::<OnelaneWithoutThread>(&runtime, count));
    });
    group.bench_function(RawTokens::NAME, |b| b.iter(|| start_stop::<RawTokens>(&runtime, count)));
    group.bench_function(TaskSupervisor::NAME, |b| b.iter(|| start_stop::<TaskSupervisor>(&runtime, count)));
    group.bench_function(TokioGracefulShutdown::NAME, |b| {
        b.iter(|| start_stop::<TokioGracefulShutdown>(&runtime, count));
    });
    group.finish();
}

fn start_stop_100(c: &mut Criterion) {
    start_stop_group(c, "start_stop_100", 100);
}

fn start_stop_10k(c: &mut Criterion) {
    start_stop_group(c, "start_stop_10k", 10_000);
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
    let report = runtime.block_on(host.shutdown()).expect("the host was started");
    assert!(report.is_clean());

    let progress = Progress::new(1_000);
    let tasks = runtime.block_on(async {
        let add = |builder: SupervisorBuilder, n: usize| builder.with_task(&n.to_string(), Task(Arc::clone(&progress)));
        (0..1_000).fold(SupervisorBuilder::new(), add).spawn()
    });
    // It has no snapshot: a message requests the status of all tasks, or of one.
    group.bench_function("task_supervisor", |b| {
        b.to_async(&runtime).iter(async || {
            let statuses = tasks.task_statuses().await.expect("the supervisor runs");
            assert_eq!(statuses.get("999"), Some(&TaskStatus::Running));
            statuses
        });
    });
    group.bench_function("task_supervisor_one", |b| {
        b.to_async(&runtime).iter(async || {
            assert_eq!(tasks.task_status("999").await.expect("the supervisor runs"), TaskStatus::Running);
        });
    });
    runtime.block_on(tasks.shutdown()).expect("nothing is dead");
    group.finish();
}

/// Prints the figures that are not durations: the memory of a service, and the CPU time of idle services.
fn weigh<S: Supervises>() {
    let runtime = runtime();
    let progress = Progress::new(WEIGHED);
    // A thread of the previous variant may still be ending.
    thread::sleep(Duration::from_millis(200));
    let before = ALLOCATED.load(Ordering::Relaxed);
    IS_COUNTING.store(true, Ordering::Relaxed);
    let weighed = async || {
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        IS_COUNTING.store(false, Ordering::Relaxed);
        // The services settle first. Then the lowest of several measurements counts, as other processes use the
        // machine.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut least = f64::MAX;
        for _ in 0..5 {
            let (cpu, start) = (cpu_time(), Instant::now());
            tokio::time::sleep(IDLE).await;
            let used = (cpu_time() - cpu).as_secs_f64() * 1e3 / start.elapsed().as_secs_f64();
            least = least.min(used);
        }
        println!(
            "{}: {} bytes a service, {least:.2} ms of CPU a second for {WEIGHED} idle ones",
            S::NAME,
            bytes / WEIGHED as isize
        );
    };
    runtime.block_on(S::start_and_stop(&progress, weighed));
    progress.assert_all_ended();
}

fn weights(c: &mut Criterion) {
    // `cargo test --benches` only checks that the bench runs.
    if is_measured() {
        weigh::<Onelane>();
        weigh::<OnelaneWithoutThread>();
        weigh::<RawTokens>();
        weigh::<TaskSupervisor>();
        weigh::<TokioGracefulShutdown>();
    }
    let _ = c;
}

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);
/// `false` during the groups, in which counting would take time.
static IS_COUNTING: AtomicBool = AtomicBool::new(false);

fn count(bytes: isize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Counts the allocated bytes.
struct Counting;

// SAFETY: each method forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

criterion_group!(benches, weights, start_stop_100, start_stop_10k, status_1000);
criterion_main!(benches);
