//! What sharing one run costs, beside the single flights that people use today. Ids are `group/variant`; the goals are
//! ratios.
//!
//! `cargo bench --features full --bench single_flight`
//!
//! The figures don't say who is right, so the bench prints it first:
//!
//! - `async_singleflight` lets runs of one key overlap: a caller that comes between the end of a run and its removal
//!   begins another, and then the removal takes the entry of that one away. Hence `async_singleflight: overlaps N`; the
//!   number varies widely. (The groups have one thread, where that gap does not open.)
//! - `singleflight_async`, `async_singleflight` and `moka` begin anew when the caller that runs the work is dropped:
//!   two runs in `leader_dropped`, where `onelane` and `futures_shared` go on with the first.
//! - `moka` panics in all callers that still wait when 200 that ran the work were dropped.
//!
//! `futures_shared` is a floor: a shared future for one key, without a map. (Each wake of the work wakes all its
//! callers.) `work_alone` is what the work and the runtime take.

#![allow(clippy::print_stdout, reason = "it prints what the peers do wrong")]

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
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, unconstrained, yield_now};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What a run comes to: as onelane wants it, so that no variant has to wrap the work.
type Answer = Result<u64, Infallible>;

const KEY: u64 = 7;
const CALLERS: usize = 1_000;
/// Callers whose first one is dropped.
const FEW: usize = 10;
/// A round of calls takes some 20 ms: when this is over, nobody will wake its callers any more.
const STALL: Duration = Duration::from_secs(5);

/// Lets callers who ask for the same key at the same time share one run of the work.
trait Flight: Send + Sync + 'static {
    const NAME: &str;

    fn new() -> Self;

    fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> impl Future<Output = Answer> + Send;

    fn assert_empty(&self) {}
}

impl Flight for SingleFlight<u64, u64> {
    const NAME: &str = "onelane";

    fn new() -> Self {
        Self::new("bench")
    }

    async fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Answer {
        Ok(self.run(key, work).await.expect("nothing fails"))
    }

    fn assert_empty(&self) {
        assert!(self.is_empty(), "a run remains");
    }
}

impl Flight for singleflight_async::SingleFlight<u64, Answer> {
    const NAME: &str = "singleflight_async";

    fn new() -> Self {
        Self::new()
    }

    async fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Answer {
        self.work(key, work).await
    }
}

impl Flight for async_singleflight::UnaryGroup<u64, Answer> {
    const NAME: &str = "async_singleflight";

    fn new() -> Self {
        Self::new()
    }

    async fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Answer {
        self.work(&key, work()).await
    }
}

/// A cache that lets callers share the run that fills it. Here every call has to miss it, as with the others: so the
/// caller whose work ran takes the value out again, which is a part of what it costs as a single flight. (With a time
/// to live of zero it does not let callers share.)
impl Flight for moka::future::Cache<u64, Answer> {
    const NAME: &str = "moka";

    fn new() -> Self {
        Self::new(10_000)
    }

    async fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        key: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Answer {
        let mut has_run = false;
        let work = async {
            has_run = true;
            work().await
        };
        let answer = self.get_with(key, work).await;
        if has_run {
            self.invalidate(&key).await;
        }
        answer
    }
}

/// A floor: a shared future alone, without a map, for one key.
struct OneShared(Mutex<Option<WeakShared<BoxFuture<'static, Answer>>>>);

impl OneShared {
    fn join<F: Future<Output = Answer> + Send + 'static>(
        &self,
        work: impl FnOnce() -> F,
    ) -> Shared<BoxFuture<'static, Answer>> {
        let mut slot = self.0.lock();
        let going_on = slot.as_ref().and_then(WeakShared::upgrade).filter(|shared| shared.peek().is_none());
        going_on.unwrap_or_else(|| {
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

    async fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        _: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Answer {
        self.join(work).await
    }
}

/// Another floor: the work, shared by nobody.
struct WorkAlone;

impl Flight for WorkAlone {
    const NAME: &str = "work_alone";

    fn new() -> Self {
        Self
    }

    async fn run<F: Future<Output = Answer> + Send + 'static>(
        &self,
        _: u64,
        work: impl FnOnce() -> F + Send,
    ) -> Answer {
        work().await
    }
}

/// Calls a function for every variant that lets callers share.
macro_rules! for_each_flight {
    ($bench:ident($($argument:expr),*)) => {
        $bench::<SingleFlight<u64, u64>>($($argument),*);
        $bench::<singleflight_async::SingleFlight<u64, Answer>>($($argument),*);
        $bench::<async_singleflight::UnaryGroup<u64, Answer>>($($argument),*);
        $bench::<moka::future::Cache<u64, Answer>>($($argument),*);
        $bench::<OneShared>($($argument),*);
    };
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

/// Whether this is a measurement, and not a test that the benches run.
fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Times runs of one caller, without the yield that tokio forces every 128 operations of a task.
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
                    let answer = flight
                        .run(KEY, || async move {
                            runs.store(runs.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                            pause().await;
                            Ok(call)
                        })
                        .await;
                    assert_eq!(answer, Ok(call));
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

/// Callers of one key, whose run can't end before the gate opens.
struct Round<L: Flight> {
    flight: &'static L,
    gate: CancellationToken,
    callers: usize,
    joined: AtomicUsize,
    all_joined: Notify,
    runs: AtomicUsize,
    /// The caller whose work was begun last.
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

    /// Spawns the callers, and returns when all of them wait.
    async fn start(self: &Arc<Self>, answer: u64) -> Vec<JoinHandle<Answer>> {
        let tasks = (0..self.callers).map(|caller| tokio::spawn(Arc::clone(self).call(caller, answer))).collect();
        self.all_joined.notified().await;
        tasks
    }

    async fn call(self: Arc<Self>, caller: usize, answer: u64) -> Answer {
        let this = Arc::clone(&self);
        let work = || async move {
            this.runs.fetch_add(1, Ordering::Relaxed);
            this.leader.store(caller, Ordering::Relaxed);
            this.gate.cancelled().await;
            Ok(answer)
        };
        let mut run = pin!(self.flight.run(KEY, work));
        let mut is_joined = false;
        poll_fn(|cx| {
            let poll = run.as_mut().poll(cx);
            // On one thread nothing else makes it wait than the run.
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

/// 1,000 callers, each in its task, wait for one run: it can't end before all of them do.
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
                        assert_eq!(round.runs(), 1, "all share one run");
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

/// The same without tasks: the callers are futures of one task, which polls them by hand. Spawning, scheduling and joining
/// 1,000 tasks is most of the time of the group above, and the same for all.
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
                                assert!(caller.as_mut().poll(cx).is_pending(), "all wait");
                            }
                            Poll::Ready(())
                        })
                        .await;
                        round.gate.cancel();
                        let mut left = CALLERS;
                        poll_fn(|cx| {
                            for slot in &mut callers {
                                if let Some(Poll::Ready(answer)) = slot.as_mut().map(|caller| caller.as_mut().poll(cx))
                                {
                                    assert_eq!(answer, Ok(number));
                                    *slot = None;
                                    left -= 1;
                                }
                            }
                            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
                        })
                        .await;
                        elapsed += start.elapsed();
                        assert_eq!(round.runs(), 1, "all share one run");
                    }
                    flight.assert_empty();
                    elapsed
                }))
            });
        });
    }
    for_each_flight!(bench(c));
}

/// 10 callers wait for one run, and the first goes away in the middle of it. Returns how often the work was begun.
async fn drop_leader<L: Flight>(flight: &'static L, number: u64) -> usize {
    let round = Round::new(flight, FEW);
    let mut tasks = round.start(number).await;
    let first = tasks.remove(0);
    assert_eq!(round.leader.load(Ordering::Relaxed), 0, "the first caller's work runs");
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    round.gate.cancel();
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), Ok(number));
    }
    round.runs()
}

fn leader_dropped(c: &mut Criterion) {
    fn check<L: Flight>() {
        let flight = leak(L::new());
        let runs = one_thread().block_on(drop_leader(flight, 1));
        println!("{}: runs {runs}, when the first of {FEW} callers is dropped", L::NAME);
    }
    fn bench<L: Flight>(c: &mut Criterion) {
        let flight = leak(L::new());
        let runtime = one_thread();
        c.benchmark_group("leader_dropped").bench_function(L::NAME, |b| {
            b.iter_custom(|iterations| {
                runtime.block_on(unconstrained(async {
                    let start = Instant::now();
                    for number in 0..iterations {
                        let runs = drop_leader(flight, number).await;
                        if L::NAME == "onelane" {
                            assert_eq!(runs, 1, "the run goes on");
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

/// Counts the runs of one key that begin while another goes on, and tells whether callers were left waiting.
fn count_overlaps<L: Flight>() {
    let threads = 8;
    // Often there are none, and often thousands.
    let (rounds, calls) = if is_measured() { (20, 5_000) } else { (1, 200) };
    let (going_on, runs, overlaps) = leak((AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
    let work = || async {
        runs.fetch_add(1, Ordering::Relaxed);
        if going_on.fetch_add(1, Ordering::SeqCst) > 0 {
            overlaps.fetch_add(1, Ordering::Relaxed);
        }
        yield_now().await;
        going_on.fetch_sub(1, Ordering::SeqCst);
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
                // Once is enough: it takes long to tell.
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

/// Drops whoever runs the work, 200 times, and counts what becomes of those who still wait.
fn drop_many_leaders<L: Flight>() {
    let (callers, dropped) = (210, 200);
    let flight = leak(L::new());
    let (panicked, runs) = one_thread().block_on(async {
        let round = Round::new(flight, callers);
        let mut tasks: Vec<_> = round.start(1).await.into_iter().map(Some).collect();
        for _ in 0..dropped {
            let leader = round.leader.load(Ordering::Relaxed);
            // If that one is gone, and its run goes on, anyone.
            let leaver = tasks[leader].take().or_else(|| tasks.iter_mut().find_map(Option::take)).expect("one is left");
            leaver.abort();
            assert!(leaver.await.is_err_and(|error| error.is_cancelled()));
            // Whoever is next comes to run.
            for _ in 0..4 {
                yield_now().await;
            }
        }
        round.gate.cancel();
        let mut panicked = 0;
        for task in tasks.into_iter().flatten() {
            match task.await {
                Ok(answer) => assert_eq!(answer, Ok(1)),
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
        assert_eq!((panicked, runs), (0, 1), "the run goes on");
    }
}

/// What the variants get wrong, so that the figures can be read.
fn check_all() {
    for_each_flight!(count_overlaps());
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    for_each_flight!(drop_many_leaders());
    panic::set_hook(hook);
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
