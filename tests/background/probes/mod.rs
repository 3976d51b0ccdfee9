//! Tests of a host's probes over real sockets: as routes of axum and actix-web, and on a dedicated port.
//!
//! Sockets and the host's thread need real time. Tests wait for conditions rather than for a fixed time.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod own_port;
mod promptness;
mod responses;
mod servers;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use onelane::background::{HostPhase, Service, ServiceHost, ServiceHostBuilder, lifespan, service_fn};
use support::client::eventually;
use tokio::sync::Semaphore;

/// The three probes, in the order of all tables in these tests.
const PATHS: [&str; 3] = ["/livez", "/readyz", "/startupz"];

/// Returns a closed gate.
fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

fn open(gate: &Semaphore) {
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
}

async fn pass(gate: Arc<Semaphore>) {
    drop(gate.acquire().await.unwrap());
}

/// Returns the builder of a host that ignores the signals of the test process and has time limits that no test reaches.
fn builder() -> ServiceHostBuilder {
    let long = Duration::from_secs(60);
    ServiceHost::builder().without_signals().startup_timeout(long).drain_timeout(long).shutdown_timeout(2 * long)
}

/// Binds a port chosen by the system.
fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Returns a service that runs until it has to stop.
fn steady(name: &str) -> Service {
    service_fn(name, |cx| async move {
        cx.stopping().await;
        Ok(())
    })
}

/// Returns a service whose `start` and `stop` wait for gates.
fn gated(name: &str, may_start: &Arc<Semaphore>, may_stop: &Arc<Semaphore>) -> Service {
    let (may_start, may_stop) = (Arc::clone(may_start), Arc::clone(may_stop));
    let wait_for = |gate: &Arc<Semaphore>| {
        let gate = Arc::clone(gate);
        async move {
            pass(gate).await;
            Ok(())
        }
    };
    let long = Duration::from_secs(60);
    lifespan(name, move |_| wait_for(&may_start), move |_| wait_for(&may_stop))
        .start_timeout(long)
        .cleanup_timeout(long)
}

/// Takes a host through all phases, and calls `check` in each with the statuses that the three probes must return.
/// `prepare` is called first, with the host's handle.
async fn walk_through_the_phases(
    builder: ServiceHostBuilder,
    check: impl AsyncFn(HostPhase, [u16; 3]),
    prepare: impl AsyncFnOnce(onelane::background::HostHandle),
) {
    let [may_start, may_end, may_stop] = [gate(), gate(), gate()];
    let host = builder.service(gated("slow", &may_start, &may_stop)).build().unwrap();
    let handle = host.handle();
    let reach = async |phase| eventually(&format!("the host is {phase}"), || handle.status().phase() == phase).await;
    prepare(handle.clone()).await;
    check(HostPhase::Built, [200, 503, 503]).await;

    let server_ends = Arc::clone(&may_end);
    let run = tokio::spawn(host.run_until(async move {
        pass(server_ends).await;
        Ok::<(), std::io::Error>(())
    }));
    reach(HostPhase::Starting).await;
    check(HostPhase::Starting, [200, 503, 503]).await;
    open(&may_start);
    reach(HostPhase::Running).await;
    check(HostPhase::Running, [200, 200, 200]).await;
    handle.request_shutdown();
    reach(HostPhase::Draining).await;
    check(HostPhase::Draining, [200, 503, 200]).await;
    open(&may_end);
    reach(HostPhase::Stopping).await;
    check(HostPhase::Stopping, [200, 503, 200]).await;
    open(&may_stop);
    assert!(run.await.unwrap().unwrap().is_clean());
    check(HostPhase::Stopped, [200, 503, 200]).await;
}
