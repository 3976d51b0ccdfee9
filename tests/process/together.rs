//! Process pools with guards, flights, streams and `tracing`.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

use futures::future::join_all;
use futures::{StreamExt, stream};
use onelane::backend::{Host, LockDomain};
use onelane::{EndpointGuard, KeyedGuard, ProcessPool, SingleFlight};
use support::runtimes::current_thread;
use support::waiting::PATIENCE;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tracing::field::{Field, Visit};
use tracing::{Event, Instrument, Level, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::work::{Fault, add, fail, pid};

static HOST: LockDomain = LockDomain::new("process-pools");
static REPORT: EndpointGuard = EndpointGuard::builder("report").distributed(&HOST).build();
static EXPORT: EndpointGuard = EndpointGuard::builder("export").distributed(&HOST).build();

/// Acquires both guards in a worker.
fn acquire_both(directory: PathBuf) -> [String; 2] {
    // A worker keeps its statics from task to task, and the domain needs the runtime that it was connected in.
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(current_thread);
    RUNTIME.block_on(async {
        if !HOST.is_connected() {
            HOST.connect(Host::new(directory)).await.unwrap();
        }
        let acquire = async |guard: &'static EndpointGuard| {
            let acquired = timeout(PATIENCE, guard.acquire()).await.unwrap().map(drop);
            acquired.map_or_else(|error| format!("{:?}", error.kind()), |()| "acquired".to_owned())
        };
        [acquire(&REPORT).await, acquire(&EXPORT).await]
    })
}

#[tokio::test]
async fn task_that_would_wait_for_its_callers_distributed_guard_is_refused() {
    let directory = std::env::temp_dir().join(format!("onelane-process-{}", pid(())));
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    HOST.connect(Host::new(&directory)).await.unwrap();
    let pool = ProcessPool::builder("nested").workers(1).build();
    let nested = REPORT.run(pool.run(acquire_both, directory.clone())).await.unwrap().unwrap();
    assert_eq!(nested, ["WouldDeadlock", "acquired"]);
    let outside = pool.run(acquire_both, directory.clone()).await.unwrap();
    assert_eq!(outside, ["acquired", "acquired"], "the next task is outside");
    let keyed: KeyedGuard<u32> = KeyedGuard::new("keyed");
    let outside = keyed.run(1, pool.run(acquire_both, directory.clone())).await.unwrap().unwrap();
    assert_eq!(outside, ["acquired", "acquired"], "a guard that the worker does not have concerns no guard there");
    HOST.disconnect().await;
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn crash_behind_a_guard_releases_it_and_behind_a_flight_reaches_all_callers() {
    let pool = ProcessPool::builder("behind").workers(2).forward_stderr(false).build();
    let guard = EndpointGuard::new("behind");
    for _ in 0..3 {
        assert!(guard.run(pool.run(fail, Fault::Abort)).await.unwrap().is_err());
        assert_eq!(guard.run(pool.run(fail, Fault::None)).await.unwrap().unwrap(), 7);
    }

    let flight: SingleFlight<&str, i32> = SingleFlight::new("flight");
    let callers = (0..8).map(|_| {
        let pool = pool.clone();
        flight.run("key", move || async move { Ok(pool.run(pid, ()).await.unwrap()) })
    });
    let pids: Vec<i32> = join_all(callers).await.into_iter().map(Result::unwrap).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]));
    assert_eq!(pool.stats().tasks.started, 7, "one task for eight callers");
}

#[tokio::test]
async fn stream_of_tasks_keeps_its_order() {
    let pool = ProcessPool::builder("stream").workers(2).build();
    let sums = stream::iter(0..50).map(|number| pool.run(add, (number, 1))).buffered(4);
    let sums: Vec<u32> = sums.map(Result::unwrap).collect().await;
    assert!(sums.into_iter().eq(1..51));
}

/// Records events: the level, the fields, and the innermost span.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() != "worker" {
                    self.0 += &format!(" {}={value:?}", field.name());
                }
            }
        }
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        let span = cx.lookup_current().map(|span| span.name());
        self.0.lock().unwrap().push(format!("{} in {}", text.0, span.unwrap_or("no span")));
    }
}

#[tokio::test]
async fn events_of_a_worker_appear_in_the_span_of_its_caller() {
    fn report(fault: Fault) -> u32 {
        tracing::info!(width = 128, format = "png", "resized");
        tracing::debug!("not wanted");
        std::thread::spawn(|| tracing::warn!("on a thread")).join().unwrap();
        fail(fault)
    }

    let notes = Notes::default();
    let filter = tracing_subscriber::filter::LevelFilter::from_level(Level::INFO);
    let subscriber = tracing_subscriber::registry().with(notes.clone().with_filter(filter));
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let pool = ProcessPool::builder("events").workers(1).forward_stderr(false).build();
    let taken = || std::mem::take(&mut *notes.0.lock().unwrap());

    assert_eq!(pool.run(report, Fault::None).instrument(info_span!("request")).await.unwrap(), 7);
    let expected = [
        r#"INFO message=event of a worker target="process::together" fields="width=128 format=\"png\"" event="resized" in request"#,
        r#"WARN message=event of a worker target="process::together" fields="" event="on a thread" in request"#,
    ];
    let events = taken();
    assert_eq!(sorted(&events), sorted(&expected), "{events:#?}");

    // Events that a worker emits before it dies are not lost.
    assert!(pool.run(report, Fault::Segfault).await.is_err());
    let events = taken();
    assert!(events.iter().filter(|event| event.contains("event of a worker")).count() == 2, "{events:#?}");
    assert!(events.iter().all(|event| event.ends_with("in no span")), "{events:#?}");
}

/// Splits events into sorted words, because the order of fields has no meaning.
fn sorted<T: AsRef<str>>(events: &[T]) -> Vec<Vec<&str>> {
    let words = events.iter().map(|event| {
        let mut words: Vec<&str> = event.as_ref().split(' ').collect();
        words.sort_unstable();
        words
    });
    words.collect()
}
