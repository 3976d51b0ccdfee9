//! Every event of the documentation is emitted, with its level and all of its fields, and no other event is.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod background;
mod flight;
mod guard;
mod hostile;
mod offload;
#[cfg(target_os = "linux")]
mod process;
#[cfg(unix)]
mod serve;
mod stores;
mod values;
mod watch;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use support::events::{Event, events_of_page, page};
use support::runtimes::multi_thread;
use tracing::field::Field;
use tracing_subscriber::layer::{self, Layer, SubscriberExt};

const SHORT: Duration = Duration::from_millis(20);

/// Events that each need a separate process: a process that exits (see `signals/stuck_process.rs`), one that can't
/// listen for signals, one that has no file descriptors left, and one that has no threads left.
const OF_WHOLE_PROCESSES: [&str; 5] = [
    "signal received after the host stopped: exiting at once",
    "process still running after its host stopped: exiting",
    "listening for signals failed",
    "accepting a probe connection failed: retrying shortly",
    "host has no watch: blocked workers are not reported",
];

/// Collects the events of the crate.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Event>>>);

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        if !event.metadata().target().starts_with("onelane") {
            return;
        }
        assert_eq!(event.metadata().target(), "onelane");
        let (mut message, mut fields) = (String::new(), BTreeSet::new());
        event.record(&mut |field: &Field, value: &dyn Debug| match field.name() {
            "message" => message = format!("{value:?}"),
            name => {
                fields.insert(name.to_owned());
            }
        });
        self.0.lock().unwrap().push((event.metadata().level().to_string(), message, fields));
    }
}

/// Identifies a row of the page: the level, the message, and the field that names the guard, flight, pool or service.
type Row = (String, String, Option<String>);

fn row((level, message, fields): &Event) -> Row {
    let subject = ["guard", "flight", "pool", "service"].iter().find(|name| fields.contains(**name));
    (level.clone(), message.clone(), subject.map(|name| (*name).to_owned()))
}

/// Groups the events by row. Each row has all fields of its events.
fn by_row(events: &[Event]) -> BTreeMap<Row, BTreeSet<String>> {
    let mut rows = BTreeMap::<Row, BTreeSet<String>>::new();
    for event in events {
        rows.entry(row(event)).or_default().extend(event.2.iter().cloned());
    }
    rows
}

/// Polls a future once, and drops it.
fn poll_and_drop(future: impl Future) {
    assert!(pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// Panics without a message on the standard error.
fn quiet_panic() {
    std::panic::resume_unwind(Box::new("on purpose"))
}

#[test]
fn scenarios_emit_exactly_the_events_of_the_page() {
    let recorder = Recorder::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(recorder.clone())).unwrap();
    let runtime = multi_thread(2);
    runtime.block_on(guard::scenario());
    guard::scenario_of_runtimes();
    runtime.block_on(flight::scenario());
    flight::scenario_of_runtimes();
    runtime.block_on(offload::scenario());
    offload::scenario_of_runtimes();
    #[cfg(target_os = "linux")]
    runtime.block_on(process::scenario());
    watch::scenario();
    runtime.block_on(web::scenario());
    runtime.block_on(stores::scenario());
    #[cfg(unix)]
    runtime.block_on(serve::scenario());
    runtime.block_on(background::scenario());
    background::scenario_of_runtimes();

    let emitted = by_row(&recorder.0.lock().unwrap());
    let mut listed = by_row(&events_of_page(&page()));
    let before = listed.len();
    listed.retain(|(_, message, _), _| !OF_WHOLE_PROCESSES.contains(&&**message));
    assert_eq!(before - listed.len(), OF_WHOLE_PROCESSES.len());
    let lacking: Vec<_> = listed.iter().filter(|(row, fields)| emitted.get(row) != Some(fields)).collect();
    let found: Vec<_> = lacking.iter().map(|(row, _)| emitted.get(row)).collect();
    assert!(lacking.is_empty(), "no scenario emits these events with these fields: {lacking:#?}, but {found:?}");
    let unknown: Vec<_> = emitted.keys().filter(|row| !listed.contains_key(row)).collect();
    assert!(unknown.is_empty(), "the page lacks {unknown:#?}");
}
