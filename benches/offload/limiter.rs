//! Acquiring tokens, compared with tokio's semaphore.

use std::future::Future;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use criterion::{Criterion, Throughput};
use onelane::CapacityLimiter;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::{unconstrained, yield_now};

const TOKENS: usize = 40;

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Times `acquire` on one thread, without the yield that tokio forces every 128 operations of a task.
fn bench_acquire<F: Future<Output = usize>>(c: &mut Criterion, variant: &str, acquire: impl Fn() -> F) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    c.benchmark_group("limiter_uncontended").bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(unconstrained(async {
                let mut acquired = 0;
                let start = Instant::now();
                for _ in 0..iterations {
                    acquired += acquire().await;
                }
                let elapsed = start.elapsed();
                assert_eq!(acquired as u64, iterations, "each call acquires one token");
                elapsed
            }))
        });
    });
}

pub(crate) fn limiter_uncontended(c: &mut Criterion) {
    let limiter = leak(CapacityLimiter::new(TOKENS));
    bench_acquire(c, "onelane", || async { limiter.acquire().await.expect("the semaphore is open").tokens() });
    bench_acquire(c, "onelane_try", || async { black_box(limiter).try_acquire().expect("a token is free").tokens() });
    let owned = Arc::new(CapacityLimiter::new(TOKENS));
    bench_acquire(c, "onelane_owned", || {
        let owned = Arc::clone(&owned);
        async move { owned.acquire_owned().await.expect("the semaphore is open").tokens() }
    });
    let semaphore = leak(Semaphore::new(TOKENS));
    bench_acquire(c, "tokio_semaphore", || async {
        semaphore.acquire().await.expect("the semaphore is open").num_permits()
    });
    bench_acquire(c, "tokio_semaphore_try", || async {
        black_box(semaphore).try_acquire().expect("a token is free").num_permits()
    });
    let owned = Arc::new(Semaphore::new(TOKENS));
    bench_acquire(c, "tokio_semaphore_owned", || {
        let owned = Arc::clone(&owned);
        async move { owned.acquire_owned().await.expect("the semaphore is open").num_permits() }
    });
    assert_eq!(limiter.stats().borrowed, 0);
}

const TASKS: u64 = 64;
/// Few enough that callers wait for each other.
const SCARCE: usize = 4;

/// Two workers, 64 tasks, one yield while each permit is held.
fn bench_contended<P, F: Future<Output = P> + Send>(
    c: &mut Criterion,
    variant: &str,
    acquire: impl Fn() -> F + Copy + Send + 'static,
) where
    P: Send + 'static,
{
    let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    c.benchmark_group("limiter_contended_64").throughput(Throughput::Elements(1)).bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            let inside: &'static AtomicUsize = leak(AtomicUsize::new(0));
            let each = iterations.div_ceil(TASKS);
            let elapsed = runtime.block_on(async {
                let start = Instant::now();
                let tasks: Vec<_> = (0..TASKS)
                    .map(|_| {
                        tokio::spawn(async move {
                            for _ in 0..each {
                                let _permit = acquire().await;
                                assert!(inside.fetch_add(1, Ordering::Relaxed) < SCARCE, "more permits than tokens");
                                yield_now().await;
                                inside.fetch_sub(1, Ordering::Relaxed);
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("the task does not panic");
                }
                start.elapsed()
            });
            elapsed.mul_f64(iterations as f64 / (each * TASKS) as f64)
        });
    });
}

pub(crate) fn limiter_contended_64(c: &mut Criterion) {
    let limiter = leak(CapacityLimiter::new(SCARCE));
    bench_contended(c, "onelane", move || async move { limiter.acquire().await.expect("the semaphore is open") });
    let semaphore = leak(Semaphore::new(SCARCE));
    bench_contended(
        c,
        "tokio_semaphore",
        move || async move { semaphore.acquire().await.expect("the semaphore is open") },
    );
}
