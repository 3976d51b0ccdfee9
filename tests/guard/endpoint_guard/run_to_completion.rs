//! Runs that continue without their caller.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::guard::GuardStats;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};

use support::leak;
use support::runtimes::{current_thread, multi_thread};
use support::spans::{SpanNotes, enable_spans};
use support::waiting::yield_until;

use super::assert_idle;
use crate::in_time;

#[test]
fn detached_run_dropped_with_its_runtime_counts_as_cut_off() {
    let guard = leak(EndpointGuard::new("runtime"));
    let runtime = current_thread();
    runtime.block_on(async {
        let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
        assert_pending!(run.poll());
        drop(run);
        yield_now().await;
        assert_eq!((guard.stats().detached, guard.stats().cut_off), (1, 0));
    });
    drop(runtime);
    assert_eq!((guard.stats().cut_off, guard.stats().finished_detached), (1, 0));
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn caller_cancelled_while_it_waits_starts_nothing() {
    let guard = leak(EndpointGuard::new("waiting"));
    let permit = guard.acquire().await.unwrap();
    let mut run = task::spawn(guard.run_to_completion(async { panic!("the work never starts") }));
    assert_pending!(run.poll());
    drop(run);
    drop(permit);
    yield_now().await;
    let GuardStats { cancelled, panicked, finished_detached, .. } = guard.stats();
    assert_eq!((cancelled, panicked, finished_detached), (1, 0, 0));
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn caller_cancelled_before_it_takes_its_grant_starts_nothing() {
    let guard = leak(EndpointGuard::new("granted"));
    let permit = guard.acquire().await.unwrap();
    let mut run = task::spawn(guard.run_to_completion(async { panic!("the work never starts") }));
    assert_pending!(run.poll());
    drop(permit);
    drop(run);
    assert_idle(guard);
    assert_eq!(guard.stats().finished_detached, 0);
}

#[tokio::test(start_paused = true)]
async fn detached_work_holds_the_permit_until_it_ends() {
    let guard = Arc::new(EndpointGuard::new("running"));
    let (finish, finished) = oneshot::channel::<()>();
    let mut run = task::spawn(Arc::clone(&guard).run_to_completion_owned(async move { finished.await.unwrap() }));
    assert_pending!(run.poll());
    drop(run);
    assert_eq!((guard.stats().held, guard.stats().detached), (1, 1));
    let mut next = task::spawn(guard.acquire());
    assert_pending!(next.poll());
    yield_now().await;
    assert_pending!(next.poll());

    guard.close();
    assert_eq!(assert_ready_err!(next.poll()), AcquireErrorKind::Closed);
    let mut drained = task::spawn(guard.drained());
    assert_pending!(drained.poll());
    finish.send(()).unwrap();
    in_time(guard.drained()).await;
    assert_ready!(drained.poll());
    assert_eq!(guard.stats().finished_detached, 1);
    assert_idle(&guard);
}

#[tokio::test(start_paused = true)]
async fn next_caller_is_admitted_after_detached_work_has_ended() {
    let guard = leak(EndpointGuard::new("next"));
    let (finish, finished) = oneshot::channel::<()>();
    let result = Arc::new(AtomicUsize::new(0));
    let caller = tokio::spawn(guard.run_to_completion({
        let result = Arc::clone(&result);
        async move {
            finished.await.unwrap();
            result.store(1, Ordering::SeqCst);
        }
    }));
    yield_now().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let mut next = task::spawn(guard.run(async { result.load(Ordering::SeqCst) }));
    assert_pending!(next.poll());
    finish.send(()).unwrap();
    yield_until(|| next.is_woken()).await;
    assert_eq!(assert_ready_ok!(next.poll()), 1);
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn panic_in_a_detached_run_is_counted_and_releases_the_permit() {
    let guard = leak(EndpointGuard::new("panic"));
    let mut run = task::spawn(guard.run_to_completion(async {
        yield_now().await;
        panic!("in the detached run");
    }));
    assert_pending!(run.poll());
    drop(run);
    drop(in_time(guard.acquire()).await.unwrap());
    yield_now().await;
    assert_eq!((guard.stats().panicked, guard.stats().finished_detached), (1, 0));
    assert_idle(guard);
}

#[tokio::test(start_paused = true)]
async fn caller_that_stays_gets_the_output_and_nothing_is_detached() {
    let guard = leak(EndpointGuard::new("stays"));
    assert_eq!(guard.run_to_completion(async { yield_now().await }).await, Ok(()));
    assert_eq!(guard.run_to_completion(ready(7)).await, Ok(7));
    assert_eq!(guard.stats().finished_detached, 0);
    assert_idle(guard);
}

#[test]
fn run_dropped_outside_a_runtime_is_cancelled() {
    let guard = leak(EndpointGuard::new("no runtime"));
    let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
    assert_pending!(run.poll());
    drop(run);
    assert_idle(guard);
    assert_eq!((guard.stats().finished_detached, guard.stats().cut_off), (0, 1));
}

/// A runtime that has ended may still be entered.
#[test]
fn run_dropped_inside_a_runtime_that_has_ended_counts_as_cut_off() {
    let guard = leak(EndpointGuard::new("dead runtime"));
    for runtime in [multi_thread(2), current_thread()] {
        let handle = runtime.handle().clone();
        let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
        assert_pending!(runtime.block_on(async { run.poll() }));
        drop(runtime);
        let _context = handle.enter();
        drop(run);
        assert_idle(guard);
    }
    assert_eq!(guard.stats().cut_off, 2);
}

#[test]
fn runtime_shutdown_releases_the_permit() {
    let guard = leak(EndpointGuard::new("runtime ends"));
    for runtime in [multi_thread(2), current_thread()] {
        runtime.block_on(async {
            // This run is detached when the runtime shuts down. The next one is dropped together with its caller.
            let mut run = task::spawn(guard.run_to_completion(std::future::pending::<()>()));
            assert_pending!(run.poll());
        });
        assert_eq!((guard.stats().held, guard.stats().detached), (1, 1));
        drop(runtime);
        assert_idle(guard);

        let runtime = current_thread();
        runtime.spawn(guard.run_to_completion(std::future::pending::<()>()));
        runtime.block_on(yield_now());
        assert_eq!((guard.stats().held, guard.stats().detached), (1, 0));
        drop(runtime);
        assert_idle(guard);
    }
    assert_eq!((guard.stats().finished_detached, guard.stats().cut_off), (0, 4));
}

/// The work continues and is dropped in the span in which it was first polled, even if its future is dropped outside
/// that span.
#[tokio::test]
async fn detached_run_goes_on_and_is_dropped_in_its_span() {
    let _spans = enable_spans();
    let guard = leak(EndpointGuard::new("span"));
    for name in [Some("request"), None] {
        let (notes, span) = (SpanNotes::default(), tracing::info_span!("request"));
        let (finish, finished) = oneshot::channel();
        let on_drop = notes.note_on_drop();
        let work = {
            let notes = notes.clone();
            async move {
                notes.note();
                let _ = finished.await;
                notes.note();
                on_drop
            }
        };
        let mut run = task::spawn(guard.run_to_completion(work));
        let entered = name.map(|_| span.enter());
        assert_pending!(run.poll());
        drop(entered);
        drop(run);
        assert_eq!(notes.names(), [name]);
        assert!(finish.send(()).is_ok());
        yield_until(|| guard.stats().detached == 0).await;
        assert_eq!(notes.names(), [name; 3]);
        assert_idle(guard);
    }
}

/// A subscriber that is set for a scope, as tests and tenants do.
#[tokio::test]
async fn detached_run_goes_on_and_is_dropped_with_the_subscriber_of_its_scope() {
    let guard = leak(EndpointGuard::new("subscriber"));
    for is_in_span in [true, false] {
        let notes = SpanNotes::default();
        let (finish, finished) = oneshot::channel();
        let on_drop = notes.note_on_drop();
        let work = async move {
            let _ = finished.await;
            assert!(has_subscriber());
            on_drop
        };
        let mut run = task::spawn(guard.run_to_completion(work));
        let subscriber = enable_spans();
        let span = if is_in_span { tracing::info_span!("request") } else { tracing::Span::none() };
        span.in_scope(|| assert_pending!(run.poll()));
        drop(subscriber);
        drop(run);
        assert!(finish.send(()).is_ok() && !has_subscriber());
        yield_until(|| guard.stats().detached == 0).await;
        assert_eq!((notes.names(), guard.stats().panicked), (vec![is_in_span.then_some("request")], 0));
        assert_idle(guard);
    }
}

fn has_subscriber() -> bool {
    tracing::dispatcher::get_default(|dispatch| dispatch.is::<tracing_subscriber::Registry>())
}

#[tokio::test]
async fn detached_run_panics_in_its_span() {
    let _spans = enable_spans();
    let guard = leak(EndpointGuard::new("span"));
    let notes = SpanNotes::default();
    let (finish, finished) = oneshot::channel();
    let on_drop = notes.note_on_drop();
    let work = async move {
        let _on_drop = on_drop;
        let _: Result<(), _> = finished.await;
        panic!("on purpose")
    };
    let mut run = task::spawn(guard.run_to_completion(work));
    tracing::info_span!("request").in_scope(|| assert_pending!(run.poll()));
    drop(run);
    assert!(finish.send(()).is_ok());
    yield_until(|| guard.stats().detached == 0).await;
    assert_eq!((notes.names(), guard.stats().panicked), (vec![Some("request")], 1));
}

#[test]
fn detached_run_that_its_runtime_drops_is_dropped_in_its_span() {
    let _spans = enable_spans();
    let guard = leak(EndpointGuard::new("span"));
    let notes = SpanNotes::default();
    let on_drop = notes.note_on_drop();
    let runtime = current_thread();
    runtime.block_on(async {
        let mut run = task::spawn(guard.run_to_completion(async move {
            let _on_drop = on_drop;
            std::future::pending::<()>().await;
        }));
        tracing::info_span!("request").in_scope(|| assert_pending!(run.poll()));
        drop(run);
        yield_now().await;
    });
    assert!(notes.names().is_empty());
    drop(runtime);
    assert_eq!((notes.names(), guard.stats().cut_off), (vec![Some("request")], 1));
}
