//! A subscriber that panics at every event changes nothing: callers get the same results, and no permit stays held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onelane::{EndpointGuard, run_blocking};

use support::runtimes::current_thread;
use tracing::instrument::Instrument;
use tracing::{Event, Subscriber, info_span, subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::{flight, guard, offload, quiet_panic};

#[derive(Clone, Default)]
struct Panicking(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Panicking {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "onelane" {
            self.0.fetch_add(1, Ordering::SeqCst);
            quiet_panic();
        }
    }
}

#[test]
fn panics_of_the_subscriber_change_no_result() {
    let panicking = Panicking::default();
    subscriber::with_default(tracing_subscriber::registry().with(panicking.clone()), || {
        let runtime = current_thread();
        // The span makes tasks on other threads use the subscriber, too.
        runtime.block_on(
            async {
                guard::scenario().await;
                flight::scenario().await;
                offload::scenario().await;
            }
            .instrument(info_span!("hostile")),
        );
        guard::scenario_of_runtimes();
        flight::scenario_of_runtimes();
        offload::scenario_of_runtimes();
    });
    assert!(panicking.0.load(Ordering::SeqCst) > 20, "{:?}", panicking.0);
}

/// Panics with the panic hook, which records the location.
struct Loud;

impl<S: Subscriber> Layer<S> for Loud {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        panic!("on purpose");
    }
}

/// A task that unwinds without the hook has no location, although an event was emitted while it was unwinding.
#[test]
fn panic_of_the_subscriber_is_not_taken_for_that_of_a_task() {
    static GUARD: EndpointGuard = EndpointGuard::new("unwinding");

    let error = subscriber::with_default(tracing_subscriber::registry().with(Loud), || {
        let _held = GUARD.try_acquire().unwrap();
        let work = async {
            let queue_and_panic = || {
                let mut waiting = tokio_test::task::spawn(GUARD.acquire());
                assert!(waiting.poll().is_pending());
                quiet_panic();
            };
            run_blocking(queue_and_panic).await
        };
        current_thread().block_on(work.instrument(info_span!("hostile")))
    });
    assert_eq!(GUARD.stats().cancelled, 1, "the caller left the queue, which emits an event");
    assert_eq!(error.unwrap_err().panic().unwrap().location(), None);
}
