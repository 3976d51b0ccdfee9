//! Locks in a real Redis.

use std::time::{Duration, Instant};

use onelane::backend::{LockBackend, LockName, Redis, conformance};
use redis::{Client, cmd};
use support::client::PATIENCE;
use support::proxy::{Disturbance, Proxy};
use support::redis::RedisServer;
use tokio::time::{sleep, timeout};

use crate::stores::{LEASE, connect_error, is_held, late_attempt_takes_nothing, process, take, text};

pub(crate) fn store(url: &str) -> Redis {
    Redis::new(Client::open(url).unwrap()).lease(LEASE)
}

async fn connected(url: &str) -> Redis {
    let store = store(url);
    store.connect("shop").await.unwrap();
    store
}

fn count_keys(server: &RedisServer) -> usize {
    cmd("DBSIZE").query(&mut server.connect()).unwrap()
}

/// Returns how many commands of a kind the server has executed.
fn count_calls(server: &RedisServer, name: &str) -> usize {
    let statistics: String = cmd("INFO").arg("commandstats").query(&mut server.connect()).unwrap();
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_all_rules_of_backends() {
    let server = RedisServer::start();
    let violations = conformance::check(|| store(&server.url)).await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_and_release_are_one_round_trip_each() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    let store = connected(&format!("redis://{}", proxy.address)).await;
    let name = LockName::new("report", None);
    let lease = take(&store, &name).await.unwrap();
    store.release(&lease).await.unwrap();
    let (requests, scripts) = (proxy.requests(), count_calls(&server, "evalsha"));
    for _ in 0..100 {
        let lease = take(&store, &name).await.unwrap();
        store.release(&lease).await.unwrap();
    }
    assert_eq!(proxy.requests() - requests, 200);
    assert_eq!(count_calls(&server, "evalsha") - scripts, 200);

    let mut leases = Vec::new();
    for number in 0..1_000 {
        leases.push(take(&store, &LockName::new("user", Some(&number.to_string()))).await.unwrap());
    }
    let scripts = count_calls(&server, "evalsha");
    assert_eq!(store.renew(&leases).await.unwrap(), vec![true; 1_000]);
    assert_eq!(count_calls(&server, "evalsha") - scripts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn release_wakes_a_waiter_over_the_same_connection() {
    let server = RedisServer::start();
    let (one, other) = (connected(&server.url).await, connected(&server.url).await);
    let name = LockName::new("report", None);
    let lease = take(&one, &name).await.unwrap();
    let waiting = other.released(&name);
    let release = async {
        sleep(Duration::from_millis(100)).await;
        assert!(one.release(&lease).await.unwrap().waiting > 0);
    };
    timeout(PATIENCE, async { tokio::join!(waiting, release) }).await.unwrap();
    let clients: String = cmd("INFO").arg("clients").query(&mut server.connect()).unwrap();
    assert!(clients.contains("connected_clients:3"), "one of each store and one of the test: {clients}");

    // The subscription ends some time after its last waiter.
    let began = Instant::now();
    loop {
        let lease = take(&one, &name).await.unwrap();
        if one.release(&lease).await.unwrap().waiting == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "a caller that has left counts as a waiter");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A process that has waited stays subscribed for some time after it got the lock.
#[tokio::test(flavor = "multi_thread")]
async fn process_that_releases_does_not_count_as_a_waiter() {
    let server = RedisServer::start();
    let store = connected(&server.url).await;
    let name = LockName::new("report", None);
    for _ in 0..10 {
        let _ = timeout(Duration::from_millis(10), store.released(&name)).await;
        let lease = take(&store, &name).await.unwrap();
        assert_eq!(store.release(&lease).await.unwrap().waiting, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_was_closed_while_idle_is_replaced_without_an_error() {
    let server = RedisServer::start();
    let store = connected(&server.url).await;
    for _ in 0..20 {
        cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut server.connect()).unwrap();
        cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec(&mut server.connect()).unwrap();
        let lease = take(&store, &LockName::new("report", None)).await.unwrap();
        store.release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_restored_after_a_connection_breaks() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    let (one, other) = (connected(&server.url).await, connected(&format!("redis://{}", proxy.address)).await);
    let name = LockName::new("report", None);
    for _ in 0..3 {
        let lease = take(&one, &name).await.unwrap();
        // The break wakes the waiter, which may have missed a release. The waiter waits again over the next connection.
        let waiting = other.released(&name);
        let cut = async {
            sleep(Duration::from_millis(100)).await;
            proxy.disturb(Disturbance::Closed);
        };
        timeout(PATIENCE, async { tokio::join!(waiting, cut) }).await.unwrap();
        proxy.disturb(Disturbance::Nothing);
        let waiting = other.released(&name);
        let release = async {
            assert!(is_held(&other, &name).await);
            sleep(Duration::from_millis(100)).await;
            assert!(one.release(&lease).await.unwrap().waiting > 0);
        };
        timeout(PATIENCE, async { tokio::join!(waiting, release) }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_restarts_loses_locks_and_works_again() {
    let mut server = RedisServer::start();
    let process = process(store(&server.url)).await;
    let fence = process.notices_the_end_of_the_store(|| server.kill()).await;
    server.restart();
    process.works_again_with_larger_tokens(fence).await;
}

/// A firewall that forgets a connection behaves like this.
#[tokio::test(flavor = "multi_thread")]
async fn connection_that_is_silent_forever_is_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    process(store(&format!("redis://{}", proxy.address))).await.survives_lost_connections(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disturbed_connections_hang_no_caller() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    process(store(&format!("redis://{}", proxy.address))).await.survives_disturbances(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_server_loses_locks_but_tokens_grow() {
    let server = RedisServer::start();
    let process = process(store(&server.url)).await;
    let mut last = 0;
    for command in ["FLUSHALL", "FLUSHDB", "SCRIPT FLUSH"] {
        let permit = process.guard.acquire().await.unwrap();
        let lease = permit.lease().unwrap().clone();
        assert!(lease.fence() > last);
        last = lease.fence();
        let words: Vec<&str> = command.split(' ').collect();
        cmd(words[0]).arg(&words[1..]).exec(&mut server.connect()).unwrap();
        if words.len() == 1 {
            timeout(PATIENCE, lease.lost().cancelled()).await.expect("the holder is notified");
        }
        drop(permit);
    }
    process.turn().await.unwrap();
}

/// The counter goes back, as when a replica that lags behind becomes the primary.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_although_the_counter_goes_back() {
    let server = RedisServer::start();
    let stores = [connected(&server.url).await, connected(&server.url).await];
    let name = LockName::new("report", None);
    let mut last = None;
    for number in 0..6 {
        // The other process has not seen the last token.
        let store = &stores[number % 2];
        let lease = take(store, &name).await.unwrap();
        assert!(lease.fence > last, "{:?} after {last:?}", lease.fence);
        last = lease.fence;
        store.release(&lease).await.unwrap();
        cmd("SET").arg("{onelane:shop:report}:fence").arg(7).exec(&mut server.connect()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_callers_leave_nothing_held() {
    let server = RedisServer::start();
    let (one, other) = (process(store(&server.url)).await, process(store(&server.url)).await);
    one.drop_callers(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_permit_frees_the_lock_at_once() {
    let server = RedisServer::start();
    process(store(&server.url)).await.frees_its_lock_at_once(&connected(&server.url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_that_arrives_after_its_release_takes_nothing() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    let (store, other) = (connected(&format!("redis://{}", proxy.address)).await, connected(&server.url).await);
    late_attempt_takes_nothing(&store, &other, &proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_is_a_clear_error() {
    let server = RedisServer::start_with(&["--requirepass", "secret"]);
    for password in ["", ":wrong@"] {
        let error = connect_error(store(&server.url.replace("//", &format!("//{password}")))).await;
        assert!(error.contains("refused user or password: set them in the client's URL"), "{password}: {error}");
        assert!(!error.contains("wrong"), "{error}");
    }
    connected(&server.url.replace("//", "//:secret@")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_that_is_too_short_is_a_clear_error() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address()).await;
    proxy.disturb(Disturbance::Late(Duration::from_millis(50)));
    let store = store(&format!("redis://{}", proxy.address)).lease(Duration::from_millis(300));
    let error = connect_error(store).await;
    assert!(error.contains("set a longer lease"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_memory_is_a_clear_error() {
    let server = RedisServer::start();
    let process = process(store(&server.url)).await;
    cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).exec(&mut server.connect()).unwrap();
    let error = process.turn().await.unwrap_err();
    assert!(text(&error).contains("is full: raise maxmemory"), "{}", text(&error));
    cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).exec(&mut server.connect()).unwrap();
    process.turn().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_is_a_clear_error() {
    let primary = RedisServer::start();
    let port = primary.address().port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let error = connect_error(store(&replica.url)).await;
    assert!(error.contains("is a read-only replica: connect to the primary"), "{error}");

    // The primary becomes a replica, and the address leads to another server.
    let proxy = Proxy::start(primary.address()).await;
    let process = process(store(&format!("redis://{}", proxy.address))).await;
    process.turn().await.unwrap();
    cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec(&mut primary.connect()).unwrap();
    let error = process.turn().await.unwrap_err();
    assert!(text(&error).contains("is a read-only replica: connect to the primary"), "{}", text(&error));
    cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut replica.connect()).unwrap();
    proxy.redirect(replica.address());
    process.works_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_notices_a_replica_and_a_server_that_ended() {
    let mut server = RedisServer::start();
    let store = connected(&server.url).await;
    store.check().await.unwrap();
    cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec(&mut server.connect()).unwrap();
    assert!(store.check().await.unwrap_err().to_string().contains("replica"));
    server.kill();
    assert!(store.check().await.unwrap_err().to_string().contains("can't be reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_a_clear_error() {
    let server = RedisServer::start();
    for (name, rights) in [
        ("keys", "~other:* &* +@all"),
        ("channels", "~* resetchannels +@all"),
        ("commands", "~* &* +@all -set"),
        ("subscriptions", "~* &* +@all -subscribe"),
    ] {
        let mut acl = cmd("ACL");
        acl.arg("SETUSER").arg(name).arg("on").arg(">secret").arg(rights.split(' ').collect::<Vec<_>>());
        acl.exec(&mut server.connect()).unwrap();
        let error = connect_error(store(&server.url.replace("//", &format!("//{name}:secret@")))).await;
        assert!(error.contains("the Redis user lacks rights"), "{name}: {error}");
    }
    let mut acl = cmd("ACL");
    acl.arg("SETUSER").arg("locks").arg("on").arg(">secret").arg("~{onelane:*").arg("&{onelane:*");
    let commands = "hello client info evalsha script|load get set del pttl pexpire time publish subscribe unsubscribe \
                    pubsub|numsub";
    acl.arg(commands.split(' ').map(|name| format!("+{name}")).collect::<Vec<_>>());
    acl.exec(&mut server.connect()).unwrap();
    connected(&server.url.replace("//", "//locks:secret@")).await;
    assert_eq!(count_keys(&server), 0, "the check of rights leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_is_a_clear_error() {
    let mut server = RedisServer::start();
    server.kill();
    let error = connect_error(store(&server.url)).await;
    assert!(error.contains("can't be reached: check that it runs, and its address"), "{error}");

    let running = RedisServer::start();
    let proxy = Proxy::start(running.address()).await;
    proxy.disturb(Disturbance::Silent);
    let error = connect_error(store(&format!("redis://{}", proxy.address))).await;
    assert!(error.contains("did not answer within"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_instead_of_a_server_is_a_clear_error_and_so_is_the_reverse() {
    let server = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let error = connect_error(store(&server.url)).await;
    assert!(error.contains("is part of a cluster: use Redis::cluster"), "{error}");

    let server = RedisServer::start();
    let error = connect_error(Redis::cluster([Client::open(&*server.url).unwrap()]).lease(LEASE)).await;
    assert!(error.contains("is not part of a cluster: use Redis::new"), "{error}");
    let error = connect_error(Redis::cluster([])).await;
    assert!(error.contains("needs the address of at least one server"), "{error}");
}
