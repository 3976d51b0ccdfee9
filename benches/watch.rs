//! The overhead of a labelled poll, and of the thread of a watch. Ids are `group/variant`.
//!
//! `cargo bench --features full --bench watch`
//!
//! After criterion's own figures, the variants of a poll take turns in short rounds, and the benchmark prints the
//! median of the differences. The thread of a watch has no figure of criterion: the benchmark prints the CPU time of
//! the thread.

#![allow(clippy::print_stdout, reason = "it prints differences and CPU times")]

#[path = "harness/mod.rs"]
mod harness;

use std::fs;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use onelane::watch::{Watch, watch};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::harness::{is_measured, is_selected, one_thread};

/// A future whose poll does almost nothing.
#[derive(Default)]
struct Counts(u64);

impl Future for Counts {
    type Output = ();

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.0 += 1;
        black_box(Poll::Pending)
    }
}

/// Polls `future` many times, and returns the time that the polls took.
fn poll(future: &mut (impl Future + Unpin), polls: u64) -> Duration {
    let mut cx = Context::from_waker(Waker::noop());
    let start = Instant::now();
    for _ in 0..polls {
        assert!(Pin::new(&mut *future).poll(&mut cx).is_pending());
    }
    start.elapsed()
}

/// Runs `work` on a worker of the runtime.
fn on_worker<R: Send + 'static>(runtime: &Runtime, work: impl FnOnce() -> R + Send + 'static) -> R {
    runtime.block_on(runtime.spawn(async { work() })).expect("the work does not panic")
}

fn guarded_poll(c: &mut Criterion) {
    let multi_thread = Builder::new_multi_thread().worker_threads(1).build().expect("the runtime is built");
    let mut group = c.benchmark_group("guarded_poll");
    group.throughput(Throughput::Elements(1));
    group.bench_function("bare", |b| {
        b.iter_custom(|polls| on_worker(&multi_thread, move || poll(&mut Counts::default(), polls)));
    });
    group.bench_function("watched", |b| {
        b.iter_custom(|polls| on_worker(&multi_thread, move || poll(&mut watch("watched", Counts::default()), polls)));
    });
    group.bench_function("watched_twice", |b| {
        let twice = || watch("outer", watch("watched", Counts::default()));
        b.iter_custom(|polls| on_worker(&multi_thread, move || poll(&mut twice(), polls)));
    });
    group.finish();
    if is_measured() && is_selected("guarded_poll") {
        print_difference("multi_thread", &multi_thread);
        print_difference("current_thread", &one_thread());
    }
}

/// Prints how much longer a labelled poll takes than a bare one.
fn print_difference(name: &str, runtime: &Runtime) {
    const ROUNDS: usize = 201;
    const ROUND: u64 = 100_000;
    let mut differences: Vec<f64> = on_worker(runtime, || {
        let (mut bare, mut watched) = (Counts::default(), watch("watched", Counts::default()));
        let round = |_| {
            let bare = poll(&mut bare, ROUND);
            (poll(&mut watched, ROUND).as_secs_f64() - bare.as_secs_f64()) * 1e9 / ROUND as f64
        };
        (0..ROUNDS).map(round).collect()
    });
    differences.sort_by(f64::total_cmp);
    let [low, median, high] = [ROUNDS / 4, ROUNDS / 2, ROUNDS * 3 / 4].map(|index| differences[index]);
    println!("guarded_poll {name} watched - bare: {median:.2} ns (quartiles {low:.2} to {high:.2})");
}

/// Prints the CPU time of a watch's thread as a share of one processor, beside the share of a thread that only wakes up
/// as often.
fn sampler() {
    const WORKERS: usize = 16;
    /// The interval of the watch.
    const INTERVAL: Duration = Duration::from_millis(20);
    const MEASURED: Duration = Duration::from_secs(10);
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).build().expect("the runtime is built");
    // The threshold is above the time for which a worker waits for one of two processors.
    let watching = Watch::builder().threshold(Duration::from_secs(60)).start(runtime.handle());
    let watching = watching.expect("the watch starts");
    let wakes = || loop {
        thread::park_timeout(INTERVAL);
    };
    thread::Builder::new().name("only-wakes".to_owned()).spawn(wakes).expect("the machine has a thread left");
    let measure = |load: &str| {
        let used = || ["onelane-watch", "only-wakes"].map(cpu_time_of);
        let before = used();
        thread::sleep(MEASURED);
        let after = used();
        let [watch, wakes] = [0, 1].map(|i| (after[i] - before[i]).as_secs_f64() / MEASURED.as_secs_f64() * 100.0);
        println!("sampler {WORKERS}_workers_{load}: {watch:.3} % of one processor (only wakes: {wakes:.3} %)");
    };
    // After this pause, all threads have started.
    thread::sleep(INTERVAL * 5);
    measure("idle");
    for _ in 0..WORKERS {
        runtime.spawn(watch("busy", async {
            loop {
                yield_now().await;
            }
        }));
    }
    measure("busy");
    assert_eq!(watching.stats().blocked, 0, "no worker is blocked");
    runtime.shutdown_background();
}

/// Returns the CPU time that the thread with that name has used.
fn cpu_time_of(thread: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("the CPU time is measured on Linux");
    let time = |task: std::io::Result<fs::DirEntry>| {
        let path = task.ok()?.path();
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let statistics = fs::read_to_string(path.join("schedstat")).ok()?;
        (name.trim() == thread).then(|| statistics.split(' ').next()?.parse().ok().map(Duration::from_nanos))?
    };
    tasks.filter_map(time).next().expect("the thread runs")
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    guarded_poll(&mut criterion);
    if is_measured() && is_selected("sampler") {
        sampler();
    }
    criterion.final_summary();
}
