//! The event at the end of a poll that was reported.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use futures::FutureExt;
use onelane::watch::watch;
use support::runtimes::multi_thread;
use tracing::dispatcher::{Dispatch, with_default};
use tracing::field::Field;
use tracing::instrument::WithSubscriber;
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::inbox::Inbox;

const BLOCK: Duration = Duration::from_millis(300);

/// Collects the events of one task, each with its span.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut text = context.event_span(event).map_or_else(String::new, |span| format!("{}: ", span.name()));
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() != "took" {
                text += &format!("{}={value:?} ", field.name());
            }
        });
        self.0.lock().unwrap().push(text);
    }
}

fn events_of(future: impl Future<Output = ()> + Send + 'static) -> Vec<String> {
    let (events, inbox, runtime) = (Events::default(), Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(events.clone()));
    let span = with_default(&dispatch, || info_span!("request"));
    let task = future.instrument(span).with_subscriber(dispatch);
    runtime.block_on(runtime.spawn(task)).unwrap();
    inbox.wait_for_recovered(1);
    events.0.lock().unwrap().clone()
}

#[test]
fn slow_poll_is_an_event_in_the_span_of_its_task() {
    let events = events_of(watch("slow", async { sleep(BLOCK) }));
    assert_eq!(events, ["request: message=slow poll: it has blocked its worker label=\"slow\" "]);
}

#[test]
fn event_names_the_label_that_was_reported_and_no_label_that_was_polled_afterwards() {
    let events = events_of(watch("outer", async {
        sleep(BLOCK);
        let _ = watch("innocent", async {}).now_or_never();
    }));
    assert_eq!(events, ["request: message=slow poll: it has blocked its worker label=\"outer\" "]);
}

#[test]
fn slow_poll_is_one_event_if_an_inner_poll_was_reported() {
    let events = events_of(watch("outer", async {
        watch("inner", async { sleep(BLOCK) }).await;
        sleep(BLOCK);
    }));
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].starts_with("request: message=slow poll: it has blocked its worker label="), "{events:?}");
}

#[test]
fn poll_that_was_not_reported_is_no_event() {
    let events = events_of(async {
        sleep(BLOCK);
        tokio::task::yield_now().await;
        watch("innocent", async {}).await;
    });
    assert!(events.is_empty(), "{events:?}");
}
