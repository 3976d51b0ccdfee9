//! The report of a worker that a service blocks names that service.
//!
//! The watch of the host reports to the global subscriber, which the test sets for the whole process.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onelane::background::{Placement, Service, ServiceHost, service_fn};
use tracing::field::Field;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use support::runtimes::multi_thread;
use support::waiting::PATIENCE;

/// Collects the warnings, with their fields.
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
    /// Returns the first report of each block by a service. On a busy machine, a worker may be late without a service.
    fn of_services(&self) -> Vec<String> {
        let names_a_service = |text: &&String| {
            text.contains("worker is blocked") && text.contains("label=\"service") && text.contains("repeats=0")
        };
        self.0.lock().unwrap().iter().filter(names_a_service).cloned().collect()
    }

    fn wait_for(&self, count: usize) {
        let start = Instant::now();
        while self.of_services().len() < count {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.0.lock().unwrap());
            // The watch measures real time.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Returns a service that blocks its thread after each request. A block lasts until the given number of warnings has
/// come, and a while longer.
fn blocking_service(
    name: &str,
    requests: &Arc<tokio::sync::Notify>,
    all_warnings: &Warnings,
    counts: &'static [usize],
) -> Service {
    let (requests, warnings) = (Arc::clone(requests), all_warnings.clone());
    service_fn(name, move |cx| {
        let (requests, warnings) = (Arc::clone(&requests), warnings.clone());
        async move {
            for count in counts {
                requests.notified().await;
                warnings.wait_for(*count);
                // The watch keeps measuring in real time, but must not report the same block as a new one.
                std::thread::sleep(Duration::from_millis(250));
            }
            cx.stopping().await;
            Ok(())
        }
    })
}

#[test]
fn each_block_of_the_runtime_of_the_server_is_reported_once_with_its_service() {
    let _alone = crate::alone();
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(warnings.clone())).unwrap();
    let runtime = multi_thread(1);
    let [shared, separate] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let idle = service_fn("idle", |cx| async move {
        cx.stopping().await;
        Ok(())
    });
    let host = ServiceHost::builder()
        .without_signals()
        .service(blocking_service("culprit", &shared, &warnings, &[1, 2]))
        .service(blocking_service("on a thread", &separate, &warnings, &[2]).placement(Placement::Thread))
        .service(idle)
        .build()
        .unwrap();
    runtime.block_on(host.start()).unwrap();

    // The service on its own thread blocks all the time, and does not affect the server's runtime.
    separate.notify_one();
    shared.notify_one();
    warnings.wait_for(1);
    let start = Instant::now();
    while !host.status().blocked().is_empty() {
        assert!(start.elapsed() < PATIENCE, "{:?}", host.status());
        // The watch measures real time.
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.notify_one();
    warnings.wait_for(2);
    let _ = runtime.block_on(host.shutdown()).unwrap();

    let reports = warnings.of_services();
    assert_eq!(reports.len(), 2, "{reports:?}");
    for report in reports {
        assert!(report.contains("label=\"service culprit\""), "{report}");
    }
}
