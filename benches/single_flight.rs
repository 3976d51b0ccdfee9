//! The cost of sharing one run, compared to the single flights that are in common use. Ids are `group/variant`, and the
//! goals are ratios.
//!
//! `cargo bench --features full --bench single_flight`
//!
//! The figures do not show which variants are correct, so the bench prints that first:
//!
//! - `async_singleflight` lets runs of one key overlap: a caller that arrives between the end of a run and its removal
//!   starts another run, and the removal then takes away the entry of that one. Hence `async_singleflight: overlaps N`.
//!   The number varies widely. (The groups use one thread, where this race does not occur.)
//! - `singleflight_async`, `async_singleflight` and `moka` start again when the caller that runs the work is dropped:
//!   two runs in `leader_dropped`, where `onelane` and `futures_shared` continue the first.
//! - `tower_resilience_coalesce` fails all callers when the one that runs the work is dropped, and its other callers
//!   wake themselves in a loop while they wait.
//! - `moka` panics in all remaining callers after 200 callers that ran the work were dropped.
//!
//! `futures_shared` is a lower bound: a shared future for one key, without a map. (Each wake of the work wakes all its
//! callers.) `work_alone` is the cost of the work and the runtime.

#![allow(clippy::print_stdout, reason = "it prints what the peers do wrong")]

mod harness;

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::panic;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared, try_join_all};
use onelane::SingleFlight;
use parking_lot::Mutex;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, unconstrained, yield_now};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::util::ServiceFn;
use tower::{Layer, Service, service_fn};
use tower_resilience_coalesce::{CoalesceLayer, CoalesceService};

use harness::{is_measured, leak, one_thread};

/// The outcome of a run, in the form that onelane takes, so that no variant has to wrap the work.
type Outcome = Result<u64, Infallible>;

const KEY: u64 = 7;
const CALLERS: usize = 1_000;
/// The number of callers in a round whose leader is dropped.
const FEW: usize = 10;
/// The time after which the callers of a round count as stalled. A round takes about 20 ms.
const STALL: Duration = Duration::from_secs(5);

/// Lets concurrent callers of the same key share one run of the work.
trait Flight: Send + Sync + 'static {
    const NAME: &str;

    fn new() -> Self;

    fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> impl Future<Output = Outcome> + Send;

    fn assert_empty(&self) {}
}

impl Flight for SingleFlight<u64, u64> {
    const NAME: &str = "onelane";

    fn new() -> Self {
        Self::new("bench")
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        Ok(self.run(key, work).await.expect("nothing fails"))
    }

    fn assert_empty(&self) {
        assert!(self.is_empty(), "a run remains");
    }
}

impl Flight for singleflight_async::SingleFlight<u64, Outcome> {
    const NAME: &str = "singleflight_async";

    fn new() -> Self {
        Self::new()
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        self.work(key, work).await
    }
}

impl Flight for async_singleflight::UnaryGroup<u64, Outcome> {
    const NAME: &str = "async_singleflight";

    fn new() -> Self {
        Self::new()
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        self.work(&key, work()).await
    }
}

/// A cache that lets callers share the run that fills it. Here every call must miss, as with the other variants, so the
/// caller whose work ran invalidates the value. That is part of its cost as a single flight. (With a time to live of
/// zero, it does not let callers share.)
impl Flight for moka::future::Cache<u64, Outcome> {
    const NAME: &str = "moka";

    fn new() -> Self {
        Self::new(10_000)
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        let mut has_run = false;
        let work = async {
            has_run = true;
            work().await
        };
        let outcome = self.get_with(key, work).await;
        if has_run {
            self.invalidate(&key).await;
        }
        outcome
    }
}

/// A request of `tower_resilience_coalesce`, with the work that answers it.
struct Job(u64, Mutex<BoxFuture<'static, Outcome>>);

type RunJob = fn(Job) -> BoxFuture<'static, Outcome>;
type JobKey = fn(&Job) -> u64;

/// A tower service, so the work is boxed.
struct Coalesce(CoalesceService<ServiceFn<RunJob>, u64, Job, JobKey>);

impl Flight for Coalesce {
    const NAME: &str = "tower_resilience_coalesce";

    fn new() -> Self {
        let key: JobKey = |job| job.0;
        let run: RunJob = |job| job.1.into_inner();
        Self(CoalesceLayer::new(key).layer(service_fn(run)))
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        let outcome = self.0.clone().call(Job(key, Mutex::new(work().boxed()))).await;
        Ok(outcome.expect("the caller that runs the work is not dropped"))
    }
}

/// A lower bound: a shared future for one key, without a map.
struct OneShared(Mutex<Option<WeakShared<BoxFuture<'static, Outcome>>>>);

impl OneShared {
    fn join<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        work: impl FnOnce() -> F,
    ) -> Shared<BoxFuture<'static, Outcome>> {
        let mut slot = self.0.lock();
        let in_progress = slot.as_ref().and_then(WeakShared::upgrade).filter(|shared| shared.peek().is_none());
        in_progress.unwrap_or_else(|| {
            let shared = work().boxed().shared();
            *slot = shared.downgrade();
            shared
        })
    }
}

impl Flight for OneShared {
    const NAME: &str = "futures_shared";

    fn new() -> Self {
        Self(Mutex::new(None))
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        _: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        self.join(work).await
    }
}

/// Another lower bound: the work alone, without sharing.
struct WorkAlone;

impl Flight for WorkAlone {
    const NAME: &str = "work_alone";

    fn new() -> Self {
        Self
    }

    async fn run<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        _: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Outcome {
        work().await
    }
}

/// Calls a function for every variant that lets callers share a run.
macro_rules! for_each_flight {
    ($bench:ident($($argument:expr),*)) => {
        $bench::<SingleFlight<u64, u64>>($($argument),*);
        $bench::<singleflight_async::SingleFlight<u64, Outcome>>($($argument),*);
        $bench::<async_singleflight::UnaryGroup<u64, Outcome>>($($argument),*);
        $bench::<moka::future::Cache<u64, Outcome>>($($argument),*);
        $bench::<Coalesce>($($argument),*);
        $bench::<OneShared>($($argument),*);
    };
}

/// Times runs of one caller, without the yield that tokio forces after every 128 operations of a task.
fn bench_leader<L: Flight, F: Future<Output = ()> + Send + 'static>(
    c: &mut Criterion,
    group: &str,
    pause: impl Fn() -> F + Copy + Send + Sync + 'static,
) {
    let flight = L::new();
    let runs = leak(AtomicU64::new(0));
    let runtime = one_thread();
    c.benchmark_group(group).bench_function(L::NAME, |b| {
        b.iter_custom(|iterations| {
            runs.store(0, Ordering::Relaxed);
            runtime.block_on(unconstrained(async {
                let start = Instant::now();
                for call in 0..iterations {
                    let outcome = flight
                        .run(KEY, || async move {
                            runs.store(runs.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                            pause().await;
                            Ok(call)
                        })
                        .await;
                    assert_eq!(outcome, Ok(call));
                }
                let elapsed = start.elapsed();
                assert_eq!(runs.load(Ordering::Relaxed), iterations, "each call is a run");
                flight.assert_empty();
                elapsed
            }))
        });
    });
}

fn leader(c: &mut Criterion) {
    fn bench<L: Flight>(c: &mut Criterion) {
        bench_leader::<L, _>(c, "leader", || ready(()));
    }
    for_each_flight!(bench(c));
    bench::<WorkAlone>(c);
}

fn leader_yield(c: &mut Criterion) {
    fn bench<L: Flight>(c: &mut Criterion) {
        bench_leader::<L, _>(c, "leader_yield", yield_now);
    }
    for_each_flight!(bench(c));
    bench::<WorkAlone>(c);
}

/// Callers of one key, whose run cannot complete before the gate opens.
struct Round<L: Flight> {
    flight: &'static L,
    gate: CancellationToken,
    callers: usize,
    joined: AtomicUsize,
    all_joined: Notify,
    runs: AtomicUsize,
    /// The caller whose work was started last.
    leader: AtomicUsize,
}

impl<L: Flight> Round<L> {
    fn new(flight: &'static L, callers: usize) -> Arc<Self> {
        Arc::new(Self {
            flight,
            gate: CancellationToken::new(),
            callers,
            joined: AtomicUsize::new(0),
            all_joined: Notify::new(),
            runs: AtomicUsize::new(0),
            leader: AtomicUsize::new(usize::MAX),
        })
    }

    /// Spawns the callers, and returns when all of them are waiting.
    async fn start(self: &Arc<Self>, outcome: u64) -> Vec<JoinHandle<Outcome>> {
        let tasks = (0..self.callers).map(|caller| tokio::spawn(Arc::clone(self).call(caller, outcome))).collect();
        self.all_joined.notified().await;
        tasks
    }

    async fn call(self: Arc<Self>, caller: usize, outcome: u64) -> Outcome {
        let this = Arc::clone(&self);
        let work = || async move {
            this.runs.fetch_add(1, Ordering::Relaxed);
            this.leader.store(caller, Ordering::Relaxed);
            this.gate.cancelled().await;
            Ok(outcome)
        };
        let mut run = pin!(self.flight.run(KEY, work));
        let mut is_joined = false;
        poll_fn(|cx| {
            let poll = run.as_mut().poll(cx);
            // On one thread, a pending call can only wait for the run.
            if poll.is_pending() && !is_joined {
                is_joined = true;
                if self.joined.fetch_add(1, Ordering::Relaxed) + 1 == self.callers {
                    self.all_joined.notify_one();
                }
            }
            poll
        })
        .await
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }
}

/// 1,000 callers, each in its own task, wait for one run, which cannot complete before all of them wait.
fn fan_out_1000(c: &mut Criterion) {
    fn bench<L: Flight>(c: &mut Criterion) {
        let flight = leak(L::new());
        let runtime = one_thread();
        c.benchmark_group("fan_out_1000").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| {
                runtime.block_on(unconstrained(async {
                    let start = Instant::now();
                    for number in 0..iterations {
                        let round = Round::new(flight, CALLERS);
                        let tasks = round.start(number).await;
                        round.gate.cancel();
                        for task in tasks {
                            assert_eq!(task.await.expect("no panic"), Ok(number));
                        }
                        assert_eq!(round.runs(), 1, "all callers share one run");
                    }
                    let elapsed = start.elapsed();
                    flight.assert_empty();
                    elapsed
                }))
            });
        });
    }
    for_each_flight!(bench(c));
}

/// The same without tasks: the callers are futures of one task, which polls them by hand. Spawning, scheduling and
/// joining 1,000 tasks takes most of the time of the group above, and the same time for every variant.
fn fan_out_1000_futures(c: &mut Criterion) {
    fn bench<L: Flight>(c: &mut Criterion) {
        let flight = leak(L::new());
        let runtime = one_thread();
        c.benchmark_group("fan_out_1000_futures").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| {
                runtime.block_on(unconstrained(async {
                    let mut elapsed = Duration::ZERO;
                    for number in 0..iterations {
                        let round = Round::new(flight, CALLERS);
                        let call = |caller| Some(Box::pin(unconstrained(Arc::clone(&round).call(caller, number))));
                        let mut callers: Vec<_> = (0..CALLERS).map(call).collect();
                        let start = Instant::now();
                        poll_fn(|cx| {
                            for caller in callers.iter_mut().flatten() {
                                assert!(caller.as_mut().poll(cx).is_pending(), "all callers wait");
                            }
                            Poll::Ready(())
                        })
                        .await;
                        round.gate.cancel();
                        let mut left = CALLERS;
                        poll_fn(|cx| {
                            for slot in &mut callers {
                                if let Some(Poll::Ready(outcome)) = slot.as_mut().map(|caller| caller.as_mut().poll(cx))
                                {
                                    assert_eq!(outcome, Ok(number));
                                    *slot = None;
                                    left -= 1;
                                }
                            }
                            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                        })
                        .await;
                        elapsed += start.elapsed();
                        assert_eq!(round.runs(), 1, "all callers share one run");
                    }
                    flight.assert_empty();
                    elapsed
                }))
            });
        });
    }
    for_each_flight!(bench(c));
}

/// Lets 10 callers wait for one run and drops the first caller during the run. Returns the number of times that the
/// work was started, and the number of the other callers that got no outcome.
async fn drop_leader<L: Flight>(flight: &'static L, number: u64) -> (usize, usize) {
    let round = Round::new(flight, FEW);
    let mut tasks = round.start(number).await;
    let first = tasks.remove(0);
    assert_eq!(round.leader.load(Ordering::Relaxed), 0, "the first caller runs the work");
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    round.gate.cancel();
    let mut failed = 0;
    for task in tasks {
        match task.await {
            Ok(outcome) => assert_eq!(outcome, Ok(number)),
            Err(_) => failed += 1,
        }
    }
    (round.runs(), failed)
}

fn leader_dropped(c: &mut Criterion) {
    fn check<L: Flight>() {
        let flight = leak(L::new());
        let (runs, failed) = without_panic_messages(|| one_thread().block_on(drop_leader(flight, 1)));
        println!("{}: runs {runs}, failed {failed}, when the first of {FEW} callers is dropped", L::NAME);
    }
    fn bench<L: Flight>(c: &mut Criterion) {
        if L::NAME == Coalesce::NAME {
            return; // Every round would measure panics of the failed callers.
        }
        let flight = leak(L::new());
        let runtime = one_thread();
        c.benchmark_group("leader_dropped").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| {
                runtime.block_on(unconstrained(async {
                    let start = Instant::now();
                    for number in 0..iterations {
                        let (runs, failed) = drop_leader(flight, number).await;
                        assert_eq!(failed, 0, "every caller that remains gets the outcome");
                        if L::NAME == "onelane" {
                            assert_eq!(runs, 1, "the run continues");
                        }
                    }
                    let elapsed = start.elapsed();
                    flight.assert_empty();
                    elapsed
                }))
            });
        });
    }
    for_each_flight!(check());
    for_each_flight!(bench(c));
}

/// Counts the runs of one key that start during another run, and reports callers that are never woken.
fn count_overlaps<L: Flight>() {
    let threads = 8;
    // The number of overlaps varies between none and thousands.
    let (rounds, calls) = if is_measured() { (20, 5_000) } else { (1, 200) };
    let (in_progress, runs, overlaps) = leak((AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
    let work = || async {
        runs.fetch_add(1, Ordering::Relaxed);
        if in_progress.fetch_add(1, Ordering::SeqCst) > 0 {
            overlaps.fetch_add(1, Ordering::Relaxed);
        }
        yield_now().await;
        in_progress.fetch_sub(1, Ordering::SeqCst);
        Ok(1)
    };
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_time().build().expect("a runtime");
    let stalled = runtime.block_on(async {
        for _ in 0..rounds {
            let flight = leak(L::new());
            let call = || async move {
                for _ in 0..calls {
                    assert_eq!(flight.run(KEY, work).await, Ok(1));
                }
            };
            let tasks: Vec<_> = (0..threads).map(|_| tokio::spawn(call())).collect();
            match timeout(STALL, try_join_all(tasks)).await {
                Ok(ended) => drop(ended.expect("no panic")),
                // One stall is enough, because each costs the whole time limit.
                Err(_) => return 1,
            }
        }
        0
    });
    let (runs, overlaps) = (runs.load(Ordering::Relaxed), overlaps.load(Ordering::Relaxed));
    println!(
        "{}: overlaps {overlaps} of {runs} runs, stalled {stalled} ({rounds} times {threads} tasks of {calls} calls)",
        L::NAME,
    );
    if L::NAME == "onelane" {
        assert_eq!((overlaps, stalled), (0, 0), "runs of one key overlapped, or callers were not woken");
    }
}

/// Drops the caller that runs the work, 200 times, and counts the panics of the remaining callers.
fn drop_many_leaders<L: Flight>() {
    if L::NAME == Coalesce::NAME {
        return; // The first drop fails all callers.
    }
    let (callers, dropped) = (210, 200);
    let flight = leak(L::new());
    let (panicked, runs) = one_thread().block_on(async {
        let round = Round::new(flight, callers);
        let mut tasks: Vec<_> = round.start(1).await.into_iter().map(Some).collect();
        for _ in 0..dropped {
            let leader = round.leader.load(Ordering::Relaxed);
            // If the leader is gone and its run continues, any caller will do.
            let victim = tasks[leader].take().or_else(|| tasks.iter_mut().find_map(Option::take)).expect("one is left");
            victim.abort();
            assert!(victim.await.is_err_and(|error| error.is_cancelled()));
            // Lets the next leader start.
            for _ in 0..4 {
                yield_now().await;
            }
        }
        round.gate.cancel();
        let mut panicked = 0;
        for task in tasks.into_iter().flatten() {
            match task.await {
                Ok(outcome) => assert_eq!(outcome, Ok(1)),
                Err(error) => panicked += usize::from(error.is_panic()),
            }
        }
        (panicked, round.runs())
    });
    println!(
        "{}: panicked {panicked} of {} callers, after {dropped} others that ran the work were dropped (runs: {runs})",
        L::NAME,
        callers - dropped,
    );
    if L::NAME == "onelane" {
        assert_eq!((panicked, runs), (0, 1), "the run continues");
    }
}

/// Prints what the variants do wrong, which is needed to interpret the figures.
fn check_all() {
    for_each_flight!(count_overlaps());
    without_panic_messages(|| {
        for_each_flight!(drop_many_leaders());
    });
}

fn without_panic_messages<R>(f: impl FnOnce() -> R) -> R {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = f();
    panic::set_hook(hook);
    result
}

fn checks(_: &mut Criterion) {
    check_all();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = checks, leader, leader_yield, fan_out_1000, fan_out_1000_futures, leader_dropped
}
criterion_main!(benches);
