//! Keys that are used once leave nothing behind: no byte in the process, in files or in the store.

use std::env;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use onelane::backend::Host;
use redis::cmd;
use support::counting::live_bytes_of_all;
use support::postgres::PostgresServer;
use support::redis::RedisServer;
use support::runtimes::multi_thread;
use tokio::time::sleep;

use super::host::TestDirectory;
use super::stores::process;
use super::{PATIENCE, postgres, redis as redis_tests};

/// The store of the process that a test starts, and how many keys it uses.
const STORE: &str = "ONELANE_TEST_STORE";
const KEYS: &str = "ONELANE_TEST_KEYS";

/// Less than a byte for each key. The memory of connections and tables varies by a few kilobytes.
const NOISE: isize = 20_000;

/// Uses keys in another process, in which nothing else allocates memory.
fn use_keys_once(store: &str, count: usize) {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "many_keys::program_of_these_tests", "--nocapture"])
        .envs([(STORE, store), (KEYS, &count.to_string())])
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
fn keys_of_a_host_leave_nothing() {
    let directory = TestDirectory::new();
    use_keys_once(&format!("host {}", directory.0.display()), 100_000);
    let mut files: Vec<_> = fs::read_dir(&directory.0)
        .unwrap()
        .map(Result::unwrap)
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len()))
        .collect();
    files.sort();
    assert_eq!(files, [("shop.user.locks".to_owned(), 0), ("shop.user.tokens".to_owned(), 24)]);
}

#[test]
fn keys_in_redis_leave_nothing() {
    let server = RedisServer::start();
    use_keys_once(&format!("redis {}", server.url), 100_000);
    let mut redis = server.connect();
    let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut redis).unwrap();
    assert_eq!(keys, ["{onelane:shop:user}:fence"]);
    let channels: Vec<String> = cmd("PUBSUB").arg("CHANNELS").query(&mut redis).unwrap();
    assert!(channels.is_empty(), "{channels:?}");
}

/// This test uses fewer keys, because each key takes two transactions.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_postgres_leave_nothing() {
    keys_in_postgres(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_hundred_thousand_keys_in_postgres_leave_nothing() {
    keys_in_postgres(100_000).await;
}

async fn keys_in_postgres(count: usize) {
    let server = PostgresServer::start().await;
    let store = format!("postgres {}", server.settings());
    tokio::task::spawn_blocking(move || use_keys_once(&store, count)).await.unwrap();
    let client = server.connect().await;
    assert_eq!(postgres::count_rows(&client).await, 0);
    // Deleted rows still take space until the server has cleaned up.
    client.batch_execute("VACUUM onelane_locks").await.unwrap();
    let size = client.query_one("SELECT pg_relation_size('onelane_locks')", &[]).await.unwrap();
    assert_eq!(size.get::<_, i64>(0), 0);
}

/// Does nothing unless a test above starts it in a child process.
#[test]
fn program_of_these_tests() {
    let Ok(store) = env::var(STORE) else { return };
    let count: usize = env::var(KEYS).unwrap().parse().unwrap();
    let (kind, place) = store.split_once(' ').unwrap();
    multi_thread(2).block_on(async {
        let process = match kind {
            "host" => process(Host::new(place)).await,
            "redis" => process(redis_tests::store(place)).await,
            _ => process(postgres::store(place)).await,
        };
        // After the warm-up, tables have the size that the number of tasks requires.
        let warm_up = count / 10;
        process.use_keys(0..warm_up).await;
        let before = live_bytes_of_all();
        process.use_keys(warm_up..count).await;
        assert!(process.keyed.is_empty());
        let began = Instant::now();
        loop {
            let left = live_bytes_of_all() - before;
            if left < NOISE {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{left} bytes are left");
            sleep(Duration::from_millis(100)).await;
        }
    });
}
