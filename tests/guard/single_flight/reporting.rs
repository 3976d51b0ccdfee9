//! Statistics, debug output, errors and spans.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::executor::block_on;
use futures::future::{join, join_all};
use onelane::guard::FlightErrorKind;
use onelane::{FlightError, SingleFlight};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tracing::Instrument;

use support::leak;
use support::runtimes::{current_thread, paused};
use support::spans::{SpanNotes, enable_spans};

use super::{Flight, WorkResult, caller, flight, joined, joiner, on_demand, quiet_panic, settle, yield_once};
use crate::SECOND;

#[test]
fn stats_are_exact_after_every_kind_of_outcome() {
    let runtime = paused();
    let _entered = runtime.enter();
    let flight = leak(Flight::builder("mixed").max_waiters(2).max_wait(10 * SECOND).build());
    assert_eq!((flight.name(), &*flight.stats().name), ("mixed", "mixed"));
    for round in 1..=10_u64 {
        // One caller each, with a value, an error and a panic.
        let endings: [fn() -> WorkResult; 3] = [|| Ok(1), || Err("failed"), || quiet_panic("panicked")];
        for end in endings {
            assert!(caller(flight, 0, async move { end() }).poll().is_ready());
        }
        // Three callers share a run, and a fourth is refused.
        let (finish, work) = on_demand();
        let mut first = caller(flight, 1, work);
        assert_pending!(first.poll());
        let others = [0, 1].map(|_| joined(flight, 1));
        assert!(joiner(flight, 1).poll().is_ready());
        let mut alone = caller(flight, 2, pending());
        assert_pending!(alone.poll());
        assert_eq!((flight.stats().running, flight.stats().waiting), (2, 4));
        finish.send(1).unwrap();
        runtime.block_on(settle());
        assert_eq!((flight.stats().running, flight.stats().waiting), (1, 4));
        // The leader takes the value. Its followers are dropped without taking theirs.
        assert_eq!(assert_ready_ok!(first.poll()), 1);
        drop(others);
        // A caller times out.
        runtime.block_on(advance(10 * SECOND));
        assert!(alone.poll().is_ready());
        // A caller is cancelled.
        let mut cancelled = caller(flight, 3, pending());
        assert_pending!(cancelled.poll());
        drop(cancelled);
        // A run calls its own key.
        assert!(
            caller(flight, 4, async { flight.run(4, || ready(Ok(1))).await.map_err(|_| "refused") }).poll().is_ready()
        );
        // A caller is never polled.
        drop(joiner(flight, 5));
        // A run is forgotten, then cancelled.
        let mut forgotten = caller(flight, 6, pending());
        assert_pending!(forgotten.poll());
        assert!(flight.forget(&6));
        assert_eq!((flight.stats().running, flight.stats().waiting), (0, 1));
        drop(forgotten);

        let stats = flight.stats();
        assert_eq!((stats.running, stats.waiting), (0, 0));
        assert_eq!((stats.runs, stats.shared), (8 * round, 2 * round));
        assert_eq!((stats.cancelled, stats.panicked), (3 * round, round));
        assert_eq!((stats.refused, stats.timed_out), (2 * round, round));
    }
}

#[test]
fn debug_output_shows_name_and_settings() {
    let flight: &Flight = leak(Flight::builder("pages").max_waiters(3).build());
    let shown = format!("{flight:?}");
    assert!(shown.contains("pages") && shown.contains("max_waiters: 3"), "{shown}");
    let shown = format!("{:?}", Flight::<u32, u64>::builder("pages").detached());
    assert!(shown.contains("pages") && shown.contains("detached: true"), "{shown}");
    let mut run = task::spawn(flight.run(0, pending));
    let shown = format!("{:?}", *run);
    assert!(shown.contains("pages") && shown.contains("waiting: false"), "{shown}");
    assert_pending!(run.poll());
    let shown = format!("{:?}", *run);
    assert!(shown.contains("waiting: true"), "{shown}");
    let shown = format!("{:?}", flight.stats());
    assert!(shown.contains("running: 1"), "{shown}");
}

#[test]
fn errors_say_what_to_do_next_and_keep_their_source() {
    use std::error::Error;

    let failed = FlightError::failed("no".parse::<u32>().unwrap_err());
    assert!(failed.source().is_some() && failed.failure().is_some());
    assert!(FlightError::<Infallible>::from_kind(FlightErrorKind::WouldDeadlock).failure().is_none());
    assert!(FlightError::<Infallible>::from_kind(FlightErrorKind::TooManyWaiters).to_string().contains("max_waiters"));
    assert!(FlightError::<Infallible>::from_kind(FlightErrorKind::WouldDeadlock).to_string().contains("same key"));
}

#[tokio::test(start_paused = true)]
async fn try_into_failure_returns_other_errors_unchanged() {
    let error = FlightError::failed("closed");
    let taken = error.clone().try_into_failure().unwrap();
    assert!(Arc::ptr_eq(&taken, &error.try_into_failure().unwrap()), "clones share the error");
    assert_eq!(*taken, "closed");

    let flight: Flight = SingleFlight::builder("others").max_wait(SECOND).build();
    let panicked = flight.run(0, || async { quiet_panic("on purpose") }).await.unwrap_err();
    let late = flight.run(0, pending).await.unwrap_err();
    let made = [FlightErrorKind::TooManyWaiters, FlightErrorKind::WouldDeadlock].map(FlightError::from_kind);
    for error in [panicked, late].into_iter().chain(made) {
        let shown = format!("{error:?}");
        assert_eq!(format!("{:?}", error.try_into_failure().unwrap_err()), shown);
    }
}

#[test]
#[should_panic(expected = "not polled after it completed")]
fn polling_a_completed_run_panics() {
    let mut only = caller(flight(), 0, ready(Ok(7)));
    assert_eq!(assert_ready_ok!(only.poll()), 7);
    let _panics = only.poll();
}

#[tokio::test]
async fn calls_that_complete_at_once_yield_to_other_tasks() {
    let flight = flight();
    let other = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&other);
    tokio::spawn(async move { note.store(true, Ordering::SeqCst) });
    for _ in 0..10_000 {
        flight.run(0, || ready(Ok(7))).await.unwrap();
    }
    assert!(other.load(Ordering::SeqCst));
}

fn span_name() -> Option<&'static str> {
    tracing::Span::current().metadata().map(tracing::Metadata::name)
}

/// Work that records the span of each of its polls.
async fn record_spans(spans: Arc<Mutex<Vec<Option<&'static str>>>>) -> WorkResult {
    for _ in 0..3 {
        spans.lock().unwrap().push(span_name());
        yield_once().await;
    }
    Ok(7)
}

#[test]
fn work_runs_in_the_span_of_its_leader_when_the_driver_task_polls_it() {
    tracing::subscriber::with_default(tracing_subscriber::registry(), || {
        let runtime = current_thread();
        let flight = flight();
        let spans = Arc::<Mutex<Vec<_>>>::default();
        let leader = flight.run(0, || record_spans(Arc::clone(&spans))).instrument(tracing::info_span!("leader"));
        let others = async { join_all((0..3).map(|_| flight.run(0, pending))).await };
        let others = others.instrument(tracing::info_span!("others"));
        let (first, others) = runtime.block_on(join(leader, others));
        assert_eq!(first.unwrap(), 7);
        assert!(others.into_iter().all(|other| other.unwrap() == 7));
        assert_eq!(*spans.lock().unwrap(), [Some("leader"); 3]);
        assert_eq!(span_name(), None);
    });
}

#[test]
fn work_runs_in_the_span_of_its_leader_when_a_follower_polls_it() {
    tracing::subscriber::with_default(tracing_subscriber::registry(), || {
        let flight = flight();
        let spans = Arc::<Mutex<Vec<_>>>::default();
        let work = record_spans(Arc::clone(&spans));
        let mut leader = task::spawn(flight.run(0, || work).instrument(tracing::info_span!("leader")));
        assert_pending!(leader.poll());
        let mut other = task::spawn(flight.run(0, pending).instrument(tracing::info_span!("other")));
        assert_pending!(other.poll());
        drop(leader);
        assert_eq!(block_on(other).unwrap(), 7);
        assert_eq!(*spans.lock().unwrap(), [Some("leader"); 3]);
    });
}

#[test]
fn work_runs_with_the_subscriber_of_its_leader_whichever_caller_polls_it() {
    let flight = flight();
    let has_subscriber = || tracing::dispatcher::get_default(|dispatch| dispatch.is::<tracing_subscriber::Registry>());
    let work = async move {
        yield_once().await;
        Ok(u8::from(has_subscriber()).into())
    };
    let mut leader = task::spawn(flight.run(0, || work));
    tracing::subscriber::with_default(tracing_subscriber::registry(), || assert_pending!(leader.poll()));
    assert!(!has_subscriber());
    assert_eq!(block_on(leader).unwrap(), 1);
}

#[test]
fn work_is_dropped_in_the_span_of_its_leader_whether_it_ends_or_is_cancelled() {
    let _spans = enable_spans();
    for is_cancelled in [true, false] {
        let (flight, notes) = (flight(), SpanNotes::default());
        let on_drop = notes.note_on_drop();
        let work = async move {
            let _on_drop = on_drop;
            if is_cancelled {
                pending::<()>().await;
            }
            yield_once().await;
            Ok(7)
        };
        let mut leader = task::spawn(flight.run(0, || work));
        tracing::info_span!("leader").in_scope(|| assert_pending!(leader.poll()));
        let mut other = task::spawn(flight.run(0, pending).instrument(tracing::info_span!("other")));
        assert_pending!(other.poll());
        drop(leader);
        if !is_cancelled {
            assert_ready_ok!(other.poll());
        }
        drop(other);
        assert_eq!(notes.names(), [Some("leader")], "{is_cancelled}");
    }
}

#[test]
fn work_started_outside_a_span_runs_outside_of_spans() {
    tracing::subscriber::with_default(tracing_subscriber::registry(), || {
        let runtime = current_thread();
        let flight = flight();
        let spans = Arc::<Mutex<Vec<_>>>::default();
        runtime.block_on(async {
            let first = flight.run(0, || record_spans(Arc::clone(&spans)));
            let other = flight.run(0, pending).instrument(tracing::info_span!("other"));
            let (first, other) = join(first, other).await;
            assert_eq!((first.unwrap(), other.unwrap()), (7, 7));
        });
        assert_eq!(*spans.lock().unwrap(), [None; 3]);
    });
}
