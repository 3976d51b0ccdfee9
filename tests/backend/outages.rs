//! Stores that fail while a caller holds a lock and others wait for it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use onelane::backend::{LockBackend, LockDomain, Postgres, Redis};
use onelane::guard::AcquireErrorKind;
use onelane::{AcquireError, EndpointGuard};
use support::client::PATIENCE;
use support::leak;
use support::postgres::PostgresServer;
use support::proxy::{Disturbance, Proxy};
use support::redis::RedisServer;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use super::MS;

const LEASE: Duration = Duration::from_millis(1_200);
const MAX_WAIT: Duration = Duration::from_millis(700);

enum Server {
    Redis(RedisServer),
    Postgres(PostgresServer),
}

impl Server {
    fn kill(&mut self) {
        match self {
            Self::Redis(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    async fn restart(&mut self) {
        match self {
            Self::Redis(server) => server.restart(),
            Self::Postgres(server) => server.restart().await,
        }
    }
}

async fn connected(store: impl LockBackend) -> &'static EndpointGuard {
    let domain = leak(LockDomain::new("shop"));
    let connecting = domain.connect(store);
    connecting.await.unwrap();
    leak(EndpointGuard::builder("report").distributed(domain).max_wait(MAX_WAIT).build())
}

/// Waits for a permit. Returns the error, and how long the caller waited.
async fn wait(guard: &'static EndpointGuard) -> (Option<AcquireError>, Duration) {
    let began = Instant::now();
    let result = timeout(PATIENCE, guard.acquire()).await.unwrap_or_else(|_| panic!("a caller hangs"));
    (result.err(), began.elapsed())
}

/// Returns how long it takes until each process has had a turn.
async fn time_until_all_work(guards: [&'static EndpointGuard; 2]) -> Duration {
    let began = Instant::now();
    for guard in guards {
        loop {
            if let Ok(permit) = timeout(PATIENCE, guard.acquire()).await.unwrap() {
                // A store that has just failed may also fail the release.
                let _ = timeout(PATIENCE, permit.release()).await.unwrap();
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the guard does not work again");
            sleep(MS * 10).await;
        }
    }
    began.elapsed()
}

#[allow(clippy::print_stdout, reason = "the figures")]
async fn outages_hang_no_caller<S: LockBackend>(mut server: Server, proxy: Proxy, store: impl Fn() -> S) {
    let (one, other) = (connected(store()).await, connected(store()).await);
    for outage in [None, Some(Disturbance::Closed), Some(Disturbance::Silent), Some(Disturbance::Lost)] {
        time_until_all_work([one, other]).await;
        let permit = timeout(PATIENCE, one.acquire()).await.unwrap().unwrap();
        let lost = permit.lease().unwrap().lost();
        let waiting: Vec<_> = [one, one, other, other].map(|guard| tokio::spawn(wait(guard))).into();
        sleep(MS * 100).await;
        let began = Instant::now();
        match outage {
            Some(disturbance) => proxy.disturb(disturbance),
            None => server.kill(),
        }
        timeout(PATIENCE, lost.cancelled()).await.unwrap_or_else(|_| panic!("{outage:?}: the holder is not notified"));
        let holder_knows = began.elapsed();
        let mut longest = Duration::ZERO;
        for result in join_all(waiting).await {
            let (error, waited) = result.unwrap();
            let kind = error.map(|error| error.kind());
            let is_expected = matches!(kind, Some(AcquireErrorKind::Timeout | AcquireErrorKind::Unavailable));
            assert!(is_expected, "{outage:?}: {kind:?}");
            longest = longest.max(waited);
        }
        // Callers that arrive later also get an error.
        drop(permit);
        let (error, waited) = wait(one).await;
        assert!(error.is_some(), "{outage:?}");
        longest = longest.max(waited);
        match outage {
            Some(_) => proxy.disturb(Disturbance::Nothing),
            None => server.restart().await,
        }
        let works_again = time_until_all_work([one, other]).await;
        println!(
            "{outage:?}: longest wait {longest:?}, holder knows after {holder_knows:?}, works after {works_again:?}"
        );
        // Generous, because the machine may be busy.
        assert!(longest < MAX_WAIT + PATIENCE / 8, "{outage:?}: {longest:?}");
        assert!(holder_knows < LEASE + PATIENCE / 8, "{outage:?}: {holder_knows:?}");
        assert!(works_again < PATIENCE / 8, "{outage:?}: {works_again:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_redis_hang_no_caller() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    let client = redis::Client::open(format!("redis://{}", proxy.address)).unwrap();
    outages_hang_no_caller(Server::Redis(server), proxy, || Redis::new(client.clone()).lease(LEASE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_of_postgres_hang_no_caller() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    let settings = server.settings().replace(&server.address().port().to_string(), &proxy.address.port().to_string());
    let store = || {
        let settings = settings.clone();
        let connect = move || {
            let settings = settings.clone();
            async move { tokio_postgres::connect(&settings, NoTls).await }
        };
        Postgres::new(connect).lease(LEASE).listen()
    };
    outages_hang_no_caller(Server::Postgres(server), proxy, store).await;
}
