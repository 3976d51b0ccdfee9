//! The warning of a server's runtime that gives no turn: it names who blocks it.
//!
//! A binary of its own, with one test, because the thread of the host tells the subscriber of the whole process.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onelane::background::{Placement, Service, ServiceHost, service_fn};
use tokio::runtime::Builder;
use tracing::field::Field;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const PATIENCE: Duration = Duration::from_secs(20);

/// The warnings, with their fields.
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
    /// Without those that name nobody: a busy machine gives no turn, either.
    fn of_lag(&self) -> Vec<String> {
        let names_one = |text: &&String| text.contains("gives no turn") && !text.contains("in_poll=[]");
        self.0.lock().unwrap().iter().filter(names_one).cloned().collect()
    }

    fn wait_for(&self, count: usize) {
        let start = Instant::now();
        while self.of_lag().len() < count {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.0.lock().unwrap());
            // The host looks at the runtime from its own thread, in real time.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A service that blocks the thread that polls it, from each ask until there are as many warnings as it says, and longer.
fn blocks(name: &str, asks: &Arc<tokio::sync::Notify>, until: &Warnings, counts: &'static [usize]) -> Service {
    let (asks, warnings) = (Arc::clone(asks), until.clone());
    service_fn(name, move |cx| {
        let (asks, warnings) = (Arc::clone(&asks), warnings.clone());
        async move {
            for count in counts {
                asks.notified().await;
                warnings.wait_for(*count);
                // The host looks again and again, in real time, and has told already.
                std::thread::sleep(Duration::from_millis(250));
            }
            cx.stopping().await;
            Ok(())
        }
    })
}

#[test]
fn services_that_block_the_runtime_of_the_server_are_named_once_for_each_time() {
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
        .service(blocks("culprit", &shared, &warnings, &[1, 2]))
        .service(blocks("on a thread", &own, &warnings, &[2]).placement(Placement::Thread))
        .service(idle)
        .build()
        .unwrap();
    runtime.block_on(host.start()).unwrap();

    // The one on a thread of its own blocks all the time, and nobody else.
    own.notify_one();
    shared.notify_one();
    warnings.wait_for(1);
    let start = Instant::now();
    while host.status().runtime_lag() >= Duration::from_millis(50) {
        assert!(start.elapsed() < PATIENCE, "{:?}", host.status());
        // As above.
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.notify_one();
    warnings.wait_for(2);
    runtime.block_on(host.shutdown()).unwrap();

    let told = warnings.of_lag();
    assert_eq!(told.len(), 2, "{told:?}");
    for warning in told {
        assert!(warning.contains("in_poll=[\"culprit\"]"), "{warning}");
    }
}
