//! What a host waits for while it stops, and what its report names. Detached work is known to the whole process.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use onelane::background::{
    BuildError, HostPhase, Restart, ServiceHost, ServiceHostBuilder, Supervision, UnfinishedWork, service_fn,
};
use onelane::guard::AcquireErrorKind;
use onelane::web::actix::FlightMiddleware;
use onelane::web::axum::FlightLayer;
use onelane::{BlockingPool, EndpointGuard, Managed, ManagedSnapshot, SingleFlight};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::alone;

const SECOND: Duration = Duration::from_secs(1);

fn host() -> ServiceHostBuilder {
    ServiceHost::builder().supervision(Supervision::ServerRuntime).without_signals()
}

/// Starts work of the guard that ends when the returned sender is used, and drops its caller.
async fn detach(guard: &Arc<EndpointGuard>) -> oneshot::Sender<()> {
    let (sender, end) = oneshot::channel::<()>();
    let mut run = tokio_test::task::spawn(Arc::clone(guard).run_to_completion_owned(async {
        let _ = end.await;
    }));
    assert!(run.poll().is_pending());
    drop(run);
    tokio::task::yield_now().await;
    assert_eq!(guard.stats().detached, 1);
    sender
}

fn unfinished(work: &[UnfinishedWork]) -> Vec<(&str, usize)> {
    work.iter().map(|work| (work.name(), work.count())).collect()
}

/// A user-defined managed type, which records what happens to it.
struct Recorder {
    name: &'static str,
    serves_services: bool,
    log: Arc<Mutex<Vec<String>>>,
    drained: Notify,
}

impl Managed for Recorder {
    fn name(&self) -> &str {
        self.name
    }

    fn close(&self) {
        self.log.lock().unwrap().push(format!("close {}", self.name));
        self.drained.notify_one();
    }

    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.drained.notified().await;
            self.drained.notify_one();
        })
    }

    fn snapshot(&self) -> ManagedSnapshot {
        let snapshot = ManagedSnapshot::new("recorder").with_active(3);
        if self.serves_services { snapshot.serving_services() } else { snapshot }
    }
}

#[test]
fn stop_waits_for_work_that_continues_without_its_caller() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        let guard = Arc::new(EndpointGuard::new("detached work"));
        let host = host()
            .service(service_fn("actor", async |cx| {
                cx.stopping().await;
                Ok(())
            }))
            .build()
            .unwrap();
        host.start().await.unwrap();
        let end = detach(&guard).await;
        let running = onelane::detached::running();
        assert_eq!(running.iter().map(|work| (work.name(), work.count())).collect::<Vec<_>>(), [("detached work", 1)]);
        let start = Instant::now();
        let (report, ()) = tokio::join!(host.shutdown(), async {
            sleep(3 * SECOND).await;
            assert_eq!(host.status().phase(), HostPhase::Draining);
            assert!(host.status().service("actor").unwrap().is_ready(), "the work may need the service");
            end.send(()).unwrap();
        });
        let report = report.unwrap();
        assert_eq!((start.elapsed().as_secs(), report.unfinished(), report.exit_code()), (3, &[][..], 0));
        assert!(report.is_clean() && guard.stats().finished_detached == 1);
    });
}

#[test]
fn work_that_does_not_end_in_time_is_reported_by_name() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        let guard = Arc::new(EndpointGuard::new("endless"));
        let host = host().drain_timeout(2 * SECOND).build().unwrap();
        host.start().await.unwrap();
        let _end = detach(&guard).await;
        let report = host.shutdown().await.unwrap();
        assert_eq!(report.took().as_secs(), 2);
        assert_eq!(unfinished(report.unfinished()), [("endless", 1)]);
        assert_eq!((report.is_clean(), report.exit_code()), (false, 1));
    });
}

#[test]
fn work_that_is_dropped_during_the_stop_is_reported_by_name() {
    let _alone = alone();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = Arc::new(EndpointGuard::new("dropped with its runtime"));
    let _end = other.block_on(detach(&guard));
    tokio_test::block_on(async {
        let host = host().build().unwrap();
        let handle = host.handle();
        // As with actix-web, whose workers end with what is left on them.
        let server = async move {
            handle.request_shutdown();
            handle.draining().cancelled().await;
            other.shutdown_background();
            while guard.stats().cut_off == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            Ok::<(), std::io::Error>(())
        };
        let report = host.run_until(server).await.unwrap();
        assert_eq!(unfinished(report.unfinished()), [("dropped with its runtime", 1)]);
        assert_eq!(report.exit_code(), 1);
    });
}

#[test]
fn guards_are_closed_after_the_server_and_pools_after_the_services() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let record =
            |name, serves_services| Recorder { name, serves_services, log: Arc::clone(&log), drained: Notify::new() };
        let (guard, flight) = (Arc::new(EndpointGuard::new("gate")), Arc::new(SingleFlight::<u8, u8>::new("page")));
        let actor = service_fn("actor", {
            let log = Arc::clone(&log);
            move |cx| {
                let log = Arc::clone(&log);
                async move {
                    cx.stopping().await;
                    log.lock().unwrap().push("service stops".into());
                    Ok(())
                }
            }
        });
        let host = host()
            .service(actor)
            .manage(record("pool", true))
            .manage(Arc::clone(&guard))
            .manage(record("queue", false))
            .manage(Arc::clone(&flight))
            .build()
            .unwrap();
        let names: Vec<_> = host.status().managed().map(|(name, state)| format!("{name} {}", state.kind())).collect();
        assert_eq!(names, ["pool recorder", "gate guard", "queue recorder", "page flight"]);
        let (handle, records, gate) = (host.handle(), Arc::clone(&log), Arc::clone(&guard));
        let server = async move {
            handle.request_shutdown();
            handle.draining().cancelled().await;
            sleep(SECOND).await;
            assert!(gate.try_acquire().is_ok(), "the last requests still pass the guard");
            records.lock().unwrap().push("server ends".into());
            Ok::<(), std::io::Error>(())
        };
        let report = host.run_until(server).await.unwrap();
        // At the end the host closes everything again, in case the stop was forced.
        let first = log.lock().unwrap()[..4].to_vec();
        assert_eq!(first, ["server ends", "close queue", "service stops", "close pool"]);
        assert_eq!(guard.try_acquire().unwrap_err(), AcquireErrorKind::Closed);
        assert!(flight.is_closed());
        assert!(report.is_clean(), "{report:?}");
    });
}

#[test]
fn held_permit_of_a_managed_guard_is_waited_for_and_reported() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        let guard = Arc::new(EndpointGuard::new("held"));
        for released_in_time in [true, false] {
            let guard = if released_in_time { Arc::clone(&guard) } else { Arc::new(EndpointGuard::new("held")) };
            let permit = guard.try_acquire().unwrap();
            let host = host().drain_timeout(2 * SECOND).manage(Arc::clone(&guard)).build().unwrap();
            host.start().await.unwrap();
            let (report, _permit) = tokio::join!(host.shutdown(), async {
                sleep(SECOND).await;
                (!released_in_time).then_some(permit)
            });
            let report = report.unwrap();
            let expected = if released_in_time { vec![] } else { vec![("held", 1)] };
            assert_eq!(unfinished(report.unfinished()), expected);
            assert_eq!(report.is_clean(), released_in_time);
        }
    });
}

#[test]
fn forced_stop_waits_for_no_work() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        let guard = Arc::new(EndpointGuard::new("forced"));
        let host = host().manage(EndpointGuard::new("idle")).build().unwrap();
        host.start().await.unwrap();
        let _end = detach(&guard).await;
        let start = Instant::now();
        let (report, ()) = tokio::join!(host.shutdown(), async {
            sleep(SECOND).await;
            host.handle().force_shutdown();
        });
        let report = report.unwrap();
        assert!(start.elapsed() < SECOND + SECOND / 10);
        assert_eq!(unfinished(report.unfinished()), [("forced", 1)], "the idle guard was closed in time");
    });
}

#[test]
fn flight_layers_are_shown_by_name_closed_and_waited_for() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        for ends_in_time in [true, false] {
            let layer = FlightLayer::new("page".to_owned());
            let middleware = FlightMiddleware::new("report".to_owned());
            let host = host().drain_timeout(2 * SECOND).manage(layer.clone()).manage(middleware.clone());
            let host = host.build().unwrap();
            host.start().await.unwrap();

            let (sender, end) = oneshot::channel::<()>();
            let end = Arc::new(Mutex::new(Some(end)));
            let handler = async move || {
                let end = end.lock().unwrap().take().unwrap();
                end.await.map_or("no end", |()| "answer")
            };
            let service = Router::new().route("/", get(handler)).layer(layer.clone());
            let ask = || tokio::spawn(service.clone().oneshot(Request::new(Body::empty())));
            let calls = [ask(), ask()];
            tokio::task::yield_now().await;
            let flight = ManagedSnapshot::new("flight");
            let status = host.status();
            let expected = [("page", flight.clone().with_active(1).with_waiting(2)), ("report", flight)];
            let expected = expected.map(|(name, state)| (name.into(), state));
            assert_eq!(status.managed().collect::<Vec<_>>(), expected);

            let (report, sender) = tokio::join!(host.shutdown(), async {
                sleep(SECOND).await;
                assert!(layer.is_closed() && middleware.is_closed());
                assert_eq!(ask().await.unwrap().unwrap().status(), 503);
                if ends_in_time {
                    sender.send(()).unwrap();
                    return None;
                }
                Some(sender)
            });
            let report = report.unwrap();
            let expected = if ends_in_time { vec![] } else { vec![("page", 1)] };
            assert_eq!((unfinished(report.unfinished()), report.is_clean()), (expected, ends_in_time));
            drop(sender);
            for call in calls {
                assert_eq!(call.await.unwrap().unwrap().status(), 200);
            }
        }
    });
}

#[test]
fn managed_code_that_panics_is_reported_and_ends_nothing() {
    struct Panics;
    impl Managed for Panics {
        fn name(&self) -> &str {
            "panics"
        }
        fn close(&self) {
            panic!("close");
        }
        fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async { panic!("drained") })
        }
        fn snapshot(&self) -> ManagedSnapshot {
            ManagedSnapshot::new("user")
        }
    }
    let _alone = alone();
    tokio_test::block_on(async {
        let host = host().manage(Panics).build().unwrap();
        host.start().await.unwrap();
        let report = host.shutdown().await.unwrap();
        assert_eq!(unfinished(report.unfinished()), [("panics", 1)]);
    });
}

#[test]
fn names_are_unique_among_services_and_what_is_managed() {
    let error = |builder: ServiceHostBuilder| builder.build().unwrap_err();
    let service = || service_fn("twin", async |_| pending().await);
    let twice = error(host().manage(EndpointGuard::new("twin")).manage(EndpointGuard::new("twin")));
    let as_service = error(host().service(service()).manage(EndpointGuard::new("twin")));
    for error in [twice, as_service] {
        assert!(matches!(&error, BuildError::SharedName { name, .. } if &**name == "twin"), "{error}");
    }
}

/// The last work ends and no service is alive: the pool is still waited for.
#[test]
fn busy_pool_is_waited_for_when_no_service_is_left() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = BlockingPool::builder("handlers' pool").build();
        let host = host().manage(EndpointGuard::new("gate")).manage(pool.clone()).build().unwrap();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let task = pool.task(move |_| {
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        });
        let task = task.start().unwrap();
        has_begun.recv().unwrap();
        host.start().await.unwrap();
        let report = host.shutdown().await.unwrap();
        assert!(task.is_finished() && pool.is_closed());
        assert!(report.is_clean(), "{report:?}");
        task.await.unwrap();
    });
}

/// A server that is cut off drops its requests, and their handlers continue without it.
#[test]
fn work_that_the_dropped_server_leaves_is_waited_for() {
    let _alone = alone();
    tokio_test::block_on(async {
        tokio::time::pause();
        let guard = Arc::new(EndpointGuard::new("left by the server"));
        let host = host().drain_timeout(2 * SECOND).build().unwrap();
        let handle = host.handle();
        let (served, end) = (Arc::clone(&guard), oneshot::channel::<()>());
        let server = async move {
            handle.request_shutdown();
            let request = served.run_to_completion_owned(async move {
                let _ = end.1.await;
            });
            request.await.unwrap();
            Ok::<(), std::io::Error>(())
        };
        let release = async {
            sleep(3 * SECOND).await;
            assert_eq!(guard.stats().detached, 1);
            drop(end.0);
        };
        let (report, ()) = tokio::join!(host.run_until(server), release);
        let report = report.unwrap();
        assert_eq!((report.took().as_secs(), report.server_cut_off(), report.unfinished()), (3, true, &[][..]));
    });
}

/// Its `drained` is not ready at the first poll, as that of an actor or a database pool is not.
#[test]
fn managed_value_that_needs_several_polls_to_drain_is_clean() {
    struct Slow;
    impl Managed for Slow {
        fn name(&self) -> &str {
            "slow"
        }
        fn close(&self) {}
        fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(tokio::task::yield_now())
        }
        fn snapshot(&self) -> ManagedSnapshot {
            ManagedSnapshot::new("actor")
        }
    }
    let _alone = alone();
    tokio_test::block_on(async {
        let host = host().manage(Slow).build().unwrap();
        host.start().await.unwrap();
        let verbose = host.status().probe("/readyz?verbose").unwrap();
        assert_eq!(verbose.body(), "[+]slow ok: actor, 0 active, 0 waiting\nreadyz check passed\n");
        assert!(host.shutdown().await.unwrap().is_clean());
    });
}

/// The server of a host that fails to start is never polled, so nothing waits for its end.
#[test]
fn failed_start_waits_for_no_server() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let fails = service_fn("fails", async |_| Err("no license".into())).manual_ready();
        let builder = ServiceHost::builder().without_signals().drain_timeout(60 * SECOND);
        let host = builder.service(fails.restart(Restart::Never)).manage(EndpointGuard::new("idle")).build().unwrap();
        let start = std::time::Instant::now();
        host.run_until(pending::<Result<(), std::io::Error>>()).await.unwrap_err();
        assert!(start.elapsed() < 30 * SECOND, "{:?}", start.elapsed());
    });
}
