//! The cost of one permit, compared to the locks that are in common use. Ids are `group/variant`, and the goals are
//! ratios.
//!
//! `cargo bench --features full --bench guard`

mod harness;

use std::future::{Future, poll_fn};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::task::AtomicWaker;
use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, Queue};
use tokio::runtime::Builder;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{unconstrained, yield_now};

use harness::{RacyCounter, leak, one_thread};

/// Times `work` on one thread, without the yield that tokio forces after every 128 operations of a task.
fn bench_sequential<F: Future<Output = ()>>(
    c: &mut Criterion,
    group: &str,
    variant: &str,
    mut work: impl FnMut(&'static RacyCounter) -> F,
) {
    let runtime = one_thread();
    c.benchmark_group(group).bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            let counter = leak(RacyCounter::default());
            runtime.block_on(unconstrained(async {
                let start = Instant::now();
                for _ in 0..iterations {
                    work(counter).await;
                }
                let elapsed = start.elapsed();
                counter.assert_total(iterations);
                elapsed
            }))
        });
    });
}

fn uncontended(c: &mut Criterion) {
    let guard = leak(EndpointGuard::new("bench"));
    bench_sequential(c, "uncontended", "onelane", |counter| async move {
        let _permit = guard.acquire().await.expect("open");
        counter.add_one();
    });
    let mutex = leak(Mutex::new(()));
    bench_sequential(c, "uncontended", "tokio_mutex", |counter| async move {
        let _held = mutex.lock().await;
        counter.add_one();
    });
    let owned = Arc::new(Mutex::new(()));
    bench_sequential(c, "uncontended", "tokio_mutex_owned", |counter| {
        let owned = Arc::clone(&owned);
        async move {
            let _held = owned.lock_owned().await;
            counter.add_one();
        }
    });
    let semaphore = leak(Semaphore::new(1));
    bench_sequential(c, "uncontended", "tokio_semaphore", |counter| async move {
        let _held = semaphore.acquire().await.expect("open");
        counter.add_one();
    });
    let mutex = leak(async_lock::Mutex::new(()));
    bench_sequential(c, "uncontended", "async_lock", |counter| async move {
        let _held = mutex.lock().await;
        counter.add_one();
    });
    let mutex = leak(parking_lot::Mutex::new(()));
    bench_sequential(c, "uncontended", "parking_lot", |counter| async move {
        let _held = mutex.lock();
        counter.add_one();
    });
    let mutex = leak(std::sync::Mutex::new(()));
    bench_sequential(c, "uncontended", "std_mutex", |counter| async move {
        let _held = mutex.lock().expect("no panic");
        counter.add_one();
    });
}

fn uncontended_owned(c: &mut Criterion) {
    let guard = Arc::new(EndpointGuard::new("bench"));
    bench_sequential(c, "uncontended_owned", "onelane", |counter| {
        let guard = Arc::clone(&guard);
        async move {
            let _permit = guard.acquire_owned().await.expect("open");
            counter.add_one();
        }
    });
    let mutex = Arc::new(Mutex::new(()));
    bench_sequential(c, "uncontended_owned", "tokio_mutex_owned", |counter| {
        let mutex = Arc::clone(&mutex);
        async move {
            let _held = mutex.lock_owned().await;
            counter.add_one();
        }
    });
}

const TASKS: u64 = 64;

/// Times `work` in 64 tasks on two workers. The work yields once while it holds the lock.
fn bench_contended<F: Future<Output = ()> + Send>(
    c: &mut Criterion,
    variant: &str,
    work: impl Fn(u64, &'static RacyCounter) -> F + Copy + Send + 'static,
) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    c.benchmark_group("contended_64").throughput(criterion::Throughput::Elements(1)).bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            let counter = leak(RacyCounter::default());
            let rounds = iterations.div_ceil(TASKS);
            let elapsed = runtime.block_on(async {
                let start = Instant::now();
                let tasks: Vec<_> = (0..TASKS)
                    .map(|task| {
                        tokio::spawn(async move {
                            for _ in 0..rounds {
                                work(task, counter).await;
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("no panic");
                }
                start.elapsed()
            });
            counter.assert_total(rounds * TASKS);
            elapsed.mul_f64(iterations as f64 / (rounds * TASKS) as f64)
        });
    });
}

fn contended_64(c: &mut Criterion) {
    let guard = leak(EndpointGuard::new("bench"));
    bench_contended(c, "onelane", move |_, counter| async move {
        let _permit = guard.acquire().await.expect("open");
        let before = counter.add_one();
        yield_now().await;
        assert_eq!(counter.get(), before, "callers overlapped");
    });
    let mutex = leak(Mutex::new(()));
    bench_contended(c, "tokio_mutex", move |_, counter| async move {
        let _held = mutex.lock().await;
        let before = counter.add_one();
        yield_now().await;
        assert_eq!(counter.get(), before, "callers overlapped");
    });
    let semaphore = leak(Semaphore::new(1));
    bench_contended(c, "tokio_semaphore", move |_, counter| async move {
        let _held = semaphore.acquire().await.expect("open");
        let before = counter.add_one();
        yield_now().await;
        assert_eq!(counter.get(), before, "callers overlapped");
    });
    let mutex = leak(async_lock::Mutex::new(()));
    bench_contended(c, "async_lock", move |_, counter| async move {
        let _held = mutex.lock().await;
        let before = counter.add_one();
        yield_now().await;
        assert_eq!(counter.get(), before, "callers overlapped");
    });
}

/// The runtime's share of this workload: 64 tasks pass a baton around, each to its fixed neighbour. There is no lock
/// and no queue, only the wakes and polls that strict order needs. A lock that grants in order has the same to do, in
/// addition to its own work.
struct Baton {
    holder: AtomicU64,
    runners: Vec<AtomicWaker>,
}

impl Baton {
    fn new() -> Self {
        Self { holder: AtomicU64::new(0), runners: (0..TASKS).map(|_| AtomicWaker::new()).collect() }
    }

    async fn take(&self, runner: u64) {
        poll_fn(|cx| {
            self.runners[runner as usize].register(cx.waker());
            if self.holder.load(Ordering::Acquire) == runner { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn pass(&self, runner: u64) {
        let next = (runner + 1) % TASKS;
        self.holder.store(next, Ordering::Release);
        self.runners[next as usize].wake();
    }
}

fn contended_floor(c: &mut Criterion) {
    let baton = leak(Baton::new());
    bench_contended(c, "baton", move |task, counter| async move {
        baton.take(task).await;
        let before = counter.add_one();
        yield_now().await;
        assert_eq!(counter.get(), before, "callers overlapped");
        baton.pass(task);
    });
}

fn busy_refusal(c: &mut Criterion) {
    let mut group = c.benchmark_group("busy_refusal");
    let guard = EndpointGuard::new("bench");
    let held = guard.try_acquire().expect("free");
    group.bench_function("onelane", |b| {
        b.iter(|| assert!(black_box(&guard).try_acquire().is_err_and(|error| error == AcquireErrorKind::Busy)));
    });
    drop(held);
    let guard = EndpointGuard::builder("bench").queue(Queue::Reject).build();
    let held = guard.try_acquire().expect("free");
    group.bench_function("onelane_counted", |b| {
        let mut cx = Context::from_waker(Waker::noop());
        b.iter(|| assert!(ready(pin!(black_box(&guard).acquire()), &mut cx).is_some_and(|result| result.is_err())));
    });
    drop(held);
    let mutex = Mutex::new(());
    let _held = mutex.try_lock().expect("free");
    group.bench_function("tokio_try_lock", |b| b.iter(|| assert!(black_box(&mutex).try_lock().is_err())));
    let mutex = async_lock::Mutex::new(());
    let _held = mutex.try_lock().expect("free");
    group.bench_function("async_lock", |b| b.iter(|| assert!(black_box(&mutex).try_lock().is_none())));
}

const WAITERS: usize = 1_000;

/// Enqueues 1,000 callers, cancels 80 % of them from all over the queue, and serves the rest.
fn bench_storm<H, F: Future<Output = H>>(c: &mut Criterion, variant: &str, acquire: impl Fn() -> F) {
    c.benchmark_group("cancel_storm").bench_function(variant, |b| {
        let mut cx = Context::from_waker(Waker::noop());
        b.iter_custom(|iterations| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..iterations {
                let start = Instant::now();
                let mut first = Box::pin(acquire());
                let Some(held) = ready(first.as_mut(), &mut cx) else { panic!("the first caller is admitted") };
                let mut queue: Vec<_> = (0..WAITERS).map(|_| Some(Box::pin(acquire()))).collect();
                for waiter in queue.iter_mut().flatten() {
                    assert!(waiter.as_mut().poll(&mut cx).is_pending(), "the others wait");
                }
                for (i, waiter) in queue.iter_mut().enumerate() {
                    if (i * 7) % 5 != 0 {
                        *waiter = None;
                    }
                }
                drop(held);
                let mut served = 0;
                for mut waiter in queue.into_iter().flatten() {
                    let Some(_held) = ready(waiter.as_mut(), &mut cx) else { panic!("a permit was lost") };
                    served += 1;
                }
                assert_eq!(served, WAITERS / 5);
                elapsed += start.elapsed();
            }
            elapsed
        });
    });
}

fn ready<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Option<F::Output> {
    match future.poll(cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn cancel_storm(c: &mut Criterion) {
    let guard = leak(EndpointGuard::new("bench"));
    bench_storm(c, "onelane", || async { guard.acquire().await.expect("open") });
    let mutex = leak(Mutex::new(()));
    bench_storm(c, "tokio_mutex", || mutex.lock());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = uncontended, uncontended_owned, contended_64, contended_floor, busy_refusal, cancel_storm
}
criterion_main!(benches);
