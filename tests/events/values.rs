//! The values of fields.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onelane::backend::LockDomain;
use onelane::{EndpointGuard, KeyedGuard};
use support::leak;
use support::runtimes::current_thread;
use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::poll_and_drop;
use crate::stores::TestStore;

type Values = BTreeMap<&'static str, String>;

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Values>>>);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut values = Values::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            values.insert(field.name(), format!("{value:?}"));
        });
        self.0.lock().unwrap().push(values);
    }
}

/// Returns the values of the last event that `scenario` emits.
fn event_of(scenario: impl FnOnce()) -> Values {
    let recorder = Recorder::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(recorder.clone()), scenario);
    recorder.0.lock().unwrap().pop().unwrap()
}

#[test]
fn durations_have_milliseconds() {
    let timeout = event_of(|| {
        let guard = EndpointGuard::builder("hasty").max_wait(Duration::from_nanos(2_345_678)).build();
        let _permit = guard.try_acquire().unwrap();
        current_thread().block_on(guard.acquire()).unwrap_err();
    });
    assert_eq!(timeout["message"], "caller timed out");
    let waited = timeout["waited"].strip_suffix("ms").unwrap();
    assert!(waited.parse::<u64>().is_ok(), "{timeout:?}");
}

#[test]
fn run_dropped_outside_a_runtime_says_why() {
    static GUARD: EndpointGuard = EndpointGuard::new("plain");

    let keyed: &KeyedGuard<u64> = leak(KeyedGuard::new("keyed"));
    let events = [
        event_of(|| poll_and_drop(GUARD.run_to_completion(pending::<()>()))),
        event_of(|| poll_and_drop(keyed.run_to_completion(7, pending::<()>()))),
    ];
    for (event, has_key) in events.iter().zip([false, true]) {
        assert_eq!(event["message"], "run dropped before it completed");
        assert_eq!(event.contains_key("key_hash"), has_key, "{event:?}");
        assert!(event["reason"].contains("outside of a runtime"), "{event:?}");
    }
}

#[test]
fn refusal_without_a_store_names_the_error_of_the_store() {
    let refusal = event_of(|| {
        let locks = leak(LockDomain::new("shop"));
        let guard = EndpointGuard::builder("report").distributed(locks).build();
        let store = TestStore::default();
        current_thread().block_on(async {
            locks.connect(store.clone()).await.unwrap();
            store.fails.store(true, Ordering::SeqCst);
            guard.acquire().await.unwrap_err();
        });
    });
    assert_eq!(refusal["message"], "caller refused: the guard has no store at the moment");
    assert!(refusal["error"].ends_with(": the test wants an error"), "{refusal:?}");
}
