//! The tracing span and the subscriber that work takes from the code that creates it, whichever code then polls it.

use std::thread;
use std::time::Duration;

use futures::{StreamExt, stream};
use onelane::guard::AcquireErrorKind;
use onelane::offload::from_thread::Portal;
use onelane::offload::{BlockingPool, TaskContext, from_thread, iter_from_stream};
use onelane::{CpuPool, EndpointGuard, run_blocking};
use support::leak;
use support::runtimes::{current_thread, multi_thread};
use tokio::runtime::Handle;
use tracing::subscriber::with_default;
use tracing::{Span, dispatcher, info_span};
use tracing_subscriber::Registry;

/// The name of the current span, and `true` if the subscriber of the test is the current one.
type Seen = (Option<&'static str>, bool);

fn seen() -> Seen {
    let span = Span::current().metadata().map(|metadata| metadata.name());
    (span, dispatcher::get_default(|dispatch| dispatch.is::<Registry>()))
}

/// A way in which the crate moves work to another thread.
#[derive(Clone, Copy, Debug)]
enum Mover {
    Task,
    CpuTask,
    TaskFuture,
    TaskHandle,
    /// Many tasks, each of which produces one item.
    Stream,
    /// A stream whose first item is produced where the stream is created.
    StartedStream,
    BlockingIter,
    PortalTask,
}

const MOVERS: [Mover; 8] = [
    Mover::Task,
    Mover::CpuTask,
    Mover::TaskFuture,
    Mover::TaskHandle,
    Mover::Stream,
    Mover::StartedStream,
    Mover::BlockingIter,
    Mover::PortalTask,
];

/// Uses work that was created elsewhere, and returns what the work has seen.
type Use = Box<dyn FnOnce() -> Vec<Seen>>;

impl Mover {
    fn create(self, runtime: &Handle) -> Use {
        let (pool, cpu, runtime) =
            (BlockingPool::new("movers"), CpuPool::builder("movers").threads(1).build(), runtime.clone());
        match self {
            Self::Task => {
                let task = pool.task(|_| seen());
                Box::new(move || vec![runtime.block_on(async { task.await.unwrap() })])
            }
            Self::CpuTask => {
                let task = cpu.task(|_| seen());
                Box::new(move || vec![runtime.block_on(async { task.await.unwrap() })])
            }
            Self::TaskFuture => {
                let future = pool.task(|_| seen()).into_future();
                Box::new(move || vec![runtime.block_on(future).unwrap()])
            }
            Self::TaskHandle => {
                let _entered = runtime.enter();
                let handle = pool.task(|_| seen()).start().unwrap();
                let runtime = runtime.clone();
                Box::new(move || vec![runtime.block_on(handle).unwrap()])
            }
            Self::Stream => {
                let items = pool.stream((0..100).map(|_| seen())).max_items(1);
                Box::new(move || runtime.block_on(items.map(Result::unwrap).collect()))
            }
            Self::StartedStream => {
                let items = pool.stream((0..100).map(|_| seen())).max_items(1);
                let items = runtime.block_on(items.started()).unwrap();
                Box::new(move || runtime.block_on(items.map(Result::unwrap).collect()))
            }
            Self::BlockingIter => {
                let iter = iter_from_stream(stream::iter(0..100).map(|_| seen()));
                Box::new(move || iter.collect())
            }
            Self::PortalTask => {
                let _entered = runtime.enter();
                let task = Portal::current().unwrap().spawn(async {
                    let before = seen();
                    tokio::task::yield_now().await;
                    vec![before, seen()]
                });
                Box::new(move || task.unwrap().wait().unwrap())
            }
        }
    }
}

/// Runs `f` with the subscriber of the tests, in a span of this name if there is one.
fn with_subscriber<T>(span: Option<&'static str>, f: impl FnOnce() -> T) -> T {
    with_default(tracing_subscriber::registry(), || match span {
        Some("creator") => info_span!("creator").in_scope(f),
        Some(_) => info_span!("user").in_scope(f),
        None => f(),
    })
}

#[test]
fn work_runs_in_the_span_and_subscriber_of_its_creator() {
    let runtime = multi_thread(2);
    for mover in MOVERS {
        for span in [Some("creator"), None] {
            let created = with_subscriber(span, || mover.create(runtime.handle()));
            let all = created();
            assert!(all.iter().all(|seen| *seen == (span, true)), "{mover:?} in {span:?}: {all:?}");
            let created = with_subscriber(span, || mover.create(runtime.handle()));
            let all = with_subscriber(Some("user"), created);
            assert!(all.iter().all(|seen| *seen == (span, true)), "{mover:?} in {span:?}, used in a span: {all:?}");
        }
    }
}

/// An iterator runs on the thread that uses it, which may be inside of a span of its own.
#[test]
fn work_that_was_created_without_a_subscriber_runs_without_one_on_its_thread() {
    let runtime = multi_thread(2);
    for mover in MOVERS.into_iter().filter(|mover| !matches!(mover, Mover::BlockingIter)) {
        let created = mover.create(runtime.handle());
        let all = with_subscriber(Some("user"), created);
        assert!(all.iter().all(|seen| *seen == (None, false)), "{mover:?}: {all:?}");
    }
}

#[test]
fn nested_task_runs_in_the_span_of_the_code_that_creates_it() {
    let runtime = multi_thread(2);
    let pool = BlockingPool::builder("one").max_running(1).build();
    let inner = pool.clone();
    let nested = move |_: &TaskContext| {
        let in_own_span = info_span!("inner").in_scope(|| inner.task(|_| seen()));
        let in_own_span = from_thread::block_on(in_own_span.into_future()).unwrap();
        let of_outer = [
            from_thread::block_on(inner.run(seen)).unwrap(),
            Handle::current().block_on(inner.run(seen)),
            // The pool gives this one a thread of its own.
            current_thread().block_on(inner.run(seen)),
        ];
        (in_own_span.unwrap(), of_outer.map(Result::unwrap), seen())
    };
    for span in [Some("creator"), None] {
        let task = with_subscriber(span, || pool.task(nested.clone()));
        let seen = runtime.block_on(async { task.await.unwrap() });
        assert_eq!(seen, ((Some("inner"), true), [(span, true); 3], (span, true)));
    }
}

#[test]
fn call_through_a_portal_runs_in_the_span_of_its_caller() {
    let runtime = multi_thread(2);
    let portal = runtime.block_on(async { Portal::current().unwrap() });
    let call = move || with_subscriber(Some("creator"), || portal.call(async { seen() }).unwrap());
    assert_eq!(thread::spawn(call).join().unwrap(), (Some("creator"), true));
}

/// The caller of a task may hold a permit although the task was created before.
#[test]
fn work_counts_as_inside_the_guards_of_its_creator_and_of_its_user() {
    let runtime = multi_thread(2);
    let guard = leak(EndpointGuard::builder("outer").max_wait(Duration::from_millis(200)).build());
    let is_refused =
        move || guard.acquire_blocking().err().map(|error| error.kind()) == Some(AcquireErrorKind::WouldDeadlock);
    let pool = BlockingPool::new("guarded");
    runtime.block_on(async {
        let (task, items) =
            (pool.task(move |_| is_refused()), pool.stream((0..3).map(move |_| is_refused())).max_items(1));
        let user = guard.run(async { (task.await.unwrap(), items.map(Result::unwrap).collect::<Vec<_>>().await) });
        assert_eq!(user.await.unwrap(), (true, vec![true; 3]));
        let creator = async {
            let task = pool.task(move |_| is_refused());
            let items = pool.stream((0..3).map(move |_| is_refused())).max_items(1);
            let elsewhere =
                tokio::spawn(async { (task.await.unwrap(), items.map(Result::unwrap).collect::<Vec<_>>().await) });
            assert_eq!(elsewhere.await.unwrap(), (true, vec![true; 3]));
            (pool.task(move |_| is_refused()), pool.stream((0..3).map(move |_| is_refused())))
        };
        // The creator has released its permit by then.
        let (task, items) = guard.run(creator).await.unwrap();
        assert_eq!((task.await.unwrap(), items.map(Result::unwrap).collect::<Vec<_>>().await), (false, vec![false; 3]));
    });
}

tokio::task_local! {
    static REQUEST: u32;
}

#[tokio::test]
async fn task_local_values_are_not_carried() {
    let read = || REQUEST.try_with(|request| *request).ok();
    let both = async { (read(), run_blocking(read).await.unwrap()) };
    assert_eq!(REQUEST.scope(7, both).await, (Some(7), None));
}

/// `run` is an async fn: its task is created where its future is first polled.
#[test]
fn future_of_run_takes_the_span_of_its_first_poll() {
    let runtime = multi_thread(2);
    let future = with_subscriber(Some("creator"), || run_blocking(seen));
    assert_eq!(with_subscriber(Some("user"), || runtime.block_on(future)).unwrap(), (Some("user"), true));
}
