//! Pools, compared with those of tokio, rayon and smol.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use onelane::{run_blocking, run_cpu};
use rayon::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

/// As many tasks as the pool runs.
const RUNNING: usize = 40;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// One caller, one task at a time.
fn bench_round_trip<F>(c: &mut Criterion, group: &str, variant: &str, run: impl Fn(u64) -> F)
where
    F: Future<Output = u64>,
{
    let runtime = runtime();
    c.benchmark_group(group).bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let start = Instant::now();
                for n in 0..iterations {
                    assert_eq!(run(n).await, n + 1);
                }
                start.elapsed()
            })
        });
    });
}

pub(crate) fn round_trip(c: &mut Criterion) {
    let group = "round_trip";
    bench_round_trip(c, group, "onelane", |n| async move { run_blocking(move || n + 1).await.expect("a result") });
    bench_round_trip(c, group, "spawn_blocking", |n| async move {
        spawn_blocking(move || n + 1).await.expect("the task does not panic")
    });
    bench_round_trip(c, group, "blocking_unblock", |n| blocking::unblock(move || n + 1));
    let group = "round_trip_cpu";
    bench_round_trip(c, group, "onelane", |n| async move { run_cpu(move || n + 1).await.expect("a result") });
    bench_round_trip(c, group, "tokio_rayon", |n| tokio_rayon::spawn(move || n + 1));
}

/// Many callers, each with one task after the other. Reports the time per task.
fn bench_in_flight<F>(
    c: &mut Criterion,
    group: &str,
    variant: &str,
    (callers, least): (u64, u64),
    run: impl Fn(u64) -> F + Send + Sync + 'static,
) where
    F: Future<Output = u64> + Send + 'static,
{
    let (runtime, run) = (runtime(), Arc::new(run));
    c.benchmark_group(group).sample_size(20).throughput(Throughput::Elements(1)).bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            let each = iterations.div_ceil(callers).max(least);
            let elapsed = runtime.block_on(async {
                let start = Instant::now();
                let mut tasks = JoinSet::new();
                for _ in 0..callers {
                    let run = Arc::clone(&run);
                    tasks.spawn(async move {
                        let mut sum = 0;
                        for n in 0..each {
                            sum += run(n).await;
                        }
                        sum
                    });
                }
                let mut sum = 0;
                while let Some(result) = tasks.join_next().await {
                    sum += result.expect("the task does not panic");
                }
                assert_eq!(sum, callers * each * (each + 1) / 2);
                start.elapsed()
            });
            elapsed.mul_f64(iterations as f64 / (each * callers) as f64)
        });
    });
}

/// A thousand callers whose tasks do next to nothing: the cost of submitting under load.
pub(crate) fn in_flight_1000(c: &mut Criterion) {
    let (group, load) = ("in_flight_1000", (1_000, 20));
    bench_in_flight(c, group, "onelane", load, |n| async move { run_blocking(move || n + 1).await.expect("a result") });
    bench_in_flight(c, group, "spawn_blocking", load, |n| async move {
        spawn_blocking(move || n + 1).await.expect("the task does not panic")
    });
    let semaphore = Arc::new(Semaphore::new(RUNNING));
    bench_in_flight(c, group, "semaphore_spawn_blocking", load, move |n| {
        let semaphore = Arc::clone(&semaphore);
        async move {
            let permit = semaphore.acquire_owned().await.expect("the semaphore is open");
            let work = move || {
                let _permit = permit;
                n + 1
            };
            spawn_blocking(work).await.expect("the task does not panic")
        }
    });
    bench_in_flight(c, group, "blocking_unblock", load, |n| blocking::unblock(move || n + 1));
    bench_in_flight(c, group, "onelane_cpu", load, |n| async move { run_cpu(move || n + 1).await.expect("a result") });
    bench_in_flight(c, group, "tokio_rayon", load, |n| tokio_rayon::spawn(move || n + 1));
}

/// Sums the digits of many numbers with `par_iter`: inside a task, and on a plain thread.
pub(crate) fn par_iter(c: &mut Criterion) {
    fn sum(n: u64) -> u64 {
        let digits = |mut n: u64| {
            let mut sum = 0;
            while n > 0 {
                sum += n % 10;
                n /= 10;
            }
            sum
        };
        (0..1_000_000 + black_box(n)).into_par_iter().map(digits).sum()
    }

    let expected = sum(0);
    let mut group = c.benchmark_group("par_iter");
    group.sample_size(30);
    group.bench_function("onelane", |b| {
        let runtime = runtime();
        b.iter(|| assert_eq!(runtime.block_on(run_cpu(|| sum(0))).expect("a result"), expected));
    });
    group.bench_function("rayon", |b| b.iter(|| assert_eq!(sum(0), expected)));
    group.finish();
}

/// 800 tasks that sleep for 1 ms, 40 at a time: 20 ms if all threads are always busy. Reports the time per task: 25 µs
/// at best.
pub(crate) fn sleeps_800(c: &mut Criterion) {
    fn sleep(n: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(1));
        n + 1
    }

    let (group, load) = ("sleeps_800", (800, 1));
    bench_in_flight(
        c,
        group,
        "onelane",
        load,
        |n| async move { run_blocking(move || sleep(n)).await.expect("a result") },
    );
    let semaphore = Arc::new(Semaphore::new(RUNNING));
    bench_in_flight(c, group, "semaphore_spawn_blocking", load, move |n| {
        let semaphore = Arc::clone(&semaphore);
        async move {
            let permit = semaphore.acquire_owned().await.expect("the semaphore is open");
            let work = move || {
                let _permit = permit;
                sleep(n)
            };
            spawn_blocking(work).await.expect("the task does not panic")
        }
    });
}
