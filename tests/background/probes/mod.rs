//! The probes of a service host: what they answer, as routes of axum and of actix-web and on a port of their own, over real
//! sockets.
//!
//! Real time passes, since sockets and the thread of the host take it. Tests wait for what they expect rather than for a
//! time.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

mod answers;
mod doors;
mod own_port;
mod promptness;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use onelane::background::{HostPhase, Service, ServiceHost, ServiceHostBuilder, lifespan, service_fn};
use tokio::sync::Semaphore;

/// The three, in the order of all tables here.
const PATHS: [&str; 3] = ["/livez", "/readyz", "/startupz"];

/// A gate that is shut until it is opened.
fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

fn open(gate: &Semaphore) {
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
}

async fn passed(gate: Arc<Semaphore>) {
    drop(gate.acquire().await.unwrap());
}

/// A host that leaves the signals of the test process alone, and whose limits no test comes to.
fn builder() -> ServiceHostBuilder {
    let long = Duration::from_secs(60);
    ServiceHost::builder().without_signals().startup_timeout(long).drain_timeout(long).shutdown_timeout(2 * long)
}

/// A port that the system picks.
fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A service that runs until it has to stop.
fn steady(name: &str) -> Service {
    service_fn(name, |cx| async move {
        cx.stopping().await;
        Ok(())
    })
}

/// A service that starts and stops behind gates.
fn gated(name: &str, may_start: &Arc<Semaphore>, may_stop: &Arc<Semaphore>) -> Service {
    let (may_start, may_stop) = (Arc::clone(may_start), Arc::clone(may_stop));
    let pass = |gate: &Arc<Semaphore>| {
        let gate = Arc::clone(gate);
        async move {
            passed(gate).await;
            Ok(())
        }
    };
    let long = Duration::from_secs(60);
    lifespan(name, move || pass(&may_start), move || pass(&may_stop)).start_timeout(long).cleanup_timeout(long)
}

/// Takes a host from phase to phase, and calls `look` in each, with what the three have to answer there. `opens` is called
/// before, with the host's handle.
async fn walk_through_the_phases(
    builder: ServiceHostBuilder,
    look: impl AsyncFn(HostPhase, [u16; 3]),
    opens: impl AsyncFnOnce(onelane::background::HostHandle),
) {
    let [may_start, may_end, may_stop] = [gate(), gate(), gate()];
    let host = builder.service(gated("slow", &may_start, &may_stop)).build().unwrap();
    let handle = host.handle();
    let is_in = |phase| {
        let handle = handle.clone();
        async move { support::client::eventually(&format!("the host is {phase}"), || handle.status().phase == phase).await }
    };
    opens(handle.clone()).await;
    look(HostPhase::Built, [200, 503, 503]).await;

    let server_ends = Arc::clone(&may_end);
    let run = tokio::spawn(host.run_until(async move {
        passed(server_ends).await;
        Ok::<(), std::io::Error>(())
    }));
    is_in(HostPhase::Starting).await;
    look(HostPhase::Starting, [200, 503, 503]).await;
    open(&may_start);
    is_in(HostPhase::Running).await;
    look(HostPhase::Running, [200, 200, 200]).await;
    handle.request_shutdown();
    is_in(HostPhase::Draining).await;
    look(HostPhase::Draining, [200, 503, 200]).await;
    open(&may_end);
    is_in(HostPhase::Stopping).await;
    look(HostPhase::Stopping, [200, 503, 200]).await;
    open(&may_stop);
    assert!(run.await.unwrap().unwrap().is_clean());
    look(HostPhase::Stopped, [200, 503, 200]).await;
}
