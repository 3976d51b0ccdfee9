//! Locks in a Redis with Sentinel, and in a Redis Cluster.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use onelane::backend::{LockBackend, LockName, Redis, conformance};
use onelane::guard::AcquireErrorKind;
use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{Client, cmd};
use support::client::PATIENCE;
use support::redis::{RedisCluster, RedisServer};
use tokio::time::{sleep, timeout};

use crate::stores::{LEASE, connect_error, process, take};

fn behind(sentinel: &RedisServer, name: &str) -> Redis {
    found_by(vec![sentinel.url.clone()], name)
}

fn found_by(sentinels: Vec<String>, name: impl Into<String>) -> Redis {
    let client = SentinelClient::build(sentinels, name.into(), None, SentinelServerType::Master).unwrap();
    Redis::sentinel(client).lease(LEASE)
}

fn in_cluster(cluster: &RedisCluster) -> Redis {
    // A store finds the cluster through any of its servers.
    let clients = [&cluster.replicas[0], &cluster.primaries[0]].map(|server| Client::open(&*server.url).unwrap());
    Redis::cluster(clients).lease(LEASE)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_sentinel_keeps_all_rules_of_backends() {
    let primary = RedisServer::start();
    let _replica = RedisServer::start_replica(&primary);
    let sentinel = RedisServer::start_sentinel(&primary);
    let violations = conformance::check(|| behind(&sentinel, "main")).await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cluster_keeps_all_rules_of_backends() {
    let cluster = RedisCluster::start();
    let violations = conformance::check(|| in_cluster(&cluster)).await;
    assert!(violations.is_empty(), "{violations:#?}");
    // The guards of the suite are on all servers, each with its counter of tokens.
    for primary in &cluster.primaries {
        let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut primary.connect()).unwrap();
        assert!(!keys.is_empty() && keys.iter().all(|key| key.ends_with(":fence")), "{keys:?}");
    }
}

/// Kills the primary, so that another server is promoted, while there are a holder, a caller that waits, and callers
/// that arrive later.
async fn fails_over(stores: [Redis; 2], kill: impl FnOnce()) {
    let [one, other] = stores;
    let (one, other) = (process(one).await, process(other).await);
    let permit = one.guard.acquire().await.unwrap();
    let (lost, fence) = (permit.lease().unwrap().lost(), permit.lease().unwrap().fence());
    let waiting = tokio::spawn(timeout(PATIENCE, other.guard.acquire()));
    sleep(Duration::from_millis(100)).await;
    kill();
    let began = Instant::now();
    let later = one.turn();
    let waiting = waiting.await.unwrap().expect("a caller that waits does not hang");
    match &waiting {
        Ok(permit) => assert!(permit.lease().unwrap().fence() > fence),
        Err(error) => assert_eq!(error.kind(), AcquireErrorKind::Unavailable, "{error:?}"),
    }
    drop(waiting);
    // The replica may not have had the lock.
    let _ = timeout(LEASE, lost.cancelled()).await;
    drop(permit);
    let _ = later.await;
    for process in [&one, &other] {
        process.works_again().await;
        let permit = process.guard.acquire().await.unwrap();
        assert!(permit.lease().unwrap().fence() > fence);
        permit.release().await.unwrap();
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_works_again_after_sentinel_has_promoted_a_replica() {
    let mut primary = RedisServer::start();
    let replica = RedisServer::start_replica(&primary);
    let sentinel = RedisServer::start_sentinel(&primary);
    let stores = [behind(&sentinel, "main"), behind(&sentinel, "main")];
    fails_over(stores, || primary.kill()).await;
    replica.wait_for("replication", "role:master");
}

/// An attempt to connect that takes longer than a call continues after the call has ended.
#[tokio::test(flavor = "multi_thread")]
async fn sentinel_that_does_not_answer_delays_the_next_connection_only() {
    let primary = RedisServer::start();
    let _replica = RedisServer::start_replica(&primary);
    let sentinel = RedisServer::start_sentinel(&primary);
    // The kernel accepts connections, and no program reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", silent.local_addr().unwrap());
    let process = process(found_by(vec![address, sentinel.url.clone()], "main")).await;
    for _ in 0..2 {
        process.turn().await.unwrap();
        cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut primary.connect()).unwrap();
        cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec(&mut primary.connect()).unwrap();
        process.works_again().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_works_again_after_a_cluster_has_promoted_a_replica() {
    let mut cluster = RedisCluster::start();
    let stores = [in_cluster(&cluster), in_cluster(&cluster)];
    let position = cluster.position_of("{onelane:shop:report}:fence");
    fails_over(stores, || cluster.primaries[position].kill()).await;
    cluster.replicas[position].wait_for("replication", "role:master");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_follow_a_guard_that_another_server_has_taken_over() {
    let cluster = RedisCluster::start();
    let store = in_cluster(&cluster);
    store.connect("shop").await.unwrap();
    let name = LockName::new("report", None);
    let lease = take(&store, &name).await.unwrap();
    let position = cluster.position_of("{onelane:shop:report}:fence");
    cmd("CLUSTER").arg("FAILOVER").exec(&mut cluster.replicas[position].connect()).unwrap();
    cluster.primaries[position].wait_for("replication", "role:slave");
    // The lock moves with the guard.
    assert_eq!(store.renew(std::slice::from_ref(&lease)).await.unwrap(), [true]);
    store.release(&lease).await.unwrap();
    let next = take(&store, &name).await.unwrap();
    assert!(next.fence > lease.fence);
    store.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_outlast_the_end_of_another_server() {
    let mut cluster = RedisCluster::start();
    let store = in_cluster(&cluster);
    store.connect("shop").await.unwrap();
    let names = [LockName::new("report", None), LockName::new("daily", None)];
    let [ending, lasting] = ["report", "daily"].map(|guard| cluster.position_of(&format!("{{onelane:shop:{guard}}}")));
    assert_ne!(ending, lasting);
    let leases = [take(&store, &names[0]).await.unwrap(), take(&store, &names[1]).await.unwrap()];
    cluster.replicas[ending].kill();
    cluster.primaries[ending].kill();
    let began = Instant::now();
    let held = loop {
        match store.renew(&leases).await {
            Ok(held) => break held,
            // The server may still return before the lease ends.
            Err(_) => assert!(began.elapsed() < PATIENCE),
        }
        sleep(LEASE / 10).await;
    };
    assert!(began.elapsed() > LEASE / 3, "{:?}", began.elapsed());
    assert_eq!(held, [false, true]);
    assert_eq!(store.renew(&leases[1..]).await.unwrap(), [true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_name_for_sentinel_is_a_clear_error() {
    let primary = RedisServer::start();
    let _replica = RedisServer::start_replica(&primary);
    let sentinel = RedisServer::start_sentinel(&primary);
    let error = connect_error(behind(&sentinel, "other")).await;
    assert!(error.contains("Sentinel knows no running primary of this name: check the name"), "{error}");
}
