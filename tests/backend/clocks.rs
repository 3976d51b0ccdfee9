//! Jumps of the store's clock and of this machine's clocks.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use onelane::backend::{LockBackend, LockDomain, Postgres, Redis};
use onelane::{EndpointGuard, guard::Permit};
use support::client::eventually;
use support::clock::TestClock;
use support::leak;
use support::postgres::PostgresServer;
use support::process::Example;
use support::redis::RedisServer;
use support::runtimes::current_thread;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use super::in_memory::{InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_millis(1_500);

async fn connected(store: impl LockBackend) -> &'static EndpointGuard {
    let domain = leak(LockDomain::new("shop"));
    domain.connect(store).await.unwrap();
    leak(guard(domain))
}

async fn acquired(guard: &'static EndpointGuard) -> (Permit<'static>, u64) {
    let permit = timeout(PATIENCE, guard.acquire()).await.unwrap().unwrap();
    let fence = permit.lease().unwrap().fence();
    (permit, fence)
}

/// Two processes take turns while the clock of their store jumps.
async fn next_holder_has_a_larger_token<S: LockBackend>(store: impl Fn() -> S, clock: TestClock) {
    let (one, other) = (connected(store()).await, connected(store()).await);
    let (mut last, mut taken) = (0, 0);
    for seconds in [3_600, -3_600, 86_400, 0] {
        let (permit, fence) = acquired(one).await;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
        clock.set(seconds, 0);
        if let Ok(next) = timeout(LEASE * 2 / 3, acquired(other)).await {
            // The store took the lock from its holder.
            taken += 1;
            assert!(next.1 > last, "{} after {last}", next.1);
            last = next.1;
            eventually("the holder notices the loss", || permit.lease().unwrap().is_lost()).await;
            assert!(!next.0.lease().unwrap().is_lost());
        } else {
            assert!(!permit.lease().unwrap().is_lost(), "the lease is lost, but no other process has the lock");
        }
    }
    assert!(taken >= 2, "the clock of the store did not jump");
    // The clock also goes back while the lock is free.
    clock.set(-86_400, 0);
    for guard in [one, other] {
        assert!(acquired(guard).await.1 > last);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_holder_in_redis_has_a_larger_token_whatever_its_clock_does() {
    let clock = TestClock::new();
    let server = RedisServer::start_in(&[], &clock.variables());
    let client = redis::Client::open(&*server.url).unwrap();
    next_holder_has_a_larger_token(|| Redis::new(client.clone()).lease(LEASE), clock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_holder_in_postgres_has_a_larger_token_whatever_its_clock_does() {
    let clock = TestClock::new();
    let server = PostgresServer::start_in(&[], &clock.variables()).await;
    let settings = server.settings();
    let store = || {
        let settings = settings.clone();
        let connect = move || {
            let settings = settings.clone();
            async move { tokio_postgres::connect(&settings, NoTls).await }
        };
        Postgres::new(connect).lease(LEASE)
    };
    next_holder_has_a_larger_token(store, clock).await;
}

const PROGRAM: &str = "ONELANE_TEST_SUSPENDED";

/// The time of day does not matter, but the time during which the machine was suspended counts.
#[tokio::test]
async fn lease_ends_while_the_machine_is_suspended() {
    let clock = TestClock::new();
    let variables = clock.variables();
    let mut variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push((PROGRAM, "1"));
    let process = Example::of_test("clocks::program_that_holds_a_lock", &variables).await;
    clock.set(86_400, 0);
    process.wait_for("lost: false").await;
    clock.set(-86_400, 0);
    let lines = process.lines().len();
    process.wait_for_lines(lines + 5).await;
    assert!(!process.printed().contains("lost: true"), "{}", process.printed());
    clock.set(0, 600);
    process.wait_for("lost: true").await;
}

/// Does nothing unless the test above starts it in a child process.
#[test]
#[allow(clippy::print_stdout, reason = "the parent waits for the lines")]
fn program_that_holds_a_lock() {
    if env::var(PROGRAM).is_err() {
        return;
    }
    current_thread().block_on(async {
        let locks = domain(|domain| domain);
        locks.connect(InMemory::new(&Arc::<Store>::default(), Duration::from_secs(300))).await.unwrap();
        let guard = guard(locks);
        let permit = guard.acquire().await.unwrap();
        println!("listening on http://127.0.0.1:1");
        loop {
            println!("lost: {}", permit.lease().unwrap().is_lost());
            sleep(MS * 50).await;
        }
    });
}
