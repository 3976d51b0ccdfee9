//! Locks in Redis, beside the commands of the same client and rslock.

use std::time::{Duration, Instant};

use criterion::Criterion;
use onelane::backend::Redis;
use redis::aio::MultiplexedConnection;
use redis::{Client, ExistenceCheck, SetExpiry, SetOptions, cmd};
use rslock::LockManager;
use support::redis::RedisServer;
use tokio::runtime::Runtime;

use crate::cohort::measure_cohort;
use crate::compare::{Repeated, compare};
use crate::hand_off::{Program, Reference, Variant, compare_hand_offs, serve};
use crate::harness::is_selected;
use crate::locks::{Locks, serve_guard, threads};
use crate::renewals::measure_renewals;

pub(crate) const GROUP: &str = "hand_off_redis";

pub(crate) const VARIANTS: &[Variant] = &[
    Variant { name: "onelane", program: Program::This(serve_redis), is_slow: false },
    Variant { name: "rslock", program: Program::This(serve_rslock), is_slow: true },
];

const TTL: Duration = Duration::from_secs(10);

fn client(url: &str) -> Client {
    Client::open(url).expect("the URL is valid")
}

async fn connect(url: &str) -> MultiplexedConnection {
    client(url).get_multiplexed_async_connection().await.expect("the server answers")
}

async fn ping(connection: &mut MultiplexedConnection) {
    let answer: String = cmd("PING").query_async(connection).await.expect("the server answers");
    assert_eq!(answer, "PONG");
}

/// The lock that the manual of `SET` describes, without a token.
async fn set_and_delete(connection: &mut MultiplexedConnection) {
    let options = SetOptions::default().conditional_set(ExistenceCheck::NX).with_expiration(SetExpiry::PX(10_000));
    let set = cmd("SET").arg("lock").arg("owner").arg(options).query_async::<bool>(connection).await;
    assert!(set.expect("the server answers"), "the lock is free");
    let deleted: u32 = cmd("DEL").arg("lock").query_async(connection).await.expect("the server answers");
    assert_eq!(deleted, 1);
}

/// Repeats something with a connection.
fn repeat<'a>(
    runtime: &'a Runtime,
    connection: &'a MultiplexedConnection,
    work: impl AsyncFn(&mut MultiplexedConnection) + 'a,
) -> impl FnMut(u64) -> Duration + 'a {
    move |repetitions| {
        let mut connection = connection.clone();
        runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..repetitions {
                work(&mut connection).await;
            }
            start.elapsed()
        })
    }
}

/// Measures all groups.
pub(crate) fn all(c: &mut Criterion) {
    if !["uncontended_redis", GROUP, "cohort_redis", "renewals_redis"].into_iter().any(is_selected) {
        return;
    }
    if !RedisServer::is_installed() {
        println!("skipped: redis-server is missing: `apt-get install redis-server`");
        return;
    }
    let server = RedisServer::start();
    uncontended(c, &server);
    compare_hand_offs(GROUP, &server.url, Reference::RoundTrip, VARIANTS);
    let runtime = threads();
    let store = || Redis::new(client(&server.url));
    measure_cohort("cohort_redis", &runtime, store);
    measure_renewals("renewals_redis", &runtime, store, || count_clients(&server));
}

fn uncontended(c: &mut Criterion, server: &RedisServer) {
    // As in a web service, a thread other than the caller's reads the connections.
    let runtime = &threads();
    let connection = &runtime.block_on(connect(&server.url));
    let locks = runtime.block_on(Locks::connect(Redis::new(client(&server.url)), "report"));
    let rslock = LockManager::from_clients(vec![client(&server.url)]);
    let variants = vec![
        Repeated::new("round_trip", repeat(runtime, connection, ping)),
        Repeated::new("onelane_acquire", |repetitions| runtime.block_on(locks.acquire_only(repetitions))),
        Repeated::new("onelane", |repetitions| runtime.block_on(locks.acquire_and_drop(repetitions))),
        Repeated::new("set_and_delete", repeat(runtime, connection, set_and_delete)),
        Repeated::new("rslock", |repetitions| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..repetitions {
                    rslock.acquire("rslock", TTL).await.expect("the TTL is valid").release().await;
                }
                start.elapsed()
            })
        }),
    ];
    compare(c, "uncontended_redis", 500, variants);
    runtime.block_on(locks.domain.disconnect());
}

/// Returns the number of connections, without the one of this call.
fn count_clients(server: &RedisServer) -> u64 {
    let clients: String = cmd("INFO").arg("clients").query(&mut server.connect()).expect("the server answers");
    let line = clients.lines().find_map(|line| line.strip_prefix("connected_clients:"));
    let all: u64 = line.and_then(|line| line.trim().parse().ok()).expect("a count is a number");
    all - 1
}

fn serve_redis(url: &str) {
    let runtime = threads();
    let connection = runtime.block_on(connect(url));
    serve_guard(Redis::new(client(url)), &runtime, || runtime.block_on(ping(&mut connection.clone())));
}

fn serve_rslock(url: &str) {
    let (runtime, manager) = (threads(), LockManager::from_clients(vec![client(url)]));
    serve(
        || runtime.block_on(manager.acquire("rslock", TTL)).expect("the TTL is valid"),
        |guard| runtime.block_on(guard.release()),
        || (),
    );
}
