//! Latency of requests next to a service that blocks for 50 ms at a time. On its own thread, the service does not
//! affect them. On the server's runtime it does, which shows that the measurement works.
//!
//! Real time passes, because it is what is measured, with margins for a busy machine.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use onelane::background::{BackgroundService, Placement, RunContext, Service, ServiceHost, ServiceResult};
use tokio::net::TcpListener;

use support::runtimes::{current_thread, multi_thread};
use support::waiting::PATIENCE;

const BLOCK: Duration = Duration::from_millis(50);
const REQUESTS: usize = 150;

/// A service that blocks for 50 ms and awaits for 5 ms in turn.
struct BlockingService;

impl BackgroundService for BlockingService {
    fn name(&self) -> &str {
        "blocks"
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        while cx.sleep(BLOCK / 10).await {
            // The effect of a blocked thread on others is measured, so the thread must really block.
            thread::sleep(BLOCK);
        }
        Ok(())
    }
}

/// Returns the latencies of requests to a server with one worker thread, in ascending order.
fn latencies(service: Option<Service>) -> Vec<Duration> {
    let server = multi_thread(1);
    let client = current_thread();
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
    let url = format!("http://{}/", address.recv_timeout(PATIENCE).unwrap());
    let mut times = client.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = || async {
            let start = Instant::now();
            assert_eq!(client.get(&url).send().await.unwrap().text().await.unwrap(), "hello");
            start.elapsed()
        };
        measure(request).await
    });
    handle.request_shutdown();
    let report = server.block_on(serving).unwrap().unwrap();
    assert!(report.is_clean(), "{report:?}");
    times.sort();
    times
}

async fn measure<F: Future<Output = Duration>>(request: impl Fn() -> F) -> Vec<Duration> {
    request().await;
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        times.push(request().await);
    }
    times
}

#[test]
fn service_that_blocks_its_own_thread_does_not_slow_down_requests() {
    let _alone = crate::alone();
    let percentile = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
    let mut rounds = Vec::new();
    // The machine may be busy with other work, so one good round of three is enough.
    for _ in 0..3 {
        let baseline = latencies(None);
        let separate = latencies(Some(Service::new(BlockingService).placement(Placement::Thread)));
        let shared = latencies(Some(Service::new(BlockingService)));
        let p99 = [&baseline, &separate, &shared].map(|times| percentile(times, 99));
        rounds.push(p99);
        // Only about one request in ten waits: while the service does not block, many requests complete quickly.
        assert!(p99[2] > BLOCK / 2, "the measurement shows no effect of a shared thread: {p99:?}");
        assert!(
            percentile(&separate, 50) < BLOCK / 5,
            "half of the requests wait although the service has its own thread: {p99:?}"
        );
        if p99[1] < (p99[0] * 3).max(BLOCK / 5) {
            return;
        }
    }
    panic!("p99 without a service, on its own thread and on the shared runtime: {rounds:?}");
}
