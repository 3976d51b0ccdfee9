//! Hosts and their services.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use onelane::EndpointGuard;
use onelane::background::{
    Backoff, Every, HostPhase, Intensity, Restart, Service, ServiceHost, ServiceHostBuilder, ServiceStatus,
    blocking_fn, periodic, service_fn,
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
