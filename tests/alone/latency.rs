//! Whether a service that blocks for 50 ms at a time is felt by requests: not on a thread of its own, and on the server's
//! runtime it is, so that the measurement can tell.
//!
//! A binary of its own, with one test, so that other tests are not measured. Real time passes, since that is what is
//! measured, with margins for a busy machine.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use onelane::background::{BackgroundService, Placement, RunContext, Service, ServiceHost, ServiceResult};
use tokio::net::TcpListener;

const BLOCK: Duration = Duration::from_millis(50);
const REQUESTS: usize = 150;

/// Blocks for 50 ms, awaits for 5, and so on.
struct Blocks;

impl BackgroundService for Blocks {
    fn name(&self) -> &str {
        "blocks"
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        while cx.sleep(BLOCK / 10).await {
            // What is measured is what a thread that is really blocked does to others.
            thread::sleep(BLOCK);
        }
        Ok(())
    }
}

/// The times of requests to a server with one worker, in their order of size.
fn latencies(service: Option<Service>) -> Vec<Duration> {
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut builder = ServiceHost::builder().without_signals();
    if let Some(service) = service {
        builder = builder.service(service);
    }
    let host = builder.build().unwrap();
    let handle = host.handle();
    let (send_address, address) = std::sync::mpsc::channel();
    let draining = handle.draining();
    let serving = server.spawn(host.run_until(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        send_address.send(listener.local_addr()?).unwrap();
        let app = Router::new().route("/", get(|| async { "hello" }));
        axum::serve(listener, app).with_graceful_shutdown(draining.cancelled_owned()).await
    }));
    let url = format!("http://{}/", address.recv_timeout(Duration::from_secs(20)).unwrap());
    let mut times = client.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = || async {
            let start = Instant::now();
            assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "hello");
            start.elapsed()
        };
        all(ask).await
    });
    handle.request_shutdown();
    let report = server.block_on(serving).unwrap().unwrap();
    assert!(report.is_clean(), "{report:?}");
    times.sort();
    times
}

async fn all<F: Future<Output = Duration>>(ask: impl Fn() -> F) -> Vec<Duration> {
    ask().await;
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        times.push(ask().await);
    }
    times
}

#[test]
fn service_that_blocks_on_a_thread_of_its_own_is_not_felt_by_requests() {
    let _alone = crate::alone();
    let of = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    let mut seen = Vec::new();
    // The machine has other work: the promise is about what is possible, so one good round of three is enough.
    for _ in 0..3 {
        let none = latencies(None);
        let own = latencies(Some(Service::new(Blocks).placement(Placement::Thread)));
        let shared = latencies(Some(Service::new(Blocks)));
        let p99 = [&none, &own, &shared].map(|times| of(times, 99));
        seen.push(p99);
        // One in ten waits: those that come while it does not block are quick enough to be many.
        assert!(p99[2] > BLOCK / 2, "the measurement does not work: {p99:?}");
        assert!(of(&own, 50) < BLOCK / 5, "half of the requests wait for a thread: {p99:?}");
        if p99[1] < (p99[0] * 3).max(BLOCK / 5) {
            return;
        }
    }
    panic!("p99 with none, on a thread and shared: {seen:?}");
}
