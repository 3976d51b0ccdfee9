//! The cost of work in another process, beside procspawn. Ids are `group/variant`; the goals are ratios.
//!
//! Run it: `cargo bench -p onelane-benches-process`. `peers.py` measures Python's process pools; its header has the
//! command.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use onelane::ProcessPool;
use onelane::offload::process::Attachment;
use serde_bytes::ByteBuf;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const LARGE: usize = 16 << 20;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn next(n: u64) -> u64 {
    n + 1
}

/// Runs small tasks, one after the other. Returns how long they took.
async fn run_one_by_one(pool: &ProcessPool, tasks: u64) -> Duration {
    let start = Instant::now();
    for n in 0..tasks {
        assert_eq!(pool.run(next, n).await.expect("a result"), n + 1);
    }
    start.elapsed()
}

/// One caller submits one small task at a time.
fn round_trip(c: &mut Criterion) {
    let mut group = c.benchmark_group("round_trip");
    let pool = ProcessPool::builder("round_trip").workers(1).build();
    let runtime = runtime();
    group.bench_function("onelane", |b| {
        b.iter_custom(|iterations| runtime.block_on(run_one_by_one(&pool, iterations)));
    });
    let pool = procspawn::Pool::new(1).expect("a pool");
    group.bench_function("procspawn", |b| {
        b.iter_custom(|iterations| {
            let start = Instant::now();
            for n in 0..iterations {
                assert_eq!(procspawn::spawn!(in pool, (n) || n + 1).join().expect("a result"), n + 1);
            }
            start.elapsed()
        });
    });
    pool.shutdown();
}

/// Sends 16 MiB to a worker and back. `memcpy` copies them twice.
fn payload_16m(c: &mut Criterion) {
    let mut group = c.benchmark_group("payload_16m");
    group.sample_size(20).throughput(Throughput::Bytes(2 * LARGE as u64));
    let bytes = Bytes::from(vec![7_u8; LARGE]);
    let pool = ProcessPool::builder("payload").workers(1).build();
    let runtime = runtime();
    group.bench_function("onelane", |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..iterations {
                    let result = pool.run(|bytes: Attachment| bytes, bytes.clone().into()).await;
                    assert_eq!(result.expect("a result").len(), LARGE);
                }
                start.elapsed()
            })
        });
    });
    let (mut there, mut back) = (vec![0_u8; LARGE], vec![0_u8; LARGE]);
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            there.copy_from_slice(black_box(&bytes));
            back.copy_from_slice(black_box(&there));
            assert_eq!(back[LARGE - 1], 7);
        });
    });
    let pool = procspawn::Pool::new(1).expect("a pool");
    let bytes = ByteBuf::from(vec![7_u8; LARGE]);
    group.bench_function("procspawn", |b| {
        b.iter_custom(|iterations| {
            let start = Instant::now();
            for _ in 0..iterations {
                let result = procspawn::spawn!(in pool, (bytes.clone() => bytes) || bytes).join();
                assert_eq!(result.expect("a result").len(), LARGE);
            }
            start.elapsed()
        });
    });
    pool.shutdown();
}

/// 64 callers share 2 workers. Reports the time per task.
fn in_flight_64(c: &mut Criterion) {
    const CALLERS: u64 = 64;
    let mut group = c.benchmark_group("in_flight_64");
    group.sample_size(20).throughput(Throughput::Elements(1));
    let pool = ProcessPool::builder("in_flight").workers(2).build();
    let runtime = runtime();
    group.bench_function("onelane", |b| {
        b.iter_custom(|iterations| {
            let each = iterations.div_ceil(CALLERS).max(8);
            let start = Instant::now();
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for _ in 0..CALLERS {
                    let pool = pool.clone();
                    tasks.spawn(async move {
                        for n in 0..each {
                            assert_eq!(pool.run(next, n).await.expect("a result"), n + 1);
                        }
                    });
                }
                tasks.join_all().await;
            });
            start.elapsed().mul_f64(iterations as f64 / (each * CALLERS) as f64)
        });
    });
}

/// Every task has a new worker.
fn worker_each_task(c: &mut Criterion) {
    let mut group = c.benchmark_group("worker_each_task");
    group.sample_size(30);
    let pool = ProcessPool::builder("each").workers(1).max_tasks_per_worker(1).build();
    let runtime = runtime();
    group.bench_function("onelane", |b| {
        b.iter_custom(|iterations| runtime.block_on(run_one_by_one(&pool, iterations)));
    });
    group.bench_function("procspawn", |b| {
        b.iter_custom(|iterations| {
            let start = Instant::now();
            for n in 0..iterations {
                assert_eq!(procspawn::spawn!((n) || n + 1).join().expect("a result"), n + 1);
            }
            start.elapsed()
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = round_trip, payload_16m, in_flight_64, worker_each_task
}

fn main() {
    // Workers of procspawn begin here. Workers of onelane never run `main`.
    procspawn::init();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
