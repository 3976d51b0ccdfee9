//! Drops a caller of an [`EndpointGuard`] at every await point, for every entry point, outcome of the work and position
//! in the queue.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use onelane::guard::GuardStats;
use onelane::{EndpointGuard, Order};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio_test::task;

use support::runtimes::paused;

const CALLERS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Waiting,
    /// A permit was granted, and the caller has not been polled since.
    Granted,
    /// The caller is at the await point of its work.
    Inside,
}

/// The outcome of every caller's work after its await point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Succeeds,
    Fails,
    Panics,
    /// Completes only after its switch is set.
    NeverEnds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Acquire,
    AcquireOwned,
    Run,
    RunToCompletion,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    moment: Moment,
    work: Work,
    entry: Entry,
    /// The position of the dropped caller in the order of service, counted from 0.
    position: usize,
    order: Order,
    /// `true` if the callers have timers.
    timed: bool,
}

fn every_case() -> Vec<Case> {
    let mut cases = Vec::new();
    for moment in [Moment::Waiting, Moment::Granted, Moment::Inside] {
        for work in [Work::Succeeds, Work::Fails, Work::Panics, Work::NeverEnds] {
            for entry in [Entry::Acquire, Entry::AcquireOwned, Entry::Run, Entry::RunToCompletion] {
                for position in 0..CALLERS {
                    for order in [Order::Fifo, Order::Lifo] {
                        let with = |timed| Case { moment, work, entry, position, order, timed };
                        cases.extend([with(false), with(true)]);
                    }
                }
            }
        }
    }
    cases
}

type Outcome = Result<(), &'static str>;
type Caller = task::Spawn<Pin<Box<dyn Future<Output = Outcome>>>>;

async fn work(work: Work, switch: Arc<AtomicBool>) -> Outcome {
    yield_now().await;
    match work {
        Work::Succeeds => Ok(()),
        Work::Fails => Err("failed"),
        // Panics without calling the panic hook, so that no message is printed.
        Work::Panics => resume_unwind(Box::new("panicked")),
        Work::NeverEnds => {
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if switch.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            Ok(())
        }
    }
}

fn caller(case: Case, guard: &Arc<EndpointGuard>, switch: &Arc<AtomicBool>) -> Caller {
    let guard = Arc::clone(guard);
    let work = work(case.work, Arc::clone(switch));
    task::spawn(match case.entry {
        Entry::Acquire => Box::pin(async move {
            let _permit = guard.acquire().await.unwrap();
            work.await
        }),
        Entry::AcquireOwned => Box::pin(async move {
            let _permit = guard.acquire_owned().await.unwrap();
            work.await
        }),
        Entry::Run => Box::pin(async move { guard.run(work).await.unwrap() }),
        Entry::RunToCompletion => Box::pin(async move { guard.run_to_completion_owned(work).await.unwrap() }),
    })
}

struct Scenario {
    case: Case,
    runtime: Runtime,
    guard: Arc<EndpointGuard>,
    /// Lets work that never completes by itself complete.
    switch: Arc<AtomicBool>,
    /// The callers in the order of service.
    callers: Vec<Option<Caller>>,
}

impl Scenario {
    fn new(case: Case) -> Self {
        let runtime = paused();
        let mut guard = EndpointGuard::builder("cancelled").order(case.order);
        if case.timed {
            guard = guard.max_wait(Duration::from_secs(60)).grant_timeout(Duration::from_secs(1));
        }
        let guard = Arc::new(guard.build());
        Self { case, runtime, guard, switch: Arc::default(), callers: Vec::new() }
    }

    fn play(mut self) {
        // The run of a dropped caller continues on this runtime, which makes progress only in `block_on`.
        let runtime = self.runtime.handle().clone();
        let _entered = runtime.enter();
        let permit = self.guard.try_acquire().unwrap();
        let mut callers = (0..CALLERS).map(|_| caller(self.case, &self.guard, &self.switch)).collect::<Vec<_>>();
        for caller in &mut callers {
            assert!(caller.poll().is_pending());
        }
        if self.case.order == Order::Lifo {
            callers.reverse();
        }
        self.callers = callers.into_iter().map(Some).collect();
        let victim = self.case.position;

        if self.case.moment == Moment::Waiting {
            self.callers[victim] = None;
            drop(permit);
        } else {
            drop(permit);
            (0..victim).for_each(|position| self.serve(position));
            let mut caller = self.callers[victim].take().unwrap();
            assert!(caller.is_woken());
            if self.case.moment == Moment::Inside {
                assert!(caller.poll().is_pending());
            }
            self.assert_no_other_is_admitted(victim + 1);
            drop(caller);
            if self.case.moment == Moment::Inside && self.case.entry == Entry::RunToCompletion {
                self.end_detached(victim + 1);
            }
        }
        for position in 0..CALLERS {
            if self.callers[position].is_some() {
                self.serve(position);
            }
        }
        self.assert_nothing_remains();
    }

    /// Plays a caller that is not dropped, from its grant to the end of its work.
    fn serve(&mut self, position: usize) {
        let mut caller = self.callers[position].take().unwrap();
        assert!(caller.is_woken(), "the caller was granted the permit");
        assert!(caller.poll().is_pending(), "the work is at its await point");
        self.assert_no_other_is_admitted(position + 1);
        let ended = catch_unwind(AssertUnwindSafe(|| caller.poll()));
        match self.case.work {
            Work::Succeeds => assert_eq!(ended.unwrap(), Poll::Ready(Ok(()))),
            Work::Fails => assert_eq!(ended.unwrap(), Poll::Ready(Err("failed"))),
            Work::Panics => assert!(ended.is_err()),
            Work::NeverEnds => assert!(ended.unwrap().is_pending()),
        }
        drop(caller);
        if self.case.work == Work::NeverEnds && self.case.entry == Entry::RunToCompletion {
            self.end_detached(position + 1);
        }
    }

    fn assert_no_other_is_admitted(&self, next: usize) {
        assert_eq!(self.guard.stats().held, 1);
        for caller in self.callers[next..].iter().flatten() {
            assert!(!caller.is_woken());
        }
    }

    /// Asserts that a detached run holds its permit until its work ends.
    fn end_detached(&self, next: usize) {
        let run_tasks = || {
            self.runtime.block_on(async {
                for _ in 0..4 {
                    yield_now().await;
                }
            });
        };
        assert_eq!(self.guard.stats().detached, 1);
        self.assert_no_other_is_admitted(next);
        run_tasks();
        if self.case.work == Work::NeverEnds {
            assert_eq!(self.guard.stats().detached, 1);
            self.assert_no_other_is_admitted(next);
            self.switch.store(true, Ordering::Relaxed);
            run_tasks();
            self.switch.store(false, Ordering::Relaxed);
        }
        assert_eq!(self.guard.stats().detached, 0);
    }

    fn assert_nothing_remains(&self) {
        let Case { moment, work, entry, .. } = self.case;
        let survivors = CALLERS as u64 - 1;
        let dropped_inside = u64::from(moment == Moment::Inside);
        let runs_on = u64::from(entry == Entry::RunToCompletion);
        let stats = self.guard.stats();
        let GuardStats { held, waiting, detached, .. } = stats;
        assert_eq!((held, waiting, detached), (0, 0, 0));
        assert_eq!(stats.granted, 1 + survivors + u64::from(moment != Moment::Waiting));
        assert_eq!(stats.queued, CALLERS as u64);
        assert_eq!(stats.cancelled, 1 - dropped_inside);
        let panicked = if work == Work::Panics { survivors + dropped_inside * runs_on } else { 0 };
        assert_eq!(stats.panicked, panicked);
        let finished_detached = match work {
            Work::Succeeds | Work::Fails => dropped_inside * runs_on,
            Work::Panics => 0,
            Work::NeverEnds => (survivors + dropped_inside) * runs_on,
        };
        assert_eq!(stats.finished_detached, finished_detached);
        assert_eq!((stats.refused, stats.timed_out, stats.expired, stats.overrun), (0, 0, 0, 0));
        assert_eq!(Arc::strong_count(&self.guard), 1, "a reference to the guard remains");
        assert_eq!(Arc::strong_count(&self.switch), 1, "some work was not dropped");
        drop(self.guard.try_acquire().unwrap());
    }
}

#[test]
fn caller_dropped_at_any_point_does_not_affect_the_others() {
    let cases = every_case();
    assert_eq!(cases.len(), 576);
    for case in cases {
        let played = catch_unwind(|| Scenario::new(case).play());
        assert!(played.is_ok(), "{case:?}");
    }
}

#[tokio::test]
async fn caller_dropped_before_its_first_poll_has_no_effect() {
    let guard = Arc::new(EndpointGuard::new("unpolled"));
    let permit = guard.try_acquire().unwrap();
    let before = guard.stats();
    drop(guard.acquire());
    drop(Arc::clone(&guard).acquire_owned());
    drop(guard.run(async { panic!("the work never starts") }));
    drop(Arc::clone(&guard).run_to_completion_owned(async { panic!("the work never starts") }));
    drop(guard.drained());
    assert_eq!(guard.stats(), before);
    assert_eq!(Arc::strong_count(&guard), 1);
    drop(permit);
}

#[test]
fn one_of_many_drained_futures_can_be_dropped() {
    let guard = EndpointGuard::new("drained");
    let permit = guard.try_acquire().unwrap();
    let mut waiting = [0, 1, 2].map(|_| task::spawn(guard.drained()));
    for drained in &mut waiting {
        assert!(drained.poll().is_pending());
    }
    let [first, dropped, last] = waiting;
    drop(dropped);
    guard.close();
    drop(permit);
    for mut drained in [first, last] {
        assert!(drained.is_woken());
        assert!(drained.poll().is_ready());
    }
}
