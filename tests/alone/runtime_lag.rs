//! Tests the warning about a blocked server runtime: it names the service that blocks it.
//!
//! It runs alone, because the host's thread logs to the global subscriber of the process.

#![allow(clippy::unwrap_used, reason = "a test fails on anything unexpected")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onelane::background::{Placement, Service, ServiceHost, service_fn};
use tokio::runtime::Builder;
use tracing::field::Field;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const PATIENCE: Duration = Duration::from_secs(20);

/// Collects warnings with their fields.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            let mut text = String::new();
            event.record(&mut |field: &Field, value: &dyn Debug| text += &format!("{field}={value:?} "));
            self.0.lock().unwrap().push(text);
        }
    }
}

impl Warnings {
    /// Returns the lag warnings that name a service. A busy machine also delays tasks, but such a warning names none.
    fn naming_a_service(&self) -> Vec<String> {
        let names_a_service =
            |text: &&String| text.contains("server runtime is blocked") && !text.contains("in_poll=[]");
        self.0.lock().unwrap().iter().filter(names_a_service).cloned().collect()
    }

    fn wait_for(&self, count: usize) {
        let start = Instant::now();
        while self.naming_a_service().len() < count {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.0.lock().unwrap());
            // The host checks the runtime from its own thread, in real time.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Returns a service that waits for each notification and then blocks its thread until the next of these `counts` of
/// warnings is reached, and a bit longer.
fn blocks_on_demand(
    name: &str,
    start: &Arc<tokio::sync::Notify>,
    warnings: &Warnings,
    counts: &'static [usize],
) -> Service {
    let (start, warnings) = (Arc::clone(start), warnings.clone());
    service_fn(name, move |cx| {
        let (start, warnings) = (Arc::clone(&start), warnings.clone());
        async move {
            for count in counts {
                start.notified().await;
                warnings.wait_for(*count);
                // The host checks repeatedly, in real time, but must not warn again.
                std::thread::sleep(Duration::from_millis(250));
            }
            cx.stopping().await;
            Ok(())
        }
    })
}

#[test]
fn service_that_blocks_the_server_runtime_is_named_once_per_block() {
    let _alone = crate::alone();
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(warnings.clone())).unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let [shared, own] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let idle = service_fn("idle", |cx| async move {
        cx.stopping().await;
        Ok(())
    });
    let host = ServiceHost::builder()
        .without_signals()
        .service(blocks_on_demand("culprit", &shared, &warnings, &[1, 2]))
        .service(blocks_on_demand("on a thread", &own, &warnings, &[2]).placement(Placement::Thread))
        .service(idle)
        .build()
        .unwrap();
    runtime.block_on(host.start()).unwrap();

    // The service on its own thread blocks all the time, but only itself.
    own.notify_one();
    shared.notify_one();
    warnings.wait_for(1);
    let start = Instant::now();
    while host.status().runtime_lag() >= Duration::from_millis(50) {
        assert!(start.elapsed() < PATIENCE, "{:?}", host.status());
        // As above, in real time.
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.notify_one();
    warnings.wait_for(2);
    runtime.block_on(host.shutdown()).unwrap();

    let seen = warnings.naming_a_service();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for warning in seen {
        assert!(warning.contains("in_poll=[\"culprit\"]"), "{warning}");
    }
}
