//! Hosts and their services.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use onelane::EndpointGuard;
use onelane::background::{
    Backoff, Every, HostPhase, Intensity, Restart, Service, ServiceHost, ServiceHostBuilder, ServiceStatus,
    blocking_fn, periodic, periodic_blocking, service_fn,
};
use support::leak;
use support::runtimes::multi_thread;
use support::waiting::{Gate, until};

use crate::{SHORT, poll_and_drop};

fn builder() -> ServiceHostBuilder {
    ServiceHost::builder().without_signals()
}

/// A service that runs until it is asked to stop.
fn steady(name: &str) -> Service {
    service_fn(name, |cx| async move {
        cx.stopping().await;
        Ok(())
    })
}

/// A service that never ends.
fn endless(name: &str) -> Service {
    service_fn(name, |_| pending())
}

pub(crate) async fn scenario() {
    failures().await;
    shutdowns().await;
    late_stops().await;
}

async fn failures() {
    let gate = Arc::new(Gate::default());
    let wait = gate.wait();
    let failing = service_fn("failing", |_| async { Err("broken".into()) });
    let host = builder()
        .service(failing.backoff(Backoff::new(SHORT / 10)).intensity(Intensity::new(1, SHORT * 1_000)).degradable())
        .service(endless("silent").heartbeat(SHORT).stop_timeout(SHORT).restart(Restart::Never).degradable())
        .service(periodic("ticking", Every::fixed_delay(SHORT), |_| async { Err("broken".into()) }))
        .service(
            blocking_fn("blocked", move |_| {
                wait.block();
                Ok(())
            })
            .stop_timeout(SHORT),
        )
        .service(steady("steady"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    let has_ended = |name: &str| host.status().service(name).is_some_and(ServiceStatus::is_ended);
    until("two services have ended", || has_ended("failing") && has_ended("silent") && gate.inside() == 1).await;
    tokio::time::sleep(SHORT * 2).await;
    let _ = host.shutdown().await.unwrap();
    gate.open();
}

async fn shutdowns() {
    // The server does not end in time.
    let host = builder().drain_timeout(SHORT).service(steady("steady")).build().unwrap();
    let handle = host.handle();
    let report = host.run_until(async move {
        handle.request_shutdown();
        pending::<Result<(), Infallible>>().await
    });
    assert!(report.await.unwrap().server_cut_off());

    // A detached run has not ended, and the shutdown is forced.
    let guard: &EndpointGuard = leak(EndpointGuard::new("unfinished"));
    poll_and_drop(guard.run_to_completion(pending::<()>()));
    let host = builder().service(endless("endless")).build().unwrap();
    host.start().await.unwrap();
    let handle = host.handle();
    handle.request_shutdown();
    handle.force_shutdown();
    let report = host.shutdown().await.unwrap();
    assert!(report.forced_by().is_some() && !report.unfinished().is_empty(), "{report:?}");
    assert_eq!(handle.status().phase(), HostPhase::Stopped);
}

/// A service completes, the thread of another one outlives the host, and a third one takes the time of the services
/// that it depends on.
async fn late_stops() {
    let gate = Arc::new(Gate::default());
    let wait = gate.wait();
    let every = Every::secs(3600).tick_timeout(SHORT);
    let host = builder()
        .shutdown_timeout(SHORT * 20)
        .service(service_fn("completes", |_| async { Ok(()) }))
        .service(periodic_blocking("overdue", every, move |_| {
            wait.block();
            Ok(())
        }))
        .service(steady("base"))
        .service(endless("dependent").after("base"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    let has_completed = || host.status().service("completes").is_some_and(ServiceStatus::is_ended);
    until("one has completed, and one call has begun", || has_completed() && gate.inside() == 1).await;
    tokio::time::sleep(SHORT * 3).await;
    let report = host.shutdown().await.unwrap();
    assert!(report.service("overdue").is_some_and(|service| !service.is_dropped()), "{report:?}");
    gate.open();
}

/// A service that blocks the server's runtime.
pub(crate) fn scenario_of_runtimes() {
    let runtime = multi_thread(1);
    let service = service_fn("blocks the runtime", |cx| async move {
        // Real time: the host measures how long the thread is blocked.
        std::thread::sleep(SHORT * 50);
        cx.stopping().await;
        Ok(())
    });
    let host = builder().service(service).build().unwrap();
    runtime.block_on(async {
        host.start().await.unwrap();
        let _ = host.shutdown().await.unwrap();
    });
}
