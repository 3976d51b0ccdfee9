//! A subscriber that panics at every event changes nothing: callers get the same results, and no permit stays held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
